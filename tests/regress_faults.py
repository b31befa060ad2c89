"""Small faults, sown one by one in a copy of the course: does `make regress` find each?

    python -m tests.regress_faults [--only NAME …] [--list]

Each fault changes a number that a notebook prints. In the copy the notebook is run with the fault
in it, and `python -m helpers regress` compares; the fault is caught when that ends red and names a
cell. (The run stands first because regress, when it runs a notebook anew, makes all stages anew
too; `run` takes those that are there.) Before that each notebook runs once without a fault, and
must come out green. Where a notebook prints with the fault what it printed without, regress could
find nothing: such a fault "changes no result", and belongs out of the list.

What was found is kept, with date, commit and machine, in `benchmarks/results/regress_faults.json`,
where `--only` replaces the rows that it looked for. To be run for a release, after `make course`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from helpers.course import execute, provenance
from helpers.course.upkeep import compare, refresh
from helpers.engine import artifacts
from helpers.profiles import load_profile
from tests.faults import COPIED, LINKED, ROOT, copy, keep, sowing

LONGEST = 3600  # seconds that one notebook, or its comparison, may take
# A notebook takes the helpers above its own folder, so a link would lead it out of the copy.
OWN = (*COPIED, "notebooks")
# How nbval tells of a cell: its name, its source, and below that what `compare` found.
FAILURE = re.compile(r"^_+ \S+::(?P<cell>Cell \d+) _+$.*?^Traceback:\n(?P<difference>[^\n]+)$",
                     re.MULTILINE | re.DOTALL)
CAUGHT, MISSED, NO_RESULT = "caught", "missed", "changes no result"


class Fault(NamedTuple):
    """A replacement in a file below `helpers/`, and the notebook that must print other numbers.

    The file must not decide what is in a stage that the notebook builds on (`artifacts.MADE_BY`),
    and what is replaced must not be a function that a cell of the notebook shows and defines anew.
    """

    name: str
    file: str
    old: str
    new: str
    notebook: str


FAULTS = (
    Fault("a simulated rater's noise does not know the seed", "gridworld.py",
          "noise * rng.standard_normal(len(features))",
          "noise * np.random.default_rng(0).standard_normal(len(features))", "01"),
    Fault("a rater overlooks the minute that a step back loses", "gridworld.py",
          "+ foresight * features[:, PROGRESS]",
          "+ foresight * features[:, PROGRESS].clip(min=0)", "01"),
    Fault("a choice forgets how sharp it is", "gridworld.py",
          "expit(sharpness * gap)", "expit(gap)", "01"),
    Fault("starts three moves away are left out", "gridworld.py",
          "(distance >= 3)", "(distance > 3)", "01"),
    Fault("an expected walk goes on behind the goal", "gridworld.py",
          "ahead = amount + np.where(ends, 0.0, total[following])",
          "ahead = amount + total[following]", "01"),
    Fault("alpha's interval draws raters and not responses", "feedback.py",
          "matrix[:, rng.integers(0, matrix.shape[1], matrix.shape[1])]",
          "matrix[rng.integers(0, matrix.shape[0], matrix.shape[0])]", "01"),
    Fault("an interval draws every row twice", "evaluation.py",
          "(min(250, resamples - start), len(sample))",
          "(min(250, resamples - start), 2 * len(sample))", "01"),
    Fault("best of n counts one answer too few", "evaluation.py",
          "np.maximum(below - n + 1, 0)", "np.maximum(below - n, 0)", "09"),
    Fault("an interval leaves out twice what it should", "evaluation.py",
          "tail = (1 - level) / 2", "tail = 1 - level", "09"),
    Fault("the fit's interval takes gains over the last point", "reward/proxy.py",
          "gain = gain - gain[0]", "gain = gain - gain[-1]", "09"),
    Fault("a two-sided test counts its comparisons as one-sided", "evaluation.py",
          "norm.ppf((1 + level) / 2) / 2", "norm.ppf(level) / 2", "09"),
    Fault("an answer at the desk forgets that the sides were turned", "course/label/queue.py",
          '(choice == "left") != self._turned(name, key)', 'choice == "left"', "10"),
    Fault("pairs that have a label are asked about again", "reward/active.py",
          "np.setdiff1d(np.arange(len(pool)), asked)", "np.arange(len(pool))", "10"),
    Fault("a response's features count its prompt", "reward/active.py",
          "weight = told.unsqueeze(-1) / told.sum(1)[:, None, None]",
          "weight = mask.unsqueeze(-1) / mask.sum(1)[:, None, None]", "10"),
    Fault("the judge reads each pair twice in one order", "judge.py",
          "for a, b in ((first, second), (second, first)):",
          "for a, b in ((first, second), (first, second)):", "10"),
)


class Verdict(NamedTuple):
    """What regress says of one notebook: whether it is red, the first cell it names, and why."""

    red: bool
    cell: str | None = None
    difference: str | None = None


def needs(number: str) -> list[str]:
    """The stages that a notebook requires, as its cells say."""
    cells = execute.sources(execute.read_notebook(execute.find_notebook(number)))
    asking = [cell for cell in cells if "course.require(" in cell]
    return [stage for stage in artifacts.MAKERS if any(f'"{stage}"' in cell for cell in asking)]


def not_ready(number: str) -> str | None:
    """Why nothing can be said of a notebook here, and what to run first; None if all is there."""
    settings = load_profile("embedded")
    for stage in needs(number):
        reason = (artifacts.stale(stage, settings) or artifacts.damage(stage, settings)
                  or artifacts.aged(stage, settings))
        if reason:
            return (f"Notebook {number} builds on the stage {stage}, which {reason}: run "
                    "`make course` first.")
    content = execute.read_notebook(execute.find_notebook(number))
    if content["metadata"].get("course", {}).get("machine") != provenance.machine():
        return (f"The outputs of notebook {number} were stored on another machine or with other "
                "numbers of threads, where regress compares little but shapes: run "
                f"`python -m helpers refresh {number}` first.")
    return None


def command(folder: Path, *words: str) -> tuple[int, str]:
    """The exit status of `python -m helpers WORDS` in the copy, and what it printed."""
    env = {**os.environ, "RLHF_NO_VENV": "1", "PYTHONPATH": str(folder),
           "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", "helpers", *words], cwd=folder, env=env,
                          capture_output=True, text=True, timeout=LONGEST, errors="replace")
    return done.returncode, done.stdout + done.stderr


def ask(number: str, folder: Path) -> Verdict:
    """Run a notebook in the copy, as it is, and let regress compare.

    A notebook that fails on the way is red too, at the cell where it failed.

    Raises:
        RuntimeError: there is no verdict, so that nobody may take it for one.
    """
    shutil.rmtree(folder / "runs", ignore_errors=True)  # ratings of the run before lie there too
    stem, runs = execute.find_notebook(number).stem, folder / "runs" / "embedded"
    status, said = command(folder, "run", "--notebooks", number)
    if status:
        try:
            summary = json.loads((runs / "summary.json").read_text(encoding="utf-8"))
            error = summary["notebooks"][stem]["error"]
        except (OSError, KeyError):
            raise RuntimeError(f"the run of {stem} ended with {status}:\n{said[-2000:]}") from None
        return Verdict(True, f"code cell {error['cell']} failed",
                       f"{error['kind']}: {error['message']}")
    status, said = command(folder, "regress", "--notebooks", number)
    if "are run anew" in said or status not in (0, 1):
        raise RuntimeError(f"regress of {stem} ended with {status} and compared nothing that was "
                           f"run here:\n{said[-2000:]}")
    if status == 0:
        return Verdict(False)
    return Verdict(True, *first_of(said))


def first_of(said: str) -> tuple[str, str]:
    """The first cell that regress names as different, and the first difference it gives."""
    found = FAILURE.search(execute.ANSI.sub("", said))
    if not found:
        raise RuntimeError(f"regress is red and names no cell:\n{said[-2000:]}")
    return found["cell"], found["difference"]


def printed_other(good: Path, now: Path) -> bool:
    """Whether a notebook printed anything else than before, to the last digit; times aside."""
    for old, new in zip(*(execute.own_cells(execute.read_notebook(path)) for path in (good, now)),
                        strict=True):
        if old["cell_type"] != "code" or compare.rule_of(old, True) in (
                compare.TIMING, compare.SHAPE):
            continue
        cell = {"metadata": {"compare": {"numbers": compare.EXACT}},
                "outputs": refresh.clean_outputs(old["outputs"])}
        if compare.compare(cell, refresh.clean_outputs(new["outputs"]), True).differences:
            return True
    return False


def look_for(fault: Fault, folder: Path) -> dict[str, Any]:
    """Sow a fault in the copy, ask regress, and take it out again."""
    begun, name = time.monotonic(), execute.find_notebook(fault.notebook).name
    with sowing(fault, folder):
        verdict = ask(fault.notebook, folder)
    other = verdict.red or printed_other(folder / "good" / name,
                                         folder / "runs" / "embedded" / name)
    result = CAUGHT if verdict.red else MISSED if other else NO_RESULT
    return {"fault": fault.name, "file": f"helpers/{fault.file}", "notebook": fault.notebook,
            "result": result, "caught": verdict.red, "cell": verdict.cell,
            "difference": verdict.difference, "seconds": round(time.monotonic() - begun)}


def main(arguments: list[str]) -> int:
    """Sow all faults, or some; 0 when every one was caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME",
                        help="a part of the names of some, or a notebook's number")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    given = parser.parse_args(arguments)
    chosen = [f for f in FAULTS if not given.only
              or any(n in f.name or n == f.notebook for n in given.only)]
    if not chosen:
        parser.error(f"no fault is called {' or '.join(given.only)}; --list names them.")
    if given.list:
        print("\n".join(f"{f.notebook}  {f.file:22} {f.name}" for f in chosen))
        return 0
    numbers = list(dict.fromkeys(fault.notebook for fault in chosen))
    for number in numbers:
        if reason := not_ready(number):
            print(reason, file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy(folder, OWN, [one for one in LINKED if one not in OWN])
        if (stages := load_profile("embedded").artifacts).is_dir():
            shutil.copytree(stages, folder / stages.relative_to(ROOT))
        (folder / "good").mkdir()
        for number in numbers:
            verdict = ask(number, folder)
            if verdict.red:
                print(f"Notebook {number} is red without any fault: {verdict.cell}, "
                      f"{verdict.difference}", file=sys.stderr)
                return 1
            done = folder / "runs" / "embedded" / execute.find_notebook(number).name
            shutil.copy2(done, folder / "good" / done.name)
        rows = []
        for fault in chosen:
            rows.append(look_for(fault, folder))
            path = keep("regress_faults", FAULTS, rows)
            print(f"{rows[-1]['result']:17}  {rows[-1]['seconds']:4} s  {fault.notebook}  "
                  f"{fault.name}  ({rows[-1]['cell']})", flush=True)
    caught = sum(row["caught"] for row in rows)
    idle = sum(row["result"] == NO_RESULT for row in rows)
    print(f"{caught} of {len(rows)} faults were caught"
          + (f"; {idle} changed no result and belong out of the list." if idle else "."))
    print(f"Stored in {path.relative_to(ROOT)}.")
    return 0 if caught == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
