"""`python -m helpers clean`: give back the disk that runs took, and keep what people made."""

from __future__ import annotations

import shutil
from pathlib import Path

from helpers.errors import UserError, no_saving
from helpers.paths import ROOT
from helpers.profiles import MINUTES

CACHES = (".pytest_cache", ".ruff_cache", "tests/artefacts", "build", "dist")
SAID = ("feedback", "labels", "chat")  # folders below runs/ that hold what people said
PROGRAMS = ("helpers", "tests", "data", "benchmarks")  # with a `__pycache__` in every folder


def clean(everything: bool = False, root: Path = ROOT) -> int:
    """Remove caches, executed notebooks and stages that are made again in minutes; 0.

    Ratings and the environment stay. So do the stages of profiles other than `embedded` and
    `quick`, which may have taken hours, unless `everything` is asked for; they are named with
    their size.

    Raises:
        UserError: something cannot be removed.
    """
    stages = [p for p in sorted((root / "artifacts").glob("*")) if p.is_dir()]
    kept = [] if everything else [p for p in stages if p.name not in MINUTES]
    gone = [p for p in stages if p not in kept]
    said = [p for p in (root / "runs").rglob("*") if p.is_dir() and p.name in SAID]
    gone += _without(root / "runs", said)
    gone += [root / name for name in CACHES if (root / name).is_dir()]
    gone += [p for name in PROGRAMS for p in sorted((root / name).rglob("__pycache__"))]
    total = 0
    for folder in gone:
        size = size_of(folder)
        total += size
        try:
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
            else:
                folder.unlink()
        except OSError as error:
            raise UserError(no_saving(folder, error)) from error
        if folder.name != "__pycache__":
            print(f"removed  {_megabytes(size)}  {folder.relative_to(root).as_posix()}"
                  f"{'/' if folder.suffix == '' else ''}")
    for folder in kept:
        print(f"kept     {_megabytes(size_of(folder))}  {folder.relative_to(root).as_posix()}/ "
              "(--all removes it too)")
    for folder, what in (*((p, "what people said") for p in (*said, root / "ratings")),
                         (root / ".venv", "the environment")):
        if folder.exists():
            print(f"kept     {_megabytes(size_of(folder))}  "
                  f"{folder.relative_to(root).as_posix()}/ ({what})")
    print(f"{_megabytes(total).strip()} are free again.")
    return 0


def _without(folder: Path, kept: list[Path]) -> list[Path]:
    """The largest parts of a folder that hold none of `kept`."""
    if folder in kept or not folder.exists():
        return []
    if not any(path.is_relative_to(folder) for path in kept):
        return [folder]
    return [part for path in sorted(folder.iterdir()) for part in _without(path, kept)]


def size_of(folder: Path) -> int:
    """Bytes of a file or of all files below a folder; links count as nothing."""
    if folder.is_symlink() or folder.is_file():
        return folder.lstat().st_size
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:8,.1f} MB"
