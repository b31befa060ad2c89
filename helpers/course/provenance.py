"""What made an output: the processor with its libraries, and the code. Each as a short hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

from helpers.paths import DATA, ROOT

CPU = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "cache size")
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "transformers", "trl", "peft", "tokenizers")
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS",
             "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
CODE = {".py", ".yaml", ".txt"}


def machine() -> str:
    """Hash of all that decides the last bits of a result: processor, cores, libraries, threads.

    Where two runs have the same one, the same code gives the same numbers, times aside. A hash
    that differs says nothing: the numbers may still be the same.
    """
    parts = [platform.machine(), platform.python_version(), str(os.cpu_count())]
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
    except OSError:  # another system than Linux
        parts.append(platform.processor())
    else:
        parts += [line for line in first.splitlines() if line.split("\t")[0].strip() in CPU]
    for name in LIBRARIES:
        try:
            parts.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"no {name}")
    return _short([*parts, *(f"{name}={os.environ.get(name)}" for name in VARIABLES)])


def code() -> str:
    """Hash of the code and the data that notebooks run on; their own cells are not in it."""
    parts = []
    places = (ROOT / "helpers", DATA, ROOT / "benchmarks" / "results")
    for path in sorted(path for place in places for path in place.rglob("*") if path.is_file()):
        if path.suffix in CODE or ("helpers" not in path.parts and path.suffix != ".pyc"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            parts.append(f"{path.relative_to(ROOT).as_posix()} {digest}")
    return _short(parts)


def _short(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
