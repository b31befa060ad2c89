"""Make `.venv` when it is missing or stale, and run the command under it.

Only the standard library is used here, so that a bare Python 3.11 can start the course.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.json"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
INPUTS = ("requirements.txt", "pyproject.toml")


def main(argv):
    """Run a command of the course and return its exit status."""
    from helpers.course import cli

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that lacks a letter shows "?"
    try:
        arguments = cli.parse(argv)
        if arguments.command == "doctor":
            status = _best_python(argv)
            return cli.run(arguments) if status is None else status
        if os.environ.get("RLHF_NO_VENV"):
            if arguments.command == "setup":
                print("RLHF_NO_VENV is set: this Python's own environment is used as it is.")
                return 0
            return cli.run(arguments)
        ensure(cpu=getattr(arguments, "cpu", None))
        if arguments.command == "setup":
            print(f"The environment is ready: {VENV.name} ({_version(python_of(VENV))}).")
            return 0
        return cli.run(arguments) if _inside() else _again(argv)
    except cli.UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def python_of(venv):
    """The interpreter of a virtual environment, on Windows too."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return Path(venv) / folder / name


def wanted(version, root=ROOT):
    """A hash of all that decides what has to be installed."""
    total = hashlib.sha256(version.encode())
    for name in INPUTS:
        total.update((Path(root) / name).read_bytes().replace(b"\r\n", b"\n"))
    return total.hexdigest()


def is_current():
    """Whether `.venv` was installed to its end from the present lists of packages."""
    stamp, version = _stamp(), _version(python_of(VENV))
    return version is not None and stamp.get("hash") == wanted(version)


def ensure(cpu=None):
    """Make `.venv` or bring it up to date; the stamp is written last.

    Args:
        cpu: True takes PyTorch's CPU wheels, False plain ones, None what was taken before.

    Raises:
        UserError: no venv module, or pip failed.
    """
    from helpers.errors import UserError

    before = bool(_stamp().get("cpu"))
    cpu = before if cpu is None else cpu
    if cpu == before and is_current():
        return
    python = python_of(VENV)
    if _version(python) is None:
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
    _call([*pip, "--quiet", *wheels, "-r", str(ROOT / "requirements.txt")], failed)
    _call([*pip, "--quiet", "--no-deps", "-e", str(ROOT)], failed)
    version = _version(python)
    STAMP.write_text(json.dumps({"hash": wanted(version), "python": version, "cpu": cpu}) + "\n")


def _call(command, message):
    from helpers.errors import UserError

    # The children's own messages go straight to the terminal.
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode:
        raise UserError(message)


def _stamp():
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def _version(python):
    """The version an interpreter reports; None when it does not run."""
    if not Path(python).exists():
        return None
    code = "import sys; print(sys.version.split()[0], sys.platform)"
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _inside():
    return Path(sys.prefix).resolve() == VENV.resolve()


def _again(argv):
    """The same command under the environment's own Python."""
    command = [str(python_of(VENV)), "-m", "helpers", *argv]
    if os.name == "posix":
        os.execve(command[0], command, _environment())
    return subprocess.run(command, env=_environment()).returncode


def _environment():
    # `python -m helpers` finds the package through the current folder; its child must find the
    # same copy from wherever it was called.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def _best_python(argv):
    """Doctor looks at `.venv` where there is one, and installs nothing."""
    if os.environ.get("RLHF_NO_VENV") or _inside() or _version(python_of(VENV)) is None:
        return None
    return _again(argv)


