"""Set-up from a bare Python: made once, made again when stale, never half."""

import json
import os
import subprocess
import sys
import time
import types

import pytest

from helpers.course import environment
from helpers.errors import UserError
from helpers.paths import ROOT


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A course in another folder whose pip only says what it was asked; returns those calls."""
    for name in environment.INPUTS:
        (tmp_path / name).write_text(f"{name}\n")
    venv = tmp_path / ".venv"
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", venv)
    monkeypatch.setattr(environment, "STAMP", venv / "installed.json")
    monkeypatch.setattr(environment, "wanted", lambda version: wanted(version, tmp_path))
    calls = []

    def call(command, message):
        calls.append(" ".join(command[1:]))
        if "venv" in command:
            python = environment.python_of(venv)
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)
        elif call.pip_fails:
            raise UserError(message)

    call.pip_fails = False
    monkeypatch.setattr(environment, "_call", call)
    calls_and_switch = type("Place", (), {"calls": calls, "call": call, "folder": tmp_path})
    return calls_and_switch


wanted = environment.wanted


def kinds(place):
    found = ["venv" if "-m venv" in c else "project" if "--no-deps" in c else
             "pip" if c.endswith(environment.PIP) else "packages" for c in place.calls]
    place.calls.clear()
    return found


def test_the_environment_is_made_once(place, capsys):
    environment.ensure()
    assert kinds(place) == ["venv", "pip", "packages", "project"]
    environment.ensure()
    assert kinds(place) == []


@pytest.mark.parametrize("name", environment.INPUTS)
def test_a_changed_list_of_packages_is_installed(place, name):
    environment.ensure()
    kinds(place)
    (place.folder / name).write_text("something newer\n")
    environment.ensure()
    assert kinds(place) == ["pip", "packages", "project"]


def test_windows_line_ends_change_nothing(place):
    environment.ensure()
    kinds(place)
    (place.folder / "requirements.txt").write_bytes(b"requirements.txt\r\n")
    environment.ensure()
    assert kinds(place) == []


def test_an_interrupted_installation_is_done_again(place):
    place.call.pip_fails = True
    with pytest.raises(UserError, match="pip could not install"):
        environment.ensure()
    assert not environment.STAMP.exists()
    kinds(place)
    place.call.pip_fails = False
    environment.ensure()
    assert kinds(place) == ["pip", "packages", "project"]
    # an installation that fails while bringing up to date leaves no stamp behind either
    (place.folder / "requirements.txt").write_text("newer\n")
    place.call.pip_fails = True
    with pytest.raises(UserError):
        environment.ensure()
    assert not environment.is_current()


def test_a_failed_change_of_wheels_is_done_again(place):
    environment.ensure()
    place.call.pip_fails = True
    with pytest.raises(UserError):
        environment.ensure(cpu=True)
    assert not environment.is_current()


def test_an_environment_whose_python_is_gone_is_made_anew(place):
    environment.ensure()
    kinds(place)
    python = environment.python_of(environment.VENV)
    python.unlink()
    python.parent.rmdir()
    environment.ensure()
    assert kinds(place) == ["venv", "pip", "packages", "project"]


def test_the_cpu_choice_is_kept(place):
    environment.ensure(cpu=True)
    assert any(environment.CPU_WHEELS in call for call in place.calls)
    kinds(place)
    environment.ensure()
    assert kinds(place) == []
    (place.folder / "requirements.txt").write_text("newer\n")
    environment.ensure()
    assert any(environment.CPU_WHEELS in call for call in place.calls)
    kinds(place)
    environment.ensure(cpu=False)
    assert not any(environment.CPU_WHEELS in call for call in place.calls)
    assert json.loads(environment.STAMP.read_text())["cpu"] is False


def test_a_python_without_venv_is_told_what_to_do(place, monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no venv module.*apt install python3-venv"):
        environment.ensure()


def bare(*arguments, **env):
    """Run the command line on a Python that sees no installed package."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RLHF_", "PYTHON"))}
    return subprocess.run([sys.executable, "-S", "-m", "helpers", *arguments], cwd=ROOT, text=True,
                          capture_output=True, env={**environment, **env})


def test_a_bare_python_understands_the_command_line():
    done = bare("--help")
    assert done.returncode == 0 and "doctor" in done.stdout, done.stderr
    done = bare("fly")
    assert done.returncode == 2 and "invalid choice: 'fly'" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_runs_on_a_bare_python_and_misses_everything():
    done = bare("doctor", RLHF_NO_VENV="1")
    assert done.returncode == 1, done.stderr
    assert "MISSING  torch" in done.stdout and "Traceback" not in done.stderr


