"""The command line, `python -m helpers COMMAND`. Importing it needs the standard library only."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.course import environment
from helpers.errors import UserError, printable
from helpers.paths import ROOT, child_environment

LEAST_COVERED = 90  # per cent of the lines of helpers/ that the tests run
TEST_MINUTES = 120  # several times what the slowest machine has needed for all tests


def main(argv: list[str]) -> int:
    """Run a command of the course, in its own environment, and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a console that lacks a letter shows "?"
    try:
        arguments = parse(argv)
        if arguments.command == "doctor":
            status = _best_python(argv)
            return run(arguments) if status is None else status
        if os.environ.get("RLHF_NO_VENV"):
            if arguments.command == "setup":
                print("RLHF_NO_VENV is set: this Python's own environment is used as it is.")
                return 0
            return run(arguments)
        environment.ensure(cpu=getattr(arguments, "cpu", None))
        if arguments.command == "setup":
            print(f"The environment is ready: {environment.VENV.name} "
                  f"({environment.version_of(environment.python_of(environment.VENV))}).")
            return 0
        return run(arguments) if environment.inside() else environment.again(argv)
    except UserError as error:
        print(printable(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _best_python(argv: list[str]) -> int | None:
    """Doctor looks at `.venv` where there is one, and installs nothing."""
    python = environment.python_of(environment.VENV)
    if (os.environ.get("RLHF_NO_VENV") or environment.inside()
            or environment.version_of(python) is None):
        return None
    return environment.again(argv)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; `python -m helpers --help` lists what there is.")


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = _Parser(prog="python -m helpers", description="Set up, run and check the course.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    setup = command("setup", "make .venv and install what requirements.txt lists")
    wheels = setup.add_mutually_exclusive_group()
    wheels.add_argument("--cpu", action="store_true", default=None,
                        help="take PyTorch's CPU wheels, smaller than those for CUDA")
    wheels.add_argument("--no-cpu", dest="cpu", action="store_false",
                        help="take the wheels that pip takes by itself (the default)")

    course = command("course", "run every notebook and check the results")
    run = command("run", "run some notebooks, or all")
    run.add_argument("--phase", help="sft, reward, ppo, eval or full")
    run.add_argument("--notebooks", metavar="NN,NN", help="numbers, such as 04,05")
    script = command("script", "print a notebook as a script, for several processes")
    script.add_argument("number", metavar="NN", help="such as 04")
    for sub in (course, run, script):
        sub.add_argument("--profile", default="embedded",
                         help="embedded, quick, smollm2, gpt2, a100 or a YAML file")
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                         help="override a setting, such as ppo.kl_coef=0.1; may be repeated")
        sub.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE",
                         help="set a notebook's own parameter; may be repeated")
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--out", metavar="DIR", help="write runs/ and artifacts/ there")

    label = command("label", "compare pairs of responses in a browser")
    label.add_argument("source", metavar="FILE", help="pairs, in any form the course reads")
    label.add_argument("--gold", metavar="FILE", help="pairs with known answers, to test raters")
    label.add_argument("--store", metavar="FILE",
                       help="where answers go; runs/labels/<name of FILE>.jsonl when not given")
    label.add_argument("--host", default="127.0.0.1",
                       help="another address than this computer alone; a token is asked for then")
    label.add_argument("--port", type=int, default=8765)
    chat = command("chat", "talk to a model that a notebook has made")
    export = command("export", "copy a model to a folder that transformers loads, with its card")
    export.add_argument("stage", metavar="STAGE", help="such as ppo")
    export.add_argument("folder", metavar="FOLDER")
    chat.add_argument("stage", nargs="?", metavar="STAGE", help="ppo when it is there, else sft")
    chat.add_argument("--annotator", default="me", help="the name your thumbs are stored under")
    chat.add_argument("--raw", action="store_true", help="show what the detectors find broken too")
    for sub in (chat, export):
        sub.add_argument("--profile", default="embedded")
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                         help="override a setting, such as ppo.temperature=1; may be repeated")
        sub.add_argument("--out", metavar="DIR", help="where runs/ and artifacts/ are")

    for name, text in (
            ("test", "run the tests (not the notebooks)"),
            ("test-slow", "run the tests that make the world anew or train for minutes"),
            ("coverage", "run the tests and say which lines of helpers/ they ran")):
        command(name, text).epilog = "Other arguments are handed to pytest."
    regress = command("regress", "compare the notebooks' outputs with those of a run (nbval)")
    regress.add_argument("--notebooks", metavar="NN,NN")
    regress.add_argument("--again", action="store_true",
                         help="run them anew, also where the last make course is up to date")
    hub = command("hub", "run the notebooks under gpt2, a100 and smollm2 against a local hub")
    hub.epilog = "Other arguments are handed to tests/hub/course.py."
    bench = command("bench", "run the benchmarks and write benchmarks/results/")
    bench.add_argument("names", nargs="*", help="names of benchmarks; all when none is given")
    gpu = command("gpu-check", "train a full-size GPT-2 on a GPU and store the figures")
    gpu.epilog = "Other arguments are handed to benchmarks/gpu_check.py."
    colab = command("colab-check", "run the course in an environment such as Colab's")
    colab.epilog = "Other arguments are handed to benchmarks/colab_check.py."
    command("lab", "open the notebooks in JupyterLab")
    web = command("book", "make a web book of the course, from what its notebooks hold")
    web.add_argument("--out", metavar="DIR", help="write html/ there; runs/book when not given")
    solutions = command("solutions", "print the solutions of a notebook's exercises")
    solutions.add_argument("number", metavar="NN", help="such as 04")
    solutions.add_argument("--without", metavar="FILE",
                           help="write a copy of the notebook that has no solutions")
    command("lint", "check notebooks and code")
    command("sync", "write the helpers' source into the notebooks' cells that show it")
    data = command("data", "build the embedded world again (data/build.py)")
    data.epilog = "Other arguments are handed to data/build.py."
    doctor = command("doctor", "say what is installed and what would not work")
    doctor.add_argument("--profile", help="print its memory plan and downloads as well")
    doctor.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="override a setting of the profile; may be repeated")
    check = command("check", "say what a file of rows is and how the course reads it")
    check.add_argument("source", metavar="FILE", help="or a folder with train, … files")
    check.add_argument("--kind", choices=("preferences", "reviews", "demonstrations", "ratings"),
                       help="by the columns when it is not given")
    check.add_argument("--tokenizer", metavar="MODEL",
                       help="a folder or hub id whose tokens to count")
    check.add_argument("--write", metavar="OUT", help="write the good rows to this file")
    check.add_argument("--form", help="in which form: trl, trl-conversational, messages, hh, "
                       "sharegpt, arena or choices")
    refresh = command("refresh", "execute notebooks and store their outputs in notebooks/")
    refresh.add_argument("numbers", nargs="*", metavar="NN", help="all when none is given")
    refresh.add_argument("--stored", action="store_true",
                         help="take the outputs of the last make course, execute nothing")
    clean = command("clean", "remove caches, runs/ and the stages of embedded and quick")
    clean.add_argument("--all", action="store_true",
                       help="the stages of the other profiles too, which may have taken hours")
    command("results", "write the last run's figures into the README's table")
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line; what tests and `data` do not know themselves is kept as `rest`.

    Raises:
        UserError: an unknown command, option or value.
    """
    arguments, arguments.rest = build_parser().parse_known_args(argv)
    if arguments.rest and arguments.command not in (
            "test", "test-slow", "coverage", "hub", "gpu-check", "colab-check", "data"):
        raise UserError(f"unrecognised arguments {' '.join(arguments.rest)}; "
                        f"`python -m helpers {arguments.command} --help` lists what there is.")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command in the present environment and return its exit status."""
    return globals()["_" + arguments.command.replace("-", "_")](arguments)


