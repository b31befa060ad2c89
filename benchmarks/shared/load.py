"""Other work on the machine, for what is measured on a busy one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

WORK = "import torch; torch.set_num_threads(1); a = torch.ones(700, 700)\nwhile True: a @ a"


@contextlib.contextmanager
def other_work(wanted: bool) -> Iterator[None]:
    """Keep every core busy beside what runs inside the block."""
    begun = [subprocess.Popen([sys.executable, "-c", WORK])
             for _ in range(os.cpu_count() or 1)] if wanted else []
    try:
        yield
    finally:
        for process in begun:
            process.kill()
            process.wait()
