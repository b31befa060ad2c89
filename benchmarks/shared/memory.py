"""Memory measured in a process that does nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def out_of_file(model: Any) -> Any:
    """Copy a model's weights out of the file that they were read from, in place.

    Of a file that is mapped, all pages that were read count as resident for as long as one of its
    tensors is used, those of matrices that were packed into four bits since as well. The system
    can take them back at any time: they are not needed.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.clone()
    return model


def measure_alone(script: str, *arguments: Any) -> Any:
    """Run a script on its own and return what its last line says in JSON.

    Under glibc it gives freed memory back at once, so that what it holds is what it needs. If it
    fails, this process ends with the last of what it wrote to standard error.
    """
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True,
        check=False, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"})
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])