def _run(arguments) -> int:
    return _runner(arguments, arguments.phase, arguments.notebooks, enforce=False)


def _course(arguments) -> int:
    return _runner(arguments, "full", None, enforce=True)


def _overrides(arguments) -> dict[str, Any]:
    from helpers.course import runner

    out = {} if arguments.out is None else {"out": arguments.out}
    return runner.parse_assignments(arguments.settings) | out


def _settings(arguments):
    from helpers.profiles import load_profile

    return load_profile(arguments.profile, _overrides(arguments))


def _label(arguments) -> int:
    from helpers.course.label import queue, server
    from helpers.feedback import RatingStore

    source = Path(arguments.source)
    store = RatingStore(arguments.store or ROOT / "runs" / "labels" / f"{source.stem}.jsonl")
    gold = queue.read_items(arguments.gold, gold=True) if arguments.gold else ()
    waiting = queue.Queue(queue.read_items(source), store, gold)
    print(f"{len(waiting.items)} pairs; answers go to {store.path}")
    return server.serve(waiting, arguments.host, arguments.port)


def _chat(arguments) -> int:
    from helpers.course import chat

    return chat.main(_settings(arguments), arguments.stage, arguments.annotator, not arguments.raw)


def _export(arguments) -> int:
    from helpers.course import export

    print(export.export(_settings(arguments), arguments.stage, arguments.folder))
    return 0


def _script(arguments) -> int:
    from helpers.course import execute, runner
    from helpers.course import script as scripts

    print(scripts.script(execute.find_notebook(arguments.number), {
        "profile": arguments.profile, "overrides": _overrides(arguments), "seed": arguments.seed,
        **runner.parse_assignments(arguments.parameter, "--parameter")}), end="")
    return 0


def _runner(arguments, phase, numbers, enforce) -> int:
    from helpers.course import runner

    return runner.run(
        runner.choose(phase, numbers), arguments.profile, _overrides(arguments), arguments.seed,
        runner.parse_assignments(arguments.parameter, "--parameter"), enforce,
    )


