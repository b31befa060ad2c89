"""Where the course's own files are, and how a child process finds them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


def child_environment(**more: str) -> dict[str, str]:
    """This process's variables for a child that has to find this very copy of the course.

    Its threads spin only briefly while they wait for each other, and then sleep: by default they
    spin for long, and where something else wants the cores, each waits for one that is not let
    run. That costs some speed on an idle machine and saves much more on a busy one
    (`benchmarks/waiting.py`). What the reader has set is left as it is.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"GOMP_SPINCOUNT": "1000", **os.environ, "PYTHONPATH": path, **more}


def sweep(folder: Path, pattern: str) -> None:
    """Remove what runs that were killed left unfinished in a folder: `….PID.part` and `….PID.old`.

    pattern: which names to look at. What belongs to a process that still runs stays.
    """
    import psutil

    for left in folder.glob(pattern):
        pid = left.name.split(".")[-2]
        if left.suffix in (".part", ".old") and pid.isdigit() and not psutil.pid_exists(int(pid)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
