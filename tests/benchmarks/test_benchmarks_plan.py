"""The plan of benchmarks/: no script imports another, and what they share imports none of them."""

import ast
import shutil

import pytest

from helpers.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


def imported(path):
    """Dotted names that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports by dots hide where they go"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports_of_scripts(folder):
    """Pairs of a file of the folder and the script beside or above it that it imports."""
    scripts = {path.stem for path in folder.glob("*.py")}
    found = set()
    for path in [*folder.glob("*.py"), *(folder / "shared").rglob("*.py")]:
        rooms = {name.removeprefix("benchmarks.").partition(".")[0] for name in imported(path)}
        found |= {(path.relative_to(folder).as_posix(), script) for script in rooms & scripts}
    return found


def test_nothing_imports_a_script():
    assert {"store.py", "reward_bench.py"} <= {path.name for path in BENCHMARKS.glob("shared/*.py")}
    assert imports_of_scripts(BENCHMARKS) == set()


@pytest.mark.parametrize("where, line, script", [
    ("ppo_long.py", "import ppo_frontier", "ppo_frontier"),
    ("more_pairs.py", "    from reward_curves import Bench", "reward_curves"),
    ("backbones.py", "from benchmarks import more_pairs", "more_pairs"),
    ("shared/imdb_task.py", "import benchmarks.ppo as bench", "ppo"),
    ("shared/store.py", "from benchmarks.control import run", "control"),
])
def test_an_import_of_a_script_is_found_in_any_form(tmp_path, where, line, script):
    folder = tmp_path / "benchmarks"
    shutil.copytree(BENCHMARKS, folder, ignore=shutil.ignore_patterns("results", "__pycache__"))
    broken = folder / where
    inside = "\ndef late():\n" if line.startswith(" ") else "\n"
    broken.write_text(broken.read_text(encoding="utf-8") + f"{inside}{line}\n", encoding="utf-8")
    assert imports_of_scripts(folder) == {(where, script)}
