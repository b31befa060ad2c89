"""Tests and course as other machines would run them: other instructions, threads, and load.

    python benchmarks/machines.py test course [--under avx2 busy …] [--notebooks 08,09,10]

Runs what is named under each of the settings of MACHINES in turn and stores the outcome as it
goes: of the tests how many passed and which did not, of the course each metric and each bound with
its distance. A run that stands in the stored file for this commit is not made again; one of an
earlier commit stays, with that commit beside it, until it is. With `--notebooks` a course is of
these alone: the stages that they need come from the artifacts of the project, where `make course`
left them, and not from the machine that is tried; the other notebooks stay as they are stored, with
the commit they came from in the row's `earlier`. Exit status 1 when a test failed or a bound did
not hold.

Instructions are taken away by variables that PyTorch, oneDNN and MKL read; last bits then differ
as on another processor, the order of caches and cores does not. `busy` is this machine with two
other processes that multiply matrices all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shared import store
from benchmarks.shared.load import other_work
from helpers.course import expected
from helpers.paths import ROOT


def threads(count: int) -> dict[str, str]:
    """Variables that set the number of threads where a program does not set it itself."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(count))


# name: variables of the process, settings of the course, whether other work runs beside it
MACHINES: dict[str, tuple[dict[str, str], dict[str, int], bool]] = {
    "as it is": ({}, {}, False),
    "avx2": ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
              "MKL_ENABLE_INSTRUCTIONS": "AVX2"}, {}, False),
    "default": ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
                 "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, {}, False),
    "one thread": (threads(1), {"threads": 1}, False),
    "four threads": (threads(4), {"threads": 4}, False),
    "busy": ({}, {}, True),
}


def run_tests(command: str, variables: dict[str, str], out: Path) -> dict:
    """`python -m helpers test` (or `test-slow`): numbers, and the names of what failed."""
    report = out / "report.xml"
    subprocess.run([sys.executable, "-m", "helpers", command, "-q", f"--junitxml={report}"],
                   cwd=ROOT, env={**os.environ, **variables})
    if not report.is_file():
        return {"passed": 0, "failed": ["no report: the run did not come to its end"]}
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases
              if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


def run_course(variables: dict[str, str], settings: dict[str, int], out: Path,
               notebooks: str | None) -> dict:
    """The notebooks of the embedded profile: their metrics, and their bounds with the distance."""
    command = ["course"]
    if notebooks:
        command = ["run", "--notebooks", notebooks]
        shutil.copytree(ROOT / "artifacts" / "embedded", out / "artifacts" / "embedded")
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run([sys.executable, "-m", "helpers", *command, *given, "--out", str(out)],
                          cwd=ROOT, env={**os.environ, **variables})
    path = out / "runs" / "embedded" / "summary.json"
    if not path.is_file():
        return {"failed": [f"the course ended with {done.returncode}"]}
    ran = json.loads(path.read_text(encoding="utf-8"))["notebooks"]
    failed = [f"{name} did not run" for name, row in ran.items() if row["status"] != "ok"]
    judged = {name: expected.judge(name, row["metrics"]) for name, row in ran.items()}
    failed += [f"{name}: {b['bound']} ({b['detail']})" for name, rows in judged.items()
               for b in rows if not b["ok"] and not b["goal"]]
    return {"failed": failed, "bounds": judged,
            "metrics": {name: row["metrics"] for name, row in ran.items()},
            "notebook_seconds": {name: row["seconds"] for name, row in ran.items()}}


def joined(old: dict, new: dict) -> dict:
    """The row of a few notebooks, with what only the old one has of others, and their commits."""
    row = store.merged(old, new)
    for part in ("bounds", "notebook_seconds"):
        row[part] = {**old[part], **new[part]}
    failed = [text for text in old["failed"] if text.startswith(tuple(row.get("earlier", ())))]
    return {**row, "failed": failed + new["failed"],
            "seconds": round(sum(row["notebook_seconds"].values()), 1)}


def taken_in(rows: list[dict], new: dict, part: bool) -> tuple[list[dict], bool]:
    """The rows with the new one, and whether it went in: what did not run replaces no notebook."""
    same = [row for row in rows if (row["what"], row["machine"]) == (new["what"], new["machine"])]
    ran = new.get("metrics", {}).values()
    if part and not (ran and all(ran)):
        show(new)
        return rows, False
    if part and same:
        new = joined(same[0], new)
    return [row for row in rows if row not in same] + [new], True


def show(row: dict) -> None:
    """A line for the run, one for each thing that failed, and the bounds of a course."""
    print(f"{row['what']:<10} {row['machine']:<13} {row['commit']:<9} "
          f"{row['seconds'] / 60:6.1f} min  {'ok' if not row['failed'] else 'FAILED'}"
          + (f"  {row['passed']} passed" if "passed" in row else ""))
    for text in row["failed"]:
        print(f"    {text}")
    for name, judged in row.get("bounds", {}).items():
        for bound in judged:
            print(f"    {name[:2]}  {bound['bound']:<60} {bound['detail']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", nargs="*", default=["test", "test-slow", "course"],
                        help="test, test-slow, course; all three when none is given")
    parser.add_argument("--under", nargs="+", choices=list(MACHINES), default=list(MACHINES))
    parser.add_argument("--notebooks", metavar="NN,NN", help="of the course these alone")
    given = parser.parse_args()
    if given.notebooks and not (ROOT / "artifacts" / "embedded").is_dir():
        parser.error("--notebooks builds on the stages of the project; run `make course` first.")
    unknown = set(given.what) - {"test", "test-slow", "course"}
    if unknown:
        parser.error(f"cannot run {unknown.pop()!r}; there are test, test-slow and course.")
    stored, commit = store.load("machines") or {"rows": []}, store.commit()
    rows = stored["rows"]
    known = {(row["what"], row["machine"]) for row in rows if row["commit"] == commit}
    lost = False
    for what in given.what:
        for machine in given.under:
            if (what, machine) in known and not (what == "course" and given.notebooks):
                continue
            variables, settings, busy = MACHINES[machine]
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as out, other_work(busy):
                # what torch.compile has made for one set of instructions must not meet another
                variables = {**variables, "TORCHINDUCTOR_CACHE_DIR": str(Path(out) / "compiled")}
                found = (run_course(variables, settings, Path(out), given.notebooks)
                         if what == "course"
                         else run_tests(what, variables, Path(out)))
            new = {"what": what, "machine": machine, "commit": commit,
                   "processor": store.machine(),
                   "seconds": round(time.monotonic() - begun, 1), **found}
            rows, kept = taken_in(rows, new, part=what == "course" and bool(given.notebooks))
            lost |= not kept
            store.save("machines", rows)
    for row in rows:
        show(row)
    return 1 if lost or any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
