"""`python -m helpers regress`: what the notebooks give now, against what is stored in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from helpers.course import execute, provenance, runner
from helpers.course.upkeep import results
from helpers.errors import UserError
from helpers.paths import ROOT, child_environment
from helpers.profiles import load_profile


def regress(numbers: str | None = None, again: bool = False) -> int:
    """Compare the notebooks' outputs with those of a run; returns the exit status, 0 when alike.

    The run is the last `make course`, if code, data and cells are still those that it ran, and
    otherwise, or with `again`, a new one. nbval reports, and what was compared is written to
    `runs/regress/summary.json`.

    Raises:
        UserError: a notebook has no stored outputs, so that nothing would be compared.
    """
    paths = runner.choose(None, numbers)
    for path in paths:
        missing = unexecuted(execute.read_notebook(path))
        if missing:
            raise UserError(
                f"{path.name}: {missing}, so nothing would be compared; run "
                f"`python -m helpers refresh {path.name[:2]}` first."
            )
    reason = "asked for" if again else outdated(paths)
    if reason is None:
        return _compare(paths, load_profile("embedded").runs)
    print(f"The notebooks are run anew ({reason}).", flush=True)
    with tempfile.TemporaryDirectory() as out:
        status = runner.run(paths, overrides={"out": out})
        return status or _compare(paths, load_profile("embedded", {"out": out}).runs)


def _compare(paths: list[Path], runs: Path) -> int:
    """Let nbval compare; its plugin takes from `runs` what a kernel would give it."""
    report = load_profile("embedded").runs.parent / "regress" / "summary.json"
    command = [
        sys.executable, "-m", "pytest", "-p", "nbval_numbers", "-p", "no:cacheprovider", "-q",
        "--executed", str(runs), "--report", str(report), "--rootdir", str(ROOT), *map(str, paths),
    ]
    env = child_environment()
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), env["PYTHONPATH"]])
    report.unlink(missing_ok=True)
    status = subprocess.run(command, cwd=ROOT, env=env).returncode
    if report.is_file():
        show(json.loads(report.read_text(encoding="utf-8")))
    return status


def show(summary: dict[str, Any]) -> None:
    """Print what was compared, a line for every notebook and one for all."""
    print(f"\n{'':<38}{'cells with output':>18}{'compared':>10}{'by shape':>10}{'numbers':>9}")
    for name, row in [*summary["notebooks"].items(), ("all", summary)]:
        print(f"{name:<38}{row['cells_with_output']:>18}{row['compared']:>10}"
              f"{row['by_shape']:>10}{row['numbers']:>9}")


def outdated(paths: list[Path]) -> str | None:
    """Why the last `make course` does not say what these notebooks give now; None if it does."""
    try:
        ran = results.default_run()
    except UserError as error:
        return str(error).split(";", 1)[0]
    runs, code = load_profile("embedded").runs, provenance.code()
    for path in paths:
        row = ran.get(path.stem, {})
        if not row or not (runs / path.name).is_file():
            return f"{path.stem} has not been run"
        if row.get("code") != code:
            return f"code or data have changed since {path.stem} was run"
        if execute.sources(execute.read_notebook(path)) != execute.sources(
                execute.read_notebook(runs / path.name)):
            return f"{path.stem} has changed since it was run"
    return None


def unexecuted(content: dict[str, Any]) -> str | None:
    """Why nothing would be compared in this notebook, or None."""
    cells = [c for c in content["cells"] if c["cell_type"] == "code"]
    code = [c for c in cells if execute.first_line(c["source"])]
    bare = sum(cell.get("execution_count") is None for cell in code)
    if bare:
        return f"{bare} of {len(code)} code cells were never executed"
    if not any(cell["outputs"] for cell in code):
        return "no cell has an output"
    return None
