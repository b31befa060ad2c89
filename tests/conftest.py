"""What all tests share: a quiet, offline process, and where real data are found."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# set before torch or the hub's client is imported by any test
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RLHF_NO_PROGRESS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ["RLHF_NO_VENV"] = "1"  # commands started by a test run in the test's environment


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, skipping the test where there is none."""
    folder = Path(os.environ.get("RLHF_REAL_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "imdb").is_dir():
        pytest.skip("needs real data: set RLHF_REAL_DATA to a folder with imdb/ and hh-rlhf/")
    return folder


@pytest.fixture
def notebook_tree(tmp_path, monkeypatch):
    """An empty folder of notebooks that the course takes for its own; returns a maker for it."""
    import nbformat

    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setenv("RLHF_NOTEBOOKS", str(folder))

    def make(name: str, *cells: str, parameters: str | None = None) -> Path:
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3",
                                   "language": "python"}}
        notebook = nbformat.v4.new_notebook(metadata=metadata)
        first = parameters or 'profile = "embedded"\noverrides = {}\nseed = 0'
        notebook.cells = [
            nbformat.v4.new_markdown_cell(f"# {name[:2]} · A test"),
            nbformat.v4.new_code_cell(first, metadata={"tags": ["parameters"]}),
            *map(nbformat.v4.new_code_cell, cells),
        ]
        nbformat.write(notebook, folder / f"{name}.ipynb")
        return folder / f"{name}.ipynb"

    make.folder = folder
    return make


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function of a family's name: the folder of its tiny model, made once in a file of tests."""
    from families import make_family

    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = make_family(name, tmp_path_factory.mktemp(name))
        return folders[name]

    return folder
