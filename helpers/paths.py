"""Where the course's own files are, and how a child process finds them."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


def child_environment(**more: str) -> dict[str, str]:
    """This process's variables for a child that has to find this very copy of the course.

    Its threads sleep while they wait for each other, unless the reader has said otherwise: by
    default they spin, and where something else wants the cores, each waits for one that is not
    let run (`benchmarks/waiting.py`).
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path, **more}
