"""The course's own environment, `.venv`: made when it is missing or stale, never by half.

Only the standard library is used here, so that a bare Python 3.11 can start the course.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.errors import UserError
from helpers.paths import ROOT, child_environment

VENV = ROOT / ".venv"
STAMP = VENV / "installed.json"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
PIP = "pip>=25.1"  # the first that installs the groups of pyproject.toml
INPUTS = ("requirements.txt", "pyproject.toml")


def python_of(venv: str | Path) -> Path:
    """The interpreter of a virtual environment, on Windows too."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return Path(venv) / folder / name


def wanted(version: str, root: str | Path = ROOT) -> str:
    """A hash of all that decides what has to be installed."""
    total = hashlib.sha256(version.encode())
    for name in INPUTS:
        total.update((Path(root) / name).read_bytes().replace(b"\r\n", b"\n"))
    return total.hexdigest()


def is_current() -> bool:
    """Whether `.venv` was installed to its end from the present lists of packages."""
    stamp, version = _stamp(), version_of(python_of(VENV))
    return version is not None and stamp.get("hash") == wanted(version)


def ensure(cpu: bool | None = None) -> None:
    """Make `.venv` or bring it up to date; the stamp is written last.

    Args:
        cpu: True takes PyTorch's CPU wheels, False plain ones, None what was taken before.

    Raises:
        UserError: no venv module, or pip failed.
    """
    before = bool(_stamp().get("cpu"))
    cpu = before if cpu is None else cpu
    if cpu == before and is_current():
        return
    python = python_of(VENV)
    if version_of(python) is None:
        if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
            raise UserError(
                "This Python has no venv module, which the course's environment needs; install it "
                "(on Debian and Ubuntu: `apt install python3-venv`) and run the same command again."
            )
        print(f"Making {VENV.name} with Python {sys.version.split()[0]} …", flush=True)
        _call([sys.executable, "-m", "venv", "--clear", str(VENV)],
              f"{VENV.name} could not be made (the reason stands above); is the disk full?")
    STAMP.unlink(missing_ok=True)
    print("Installing the packages of requirements.txt; the first time takes minutes and "
          "gigabytes …", flush=True)
    wheels = ["--extra-index-url", CPU_WHEELS] if cpu else []
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    failed = (
        "pip could not install the course's packages (its message stands above); check the network "
        "and the room on the disk, and run the same command again, it goes on where it stopped."
    )
    _call([*pip, "--quiet", PIP], failed)
    _call([*pip, "--quiet", *wheels, "-r", str(ROOT / "requirements.txt")], failed)
    _call([*pip, "--quiet", "--no-deps", "-e", str(ROOT)], failed)
    version = version_of(python)
    assert version is not None  # pip has just run on it
    STAMP.write_text(json.dumps({"hash": wanted(version), "python": version, "cpu": cpu}) + "\n")


def _call(command, message):
    # The children's own messages go straight to the terminal.
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode:
        raise UserError(message)


def _stamp():
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def version_of(python: str | Path) -> str | None:
    """The version an interpreter reports; None when it does not run."""
    if not Path(python).exists():
        return None
    code = "import sys; print(sys.version.split()[0], sys.platform)"
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def inside() -> bool:
    return Path(sys.prefix).resolve() == VENV.resolve()


def again(argv: Sequence[str]) -> int:
    """The same command under the environment's own Python."""
    command = [str(python_of(VENV)), "-m", "helpers", *argv]
    if os.name == "posix":
        os.execve(command[0], command, child_environment())
    return subprocess.run(command, env=child_environment()).returncode