def _test(arguments) -> int:
    return _pytest("not slow", "loadfile", arguments.rest)


def _test_slow(arguments) -> int:
    return _pytest("slow", "load", arguments.rest)


def _coverage(arguments) -> int:
    """The tests as `test` runs them, and what of helpers/ ran, in processes they start as well."""
    return _pytest("not slow", "loadfile", [
        "--cov=helpers", "--cov-report=term:skip-covered", f"--cov-fail-under={LEAST_COVERED}",
        *arguments.rest])


def _pytest(marked: str, share: str, rest: list[str]) -> int:
    """Run pytest on the tests so marked; one limit for all of it ends what hangs.

    The whole of them is shared among worker processes by pytest-xdist: by file (`loadfile`), since
    the tests of a file use what it has made once, or one by one (`load`). What names tests, or is
    to be seen or held while it runs, is left to one process.
    """
    call = _call("-m", "pytest", "-m", marked, *rest)
    whole = all(word.startswith("-") for word in rest) and not {"-n", "-s", "--pdb"} & {*rest}
    if whole and (side_by_side := workers()) > 1:
        call["args"] += ["-n", str(side_by_side), "--dist", share]
        call["env"].setdefault("OMP_NUM_THREADS", "1")  # the workers are the threads
    process = subprocess.Popen(**call)
    try:
        return process.wait(60 * TEST_MINUTES)
    except subprocess.TimeoutExpired:
        import psutil

        top = psutil.Process(process.pid)
        for one in (*top.children(recursive=True), top):
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()
        print(f"\nThe tests were ended after {TEST_MINUTES} minutes: one of them hangs, and stands "
              "above with the place where it does.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        process.wait()
        raise


def _regress(arguments) -> int:
    from helpers.course.upkeep import regress

    return regress.regress(arguments.notebooks, arguments.again)


def _hub(arguments: argparse.Namespace) -> int:
    return _python(str(ROOT / "tests" / "hub" / "course.py"), *arguments.rest)


def _bench(arguments) -> int:
    known = {p.stem: p for p in sorted((ROOT / "benchmarks").glob("[!_]*.py"))}
    unknown = [name for name in arguments.names if name not in known]
    if unknown or not known:
        what = f"no benchmark is called {unknown[0]!r}" if unknown else "there are no benchmarks"
        raise UserError(f"{what} in benchmarks/; there are {', '.join(known) or 'none'}.")
    by_default = [name for name in known if not name.endswith("_check")]  # commands of their own
    failed = [n for n in arguments.names or by_default if _python(str(known[n]))]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _gpu_check(arguments) -> int:
    return _python("-m", "benchmarks.gpu_check", *arguments.rest)


def _colab_check(arguments) -> int:
    return _python("-m", "benchmarks.colab_check", *arguments.rest)


def _lab(arguments) -> int:
    return _python("-m", "jupyter", "lab", "notebooks")


def _book(arguments) -> int:
    from helpers.course.upkeep import book

    return book.book(Path(arguments.out).resolve() if arguments.out else None)


def _solutions(arguments) -> int:
    from helpers.course import solutions

    return solutions.solutions(arguments.number, arguments.without)


def _lint(arguments) -> int:
    from helpers.course.upkeep import lint

    return lint.lint()


def _sync(arguments) -> int:
    from helpers.course.upkeep import sync

    return sync.sync()


def _data(arguments) -> int:
    return _python(str(ROOT / "data" / "build.py"), *arguments.rest)


def _doctor(arguments) -> int:
    from helpers.course import doctor

    status = doctor.doctor()
    if arguments.profile is None and not arguments.settings:
        return status
    print()
    try:
        from helpers.course import fit, runner
        return fit.fit(arguments.profile or "embedded",
                       runner.parse_assignments(arguments.settings)) or status
    except ImportError as error:
        print(f"MISSING  {error.name}: the profile can be looked at once the packages above are "
              "installed.")
        return 1


def workers() -> int:
    """Processes that tests can be shared among: one a core, each with 3 GB; four at most."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, psutil.virtual_memory().available // (3 * 10**9), 4))


def _check(arguments) -> int:
    from helpers.course import check

    return check.check(arguments.source, arguments.kind, arguments.tokenizer, arguments.write,
                       arguments.form)


def _results(arguments) -> int:
    from helpers.course.upkeep import results

    return results.results()


def _clean(arguments: argparse.Namespace) -> int:
    from helpers.course.upkeep import clean

    return clean.clean(arguments.all)


def _refresh(arguments) -> int:
    from helpers.course.upkeep import refresh

    return refresh.refresh(arguments.numbers, arguments.stored)


def _python(*arguments: str) -> int:
    return subprocess.run(**_call(*arguments)).returncode


def _call(*arguments: str) -> dict[str, Any]:
    """What `subprocess` needs to run this Python on the course from its root."""
    return {"args": [sys.executable, *arguments], "cwd": ROOT, "env": child_environment()}


def _setup(arguments) -> int:
    return 0  # `main` has done it by the time this is reached
