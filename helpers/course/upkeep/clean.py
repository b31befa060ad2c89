"""`python -m helpers clean`: give back the disk that runs took, and keep what people made."""

from __future__ import annotations

import shutil
from pathlib import Path

from helpers.errors import UserError, no_saving
from helpers.paths import ROOT

CACHES = (".pytest_cache", ".ruff_cache", "tests/artefacts", "build", "dist")
PROGRAMS = ("helpers", "tests", "data", "benchmarks")  # with a `__pycache__` in every folder


def clean(everything: bool = False, root: Path = ROOT) -> int:
    """Remove caches, executed notebooks and stages that are made again in minutes; 0.

    Ratings and the environment stay. So do the stages of other profiles than `embedded`, which may
    have taken hours, unless `everything` is asked for; they are named with their size.

    Raises:
        UserError: something cannot be removed.
    """
    stages = [p for p in sorted((root / "artifacts").glob("*")) if p.is_dir()]
    kept = [] if everything else [p for p in stages if p.name != "embedded"]
    gone = [p for p in stages if p not in kept]
    gone += [root / name for name in ("runs", *CACHES) if (root / name).is_dir()]
    gone += [p for name in PROGRAMS for p in sorted((root / name).rglob("__pycache__"))]
    total = 0
    for folder in gone:
        size = size_of(folder)
        total += size
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise UserError(no_saving(folder, error)) from error
        if folder.name != "__pycache__":
            print(f"removed  {_megabytes(size)}  {folder.relative_to(root).as_posix()}/")
    for folder in kept:
        print(f"kept     {_megabytes(size_of(folder))}  {folder.relative_to(root).as_posix()}/ "
              "(--all removes it too)")
    for name, what in (("ratings", "what people said"), (".venv", "the environment")):
        if (root / name).exists():
            print(f"kept     {_megabytes(size_of(root / name))}  {name}/ ({what})")
    print(f"{_megabytes(total).strip()} are free again.")
    return 0


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; links count as nothing."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:8,.1f} MB"
