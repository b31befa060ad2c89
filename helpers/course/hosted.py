"""A notebook in a hosted session such as Colab: what is missing is installed, what is there stays.

Only the standard library is used here, so that a session without the course's packages can start.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from helpers.course import doctor
from helpers.errors import UserError

KEPT = ("torch",)  # comes with the session's driver: gigabytes, and another one may not fit it
EXTRAS = ("qlora",)  # of pyproject.toml: what notebooks need on a GPU


def is_hosted() -> bool:
    """Whether this is a session that somebody else set up: Colab, or Kaggle."""
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return True
    try:
        return importlib.util.find_spec("google.colab") is not None
    except ModuleNotFoundError:  # no package `google` at all
        return False


def missing(ranges: dict[str, str]) -> list[str]:
    """The requirements that this Python does not meet, such as `trl>=1.12,<1.13`.

    Args:
        ranges: accepted versions by package name; `doctor.ranges()`.
    """
    found = []
    for name, spec in ranges.items():
        version = _version(name)
        if version is None or name not in KEPT and not doctor.admits(spec, version):
            found.append(name + spec)
    return found


def prepare() -> None:
    """Install what a hosted session lacks; elsewhere do nothing.

    Packages that are there in a version the course accepts are left alone, PyTorch in any.

    Raises:
        UserError: pip could not install; or what this session had loaded already was replaced, so
            that it must be started again.
    """
    if not is_hosted():
        return
    wanted = missing(doctor.ranges(extras=EXTRAS))
    if not wanted:
        return
    print("Installing", ", ".join(wanted))
    before = _loaded()
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "constraints.txt"
        held.write_text("".join(f"{name}=={version}\n" for name in KEPT
                                if (version := _version(name))), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade-strategy",
                   "only-if-needed", "--constraint", str(held), *wanted]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError("pip could not install what the notebook needs: "
                        f"{said[-1] if said else 'it gave no reason'}")
    importlib.invalidate_caches()
    replaced = sorted(name for name, version in before.items() if _version(name) != version)
    if replaced:
        raise UserError(f"{', '.join(replaced)} was loaded already and is now another version: "
                        "restart the session (Runtime > Restart session) and run this cell again.")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _loaded() -> dict[str, str | None]:
    """Installed packages with a module that this process has imported, and their versions."""
    tops = {name.partition(".")[0] for name in sys.modules}
    owners = metadata.packages_distributions()
    return {name: _version(name) for top in tops for name in owners.get(top, ())}
