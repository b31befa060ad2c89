"""The course in an environment such as Colab's, once per release: `make colab-check`.

    python -m benchmarks.colab_check [--python python3.12] [--notebooks NN,NN] [--work FOLDER]

An environment of its own gets the packages of `IMAGE`, in the versions that Colab brings, and an
empty package `google.colab`, by which a notebook knows where it runs; what else stands in Colab's
image is not known here and left to pip. Then every way in is gone once, each from an empty folder:

    zip       a single notebook beside a zip of this commit, which its first cell unpacks
    address   a single notebook that clones this commit from the address in its first cell
    course    the notebooks of the unpacked zip, by the course's own command

A first cell installs what is missing or too old. Rows say how long each took, what that installed,
and which bounds do not hold; with all versions, and those of `IMAGE` that are no longer what they
were, they go to `results/colab_check.json`. Exit status 1 if a way in fails, a bound does not hold,
or a package was replaced that the course accepts as Colab has it. It needs pip's index, and room
for PyTorch with CUDA.
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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shared import store
from helpers.course import doctor, environment, execute, expected
from helpers.errors import UserError
from helpers.paths import ROOT

IMAGE = {"torch": "2.11.0", "transformers": "5.15.0", "datasets": "4.0.0", "numpy": "2.1.3",
         "ipywidgets": "7.7.1", "ipykernel": "6.17.1"}
RUNS_A_NOTEBOOK = ("nbclient", "nbformat")  # for this script: Colab has its own way
FIRST = "01"  # the notebook that is uploaded alone
EMPTY_ADDRESS = 'repository = ""'
EXECUTE = """import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(book, timeout=None, kernel_name="python3").execute()
"""
VERSIONS = """import json, importlib.metadata as m
print(json.dumps({d.metadata["Name"].lower(): d.version for d in m.distributions()}))
"""
AGAIN = "restart the session"


class Place:
    """A Python that looks like Colab's to the course, and the folder it lies in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, environment.python_of(folder / "environment")

    def make(self, python: str) -> None:
        """Make it, unless it is there as it was made; raises UserError when pip cannot."""
        done = self.folder / "made.json"
        if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == self.versions():
            return
        home = self.folder / "environment"
        pins = [f"{name}=={version}" for name, version in IMAGE.items()]
        for command in ([python, "-m", "venv", "--clear", str(home)],
                        [str(self.python), "-m", "pip", "install", "-q", *pins, *RUNS_A_NOTEBOOK]):
            if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
                raise UserError(f"`{' '.join(command[:4])} …` failed (its reason stands above).")
        marker = Path(self.call("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
                      .stdout.strip(), "google", "colab", "__init__.py")
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text("", encoding="utf-8")
        done.write_text(json.dumps(self.versions()), encoding="utf-8")

    def call(self, *arguments: str, folder: Path | None = None,
             show: bool = False) -> subprocess.CompletedProcess:
        """Its Python with these arguments, none of this process's packages in sight."""
        kept = {key: value for key, value in os.environ.items()
                if not key.startswith(("RLHF_", "JUPYTER")) and key not in ("PYTHONPATH", "CI")}
        variables = {**kept, "RLHF_NO_VENV": "1", "JUPYTER_PREFER_ENV_PATH": "1",
                     "PATH": f"{self.python.parent}{os.pathsep}{kept.get('PATH', '')}"}
        return subprocess.run([str(self.python), *arguments], cwd=folder, env=variables, text=True,
                              stdin=subprocess.DEVNULL, capture_output=not show)

    def versions(self) -> dict[str, str]:
        return json.loads(self.call("-c", VERSIONS).stdout)


def upload(folder: Path, address: str = "") -> Path:
    """Notebook 01 alone in an empty folder, with an address to clone from or without one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = Path(shutil.copy(execute.find_notebook(FIRST), folder))
    if address:
        text = path.read_text(encoding="utf-8")
        line = EMPTY_ADDRESS.replace('""', f'"{address}"')
        found, wanted = json.dumps(EMPTY_ADDRESS)[1:-1], json.dumps(line)[1:-1]
        if text.count(found) != 1:
            raise UserError(f"{path.name}: its first cell has no line {EMPTY_ADDRESS}.")
        path.write_text(text.replace(found, wanted), encoding="utf-8")
    return path


def open_alone(place: Place, way: str, folder: Path) -> dict[str, Any]:
    """Execute the uploaded notebook by one way in, once more where it asks for a restart."""
    path = upload(folder, ROOT.as_uri() if way == "address" else "")
    if way == "zip":
        subprocess.run(["git", "archive", "--prefix=rlhf/", "-o", str(folder / "rlhf-course.zip"),
                        "HEAD"], cwd=ROOT, check=True)
    before, begun = place.versions(), time.monotonic()
    done = place.call("-c", EXECUTE, path.name, folder=folder)
    restarted = AGAIN in done.stderr
    if restarted:
        done = place.call("-c", EXECUTE, path.name, folder=folder)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return {"way": way, "notebook": path.stem, "seconds": round(time.monotonic() - begun, 1),
            "status": "ok" if not done.returncode else said[-1][:300] if said else "failed",
            "restarted": restarted, "installed": installed(before, place.versions())}


def installed(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """What is there now and was not, or was another version: `{package: version}`."""
    return {name: version for name, version in sorted(after.items())
            if before.get(name) != version}


def replaced(after: dict[str, str]) -> dict[str, str]:
    """Packages of the image that are no longer what Colab has: `{package: version now}`."""
    return {name: after.get(name, "gone") for name, version in IMAGE.items()
            if after.get(name, "").partition("+")[0] != version}


def run_course(place: Place, course: Path, out: Path, notebooks: str | None) -> list[dict]:
    """The course's own command in the unpacked zip: a row for every notebook."""
    command = ["run", "--notebooks", notebooks] if notebooks else ["course"]
    place.call("-m", "helpers", *command, "--out", str(out), folder=course, show=True)
    summary = out / "runs" / "embedded" / "summary.json"
    if not summary.is_file():
        return [{"way": "course", "status": "no summary: the run did not come to its end"}]
    return [{"way": "course", "notebook": name, "seconds": row["seconds"],
             "status": row["status"], "metrics": row["metrics"],
             "broken": [f"{b['bound']} ({b['detail']})"
                        for b in expected.judge(name, row["metrics"])
                        if not b["ok"] and not b["goal"]]}
            for name, row in json.loads(summary.read_text(encoding="utf-8"))["notebooks"].items()]


def wrong(rows: list[dict], changed: dict[str, str]) -> list[str]:
    """A line for each thing that would stop a reader."""
    ranges = doctor.ranges()
    found = [f"the session's {name} was replaced: {version}" for name, version in changed.items()
             if doctor.admits(ranges[name], IMAGE[name])]
    for row in rows:
        what = f"{row['way']}, {row.get('notebook', 'all notebooks')}"
        if row["status"] != "ok":
            found.append(f"{what}: {row['status']}")
        found += [f"{what}: {bound} does not hold" for bound in row.get("broken", ())]
    return found


def check(work: Path, python: str, notebooks: str | None) -> int:
    place = Place(work)
    place.make(python)
    rows = [open_alone(place, "zip", work / "zip")]
    if rows[0]["status"] == "ok":
        rows.append(open_alone(place, "address", work / "address"))
        [course] = [path.parent.parent for path in (work / "zip").glob("*/helpers/course")]
        rows += run_course(place, course, work / "out", notebooks)
    versions = place.versions()
    changed = replaced(versions)
    store.save("colab_check", rows, image=IMAGE, replaced=changed, versions=versions,
               python=place.call("--version").stdout.split()[-1])
    problems = wrong(rows, changed)
    for row in rows:
        print(f"{row['way']:<8} {row.get('notebook', ''):<40} {row.get('seconds', 0):7.1f} s  "
              f"{row['status']}")
    print("replaced:", ", ".join(f"{name} {IMAGE[name]} by {version}"
                                 for name, version in changed.items()) or "nothing")
    print(*(problems or ["Every way in works, and every bound holds."]), sep="\n")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--python", default="python3.12", help="Colab's own version, by default")
    parser.add_argument("--notebooks", metavar="NN,NN", help="of the course these alone")
    parser.add_argument("--work", type=Path, help="keep the environment and the runs there")
    given = parser.parse_args()
    if environment.version_of(shutil.which(given.python) or given.python) is None:
        print(f"colab_check: {given.python} does not run here; give one with --python.",
              file=sys.stderr)
        return 2
    try:
        if given.work:
            given.work.mkdir(parents=True, exist_ok=True)
            return check(given.work.resolve(), given.python, given.notebooks)
        with tempfile.TemporaryDirectory() as folder:
            return check(Path(folder), given.python, given.notebooks)
    except UserError as error:
        print(f"colab_check: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
