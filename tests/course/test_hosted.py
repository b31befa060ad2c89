"""A notebook in somebody else's session: the first cell finds the course, installs what lacks."""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from helpers.course import doctor, execute, hosted
from helpers.course.upkeep import lint, opening, sync
from helpers.errors import UserError
from helpers.paths import ROOT


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository with as much of the course as the first cell needs."""
    folder = tmp_path_factory.mktemp("far") / "rlhf-notebooks"
    folder.mkdir()
    shutil.copytree(ROOT / "helpers", folder / "helpers",
                    ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c",
                                                   "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def run_first_cell(folder: Path, address: str = "") -> subprocess.CompletedProcess:
    code = opening.cell(address) + "\nprint(hosted.__file__)"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def course_of(done: subprocess.CompletedProcess) -> Path:
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1]).parents[2].resolve()


@pytest.mark.parametrize("inside", [".", "notebooks", "notebooks/deeper"])
def test_the_first_cell_finds_the_copy_it_stands_in(clone, inside, tmp_path):
    copy = shutil.copytree(clone, tmp_path / "copy")
    (copy / inside).mkdir(parents=True, exist_ok=True)
    assert course_of(run_first_cell(copy / inside, "nowhere")) == copy.resolve()


def test_the_first_cell_finds_a_copy_beside_the_notebook(clone, tmp_path):
    shutil.copytree(clone, tmp_path / "my copy")
    assert course_of(run_first_cell(tmp_path, "nowhere")) == (tmp_path / "my copy").resolve()


def test_a_notebook_that_stands_alone_clones_the_course_once(clone, tmp_path):
    first = course_of(run_first_cell(tmp_path, str(clone)))
    assert first == (tmp_path / "rlhf-course").resolve()
    assert course_of(run_first_cell(tmp_path, "nowhere")) == first


@pytest.mark.parametrize("top", ["rlhf-notebooks-main/", ""])
def test_an_uploaded_zip_is_unpacked(clone, top, tmp_path):
    subprocess.run(["git", "archive", "-o", str(tmp_path / "rlhf-notebooks-main.zip"),
                    *([f"--prefix={top}"] if top else []), "HEAD"], cwd=clone, check=True)
    (tmp_path / "my data.zip").write_bytes(b"not the course's business")
    assert course_of(run_first_cell(tmp_path, "nowhere")) == (tmp_path / top).resolve()


def test_without_any_copy_the_first_cell_says_what_to_do(tmp_path):
    done = run_first_cell(tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("Open this notebook inside a copy")


# --- what is installed


def versions(monkeypatch, **installed):
    def version(name):
        if name in installed:
            return installed[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)


def test_what_is_missing_or_too_old_is_wanted_and_any_pytorch_kept(monkeypatch):
    versions(monkeypatch, torch="2.6.0+cu124", datasets="4.0.0", trl="0.9.6")
    ranges = {"torch": ">=2.11", "datasets": ">=4.0", "trl": ">=1.12,<1.13", "peft": ">=0.18"}
    assert hosted.missing(ranges) == ["trl>=1.12,<1.13", "peft>=0.18"]
    versions(monkeypatch)
    assert hosted.missing({"torch": ">=2.11"}) == ["torch>=2.11"]


def test_colab_as_it_is_lacks_a_few_packages_and_nothing_else_is_replaced(monkeypatch):
    versions(monkeypatch, torch="2.11.0+cu128", transformers="5.15.0", datasets="4.0.0",
             numpy="2.1.3", ipywidgets="7.7.1", ipykernel="6.17.1")
    wanted = hosted.missing(doctor.ranges(extras=hosted.EXTRAS))
    named = {text.split(">")[0] for text in wanted}
    assert "trl" in named and "bitsandbytes" in named
    assert "datasets" in named  # Colab's is older than what TRL takes
    assert not named & {"torch", "transformers", "numpy", "ipywidgets", "ipykernel"}
    assert not named & {"pytest", "jupyterlab"}


@pytest.fixture
def pip(monkeypatch):
    """A hosted session that lacks trl; records what pip is called with, and answers as told."""
    calls = []

    def run(command, **_):
        held = Path(command[command.index("--constraint") + 1]).read_text(encoding="utf-8")
        calls.append((command, held))
        pip.effect()
        return subprocess.CompletedProcess(command, pip.status, "", pip.error)

    pip.calls, pip.status, pip.error, pip.effect = calls, 0, "", lambda: None
    monkeypatch.setattr(hosted, "is_hosted", lambda: True)
    monkeypatch.setattr(hosted, "missing", lambda ranges: ["trl>=1.12,<1.13"])
    monkeypatch.setattr(hosted.subprocess, "run", run)
    return pip


def pip_that_must_not_run(*_, **__):
    raise AssertionError("pip was called")


def test_at_home_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(hosted.subprocess, "run", pip_that_must_not_run)
    monkeypatch.setattr(hosted, "missing", lambda ranges: ["trl"])
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    hosted.prepare()


def test_a_complete_session_is_left_alone(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setattr(hosted, "missing", lambda ranges: [])
    monkeypatch.setattr(hosted.subprocess, "run", pip_that_must_not_run)
    hosted.prepare()


def test_what_lacks_is_installed_and_pytorch_is_held_where_it_is(pip, capsys):
    hosted.prepare()
    [(command, held)] = pip.calls
    assert command[-1] == "trl>=1.12,<1.13" and "only-if-needed" in command
    assert held == f"torch=={metadata.version('torch')}\n"
    assert "trl" in capsys.readouterr().out


def test_a_pip_that_fails_is_one_sentence(pip):
    pip.status, pip.error = 1, "WARNING: old pip\n\nERROR: No matching distribution for trl\n"
    with pytest.raises(UserError, match="could not install.*No matching distribution for trl$"):
        hosted.prepare()


def test_a_loaded_package_that_was_replaced_asks_for_a_restart(pip, monkeypatch):
    known = metadata.version
    pip.effect = lambda: monkeypatch.setattr(
        metadata, "version", lambda name: "99" if name == "pytest" else known(name))
    with pytest.raises(UserError, match="^pytest was loaded already.*restart the session"):
        hosted.prepare()


# --- one text for all notebooks


def test_every_notebook_begins_with_the_cell_that_sync_writes():
    for path in execute.notebooks().values():
        cells = [c for c in execute.read_notebook(path)["cells"] if c["cell_type"] == "code"]
        assert "".join(cells[0]["source"]) == opening.cell(opening.address()), path.name


@pytest.mark.parametrize("where", [
    "https://github.com/someone/rlhf", "https://github.com/someone/rlhf.git"])
def test_the_badge_opens_this_notebook_and_is_written_once(where):
    text = "# 03 · Title\n\nWhat it is about."
    found = opening.with_badge(text, where, "03_title.ipynb")
    assert found.startswith("# 03 · Title\n\n[![Open in Colab](") and found.endswith(
        "/github/someone/rlhf/blob/main/notebooks/03_title.ipynb)\n\nWhat it is about.")
    assert opening.with_badge(found, where, "03_title.ipynb") == found
    assert opening.with_badge(found, "", "03_title.ipynb") == text
    assert opening.with_badge(text, "https://example.org/rlhf.git", "03_title.ipynb") == text


def test_an_address_reaches_all_notebooks_by_sync_and_lint_misses_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_NOTEBOOKS", str(tmp_path))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))[:2]:
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(opening, "address", lambda: "https://github.com/someone/rlhf")
    paths = sorted(tmp_path.glob("*.ipynb"))
    assert all("the first cell or the badge differs; use `python -m helpers sync`"
               in lint.notebook_problems(path) for path in paths)
    sync.sync()
    for path in paths:
        assert not [text for text in lint.notebook_problems(path) if "badge" in text]
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert "colab-badge.svg" in "".join(cells[0]["source"])
        assert 'repository = "https://github.com/someone/rlhf"' in "".join(
            next(c for c in cells if c["cell_type"] == "code")["source"])
