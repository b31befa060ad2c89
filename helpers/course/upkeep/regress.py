"""`python -m helpers regress`: run the notebooks again, compare their text with the stored one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.course import execute, runner
from helpers.errors import UserError
from helpers.paths import ROOT, child_environment

CELL_SECONDS = 1800


def regress(numbers: str | None = None) -> int:
    """Run nbval over the notebooks and return its exit status.

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
    command = [
        sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env",
        "--nbval-cell-timeout", str(CELL_SECONDS), "-p", "no:cacheprovider", "-q",
        *sanitise(ROOT), *map(str, paths),
    ]
    env = child_environment(RLHF_NO_PROGRESS="1", JUPYTER_PREFER_ENV_PATH="1",
                            PYDEVD_DISABLE_FILE_VALIDATION="1")
    return subprocess.run(command, cwd=ROOT, env=env).returncode


def sanitise(root: Path) -> list[str]:
    """The option that names nbval's sanitiser file."""
    return ["--nbval-sanitize-with", str(root / "tests" / "nbval_sanitize.cfg")]


def unexecuted(content: dict[str, Any]) -> str | None:
    """Why nbval would compare nothing in this notebook, or None.

    nbval passes a notebook that was never executed without a word.
    """
    cells = [c for c in content["cells"] if c["cell_type"] == "code"]
    code = [c for c in cells if execute.first_line(c["source"])]
    bare = sum(cell.get("execution_count") is None for cell in code)
    if bare:
        return f"{bare} of {len(code)} code cells were never executed"
    compared = [c for c in code if not {"nbval-skip", "nbval-ignore-output"}
                & set(c["metadata"].get("tags", []))]
    if not any(cell["outputs"] for cell in compared):
        return "no cell that nbval compares has an output"
    return None
