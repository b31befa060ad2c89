"""What made an output: the processor with its libraries, and the code. Each as a short hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

from helpers.paths import DATA, ROOT

# Of /proc/cpuinfo, what differs between the cores of a processor or from one moment to the next.
VOLATILE = {"processor", "cpu mhz", "bogomips", "apicid", "initial apicid", "core id",
            "physical id", "siblings", "cpu cores"}
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "transformers", "trl", "peft", "tokenizers")
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS",
             "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
NOT_CODE = {".pyc", ".part"}


def machine() -> str:
    """Hash of all that decides the last bits of a result: processor, cores, libraries, threads.

    Where two runs have the same one, the same code gives the same numbers, times aside. A hash
    that differs says nothing: the numbers may still be the same. Where the system does not say
    enough of its processor (elsewhere than on Linux), only the very same computer counts.
    """
    parts = [platform.machine(), platform.python_version(), str(os.cpu_count())]
    try:
        parts += lasting(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        parts += [platform.processor(), platform.node()]
    for name in LIBRARIES:
        try:
            parts.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"no {name}")
    return _short([*parts, *(f"{name}={os.environ.get(name)}" for name in VARIABLES)])


def lasting(cpuinfo: str) -> list[str]:
    """What Linux says of the first core, without what is only of that core or that moment."""
    return [line for line in cpuinfo.split("\n\n", 1)[0].splitlines()
            if line.partition(":")[0].strip().lower() not in VOLATILE]


def code() -> str:
    """Hash of the code and the data that notebooks run on; their own cells are not in it."""
    places = (ROOT / "helpers", DATA, ROOT / "benchmarks" / "results")
    files = sorted(path for place in places for path in place.rglob("*")
                   if path.is_file() and path.suffix not in NOT_CODE)
    return _short([f"{path.relative_to(ROOT).as_posix()} "
                   f"{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files])


def _short(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