def test_doctor_finds_what_is_installed():
    done = subprocess.run([sys.executable, "-m", "helpers", "doctor"], cwd=ROOT, text=True,
                          capture_output=True)
    assert "MISSING  torch" not in done.stdout
    for word in ("Python", "cores usable", "bf16", "Memory", "Disk", "GPU", "tested with"):
        assert word in done.stdout, done.stderr


def test_an_old_python_is_refused_in_one_sentence(monkeypatch):
    import ast

    for name in ("helpers/__main__.py", "helpers/__init__.py"):
        ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 7))
    code = "import sys, runpy; sys.version_info = (3, 8, 1); " \
           "runpy.run_module('helpers', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.startswith("The course needs Python 3.11 or newer; this is Python 3.8")
    assert len(done.stderr.strip().splitlines()) == 1


def test_options_for_pytest_and_the_builder_are_handed_on():
    from helpers.course import cli

    assert cli.parse(["test", "-k", "ppo", "tests/test_ppo.py"]).rest == [
        "-k", "ppo", "tests/test_ppo.py"]
    assert cli.parse(["data", "--seed", "3"]).rest == ["--seed", "3"]
    with pytest.raises(UserError, match="unrecognised arguments --sed 3"):
        cli.parse(["run", "--sed", "3"])


def test_the_fast_and_the_slow_tests_are_two_commands(tmp_path, capfd):
    from helpers.course import cli

    (tmp_path / "test_two.py").write_text(
        "import pytest\n\ndef test_fast():\n    pass\n\n"
        "@pytest.mark.slow\ndef test_slow():\n    pass\n")
    for name, seen in (("test", "test_fast"), ("test-slow", "test_slow")):
        arguments = cli.parse([name, "-v", "-p", "no:cacheprovider", str(tmp_path)])
        assert cli.run(arguments) == 0
        printed = capfd.readouterr().out
        assert f"{seen} PASSED" in printed and "1 passed, 1 deselected" in printed


@pytest.mark.parametrize(("cores", "memory_gb", "workers"), [
    (2, 24, 2), (16, 64, 4), (8, 7, 2), (8, 2, 1), (1, 64, 1)])
def test_the_whole_suite_is_shared_among_cores_and_memory(monkeypatch, cores, memory_gb, workers):
    import psutil

    from helpers.course import cli

    calls = []

    class Ended:
        def __init__(self, args, cwd, env):
            calls.append((args, env.get("OMP_NUM_THREADS")))

        def wait(self, seconds):
            return 0

    monkeypatch.setattr(cli.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory",
                        lambda: types.SimpleNamespace(available=memory_gb * 10**9))
    monkeypatch.setattr(cli.subprocess, "Popen", Ended)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for words in ([], ["-q", "--junitxml=a.xml"]):
        assert cli.run(cli.parse(["test", *words])) == 0
        arguments, threads = calls.pop()
        assert ("-n" in arguments) == (workers > 1)
        if workers > 1:
            assert arguments[arguments.index("-n") + 1] == str(workers) and threads == "1"
    for words in (["tests/test_ppo.py"], ["--pdb"], ["-k", "ppo"]):
        assert cli.run(cli.parse(["test", *words])) == 0
        arguments, threads = calls.pop()
        assert "-n" not in arguments and threads is None


def test_what_hangs_is_ended_with_all_it_has_started(tmp_path, monkeypatch, capfd):
    import psutil

    from helpers.course import cli

    (tmp_path / "test_hang.py").write_text(
        "import pathlib, subprocess, sys\n\ndef test_never_ends():\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1e6)'])\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "    child.wait()\n")

    class Limit(float):
        """Minutes that are over as soon as the test has started its child."""

        def __rmul__(self, other):
            while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
                time.sleep(0.01)
            return 0.0

    monkeypatch.setattr(cli, "TEST_MINUTES", Limit(1))
    assert cli.run(cli.parse(["test", "-p", "no:cacheprovider", str(tmp_path)])) == 1
    assert "one of them hangs" in capfd.readouterr().err
    left = [p for p in psutil.process_iter(["pid", "status"])
            if p.info["pid"] == int((tmp_path / "pid").read_text())]
    assert all(p.info["status"] == psutil.STATUS_ZOMBIE for p in left)  # ended, maybe not reaped


def test_threads_of_what_the_course_starts_spin_briefly_unless_the_reader_wants_otherwise(
        monkeypatch):
    from helpers.paths import child_environment

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    ask = [sys.executable, "-c", "import os; print(os.environ['GOMP_SPINCOUNT'])"]
    assert subprocess.check_output(ask, env=child_environment(), text=True) == "1000\n"
    monkeypatch.setenv("GOMP_SPINCOUNT", "9")
    assert subprocess.check_output(ask, env=child_environment(), text=True) == "9\n"
