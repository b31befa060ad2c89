"""How much of a notebook's number is luck: 03 to 07 with other seeds, every recorded metric stored.

    python benchmarks/luck.py [--seeds 1 2 3] [--notebooks 06]

Runs what is missing, about ten minutes a seed; with `--notebooks` those alone, the others of a seed
stay as they are stored, with the commit they came from in the row's `earlier`.

A seed decides the order of the training rows, the heads' first weights, the prompts and every
answer that is drawn; data and base model stay. The same for other processors, numbers of threads
and loads, with seed 0, is stored by benchmarks/machines.py. `helpers/course/luck.py` reads both,
and `course.record` prints the range beside the number.

A run that stands in the stored file is made again only when it is asked for by `--again`, after a
change of what a notebook does; until then its row says which commit it came from.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shared import store
from helpers.course import luck
from helpers.paths import ROOT

ALL = "03,04,05,06,07"


def run(seed: int, out: Path, notebooks: str) -> dict[str, dict[str, float]]:
    """The metrics of each notebook that ran to its end; a bound that fails is no matter here."""
    subprocess.run([sys.executable, "-m", "helpers", "run", "--notebooks", notebooks,
                    "--seed", str(seed), "--out", str(out)], cwd=ROOT)
    path = out / "runs" / "embedded" / "summary.json"
    if not path.is_file():
        return {}
    ran = json.loads(path.read_text(encoding="utf-8"))["notebooks"]
    return {stem: row["metrics"] for stem, row in ran.items() if row["status"] == "ok"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--again", action="store_true", help="also what is stored already")
    parser.add_argument("--notebooks", default=ALL, metavar="NN,NN", help="these alone")
    given = parser.parse_args()
    rows = (store.load("luck") or {"rows": []})["rows"]
    failed = False
    for seed in given.seeds:
        if not given.again and any(row["seed"] == seed for row in rows):
            continue
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as out:
            metrics = run(seed, Path(out), given.notebooks)
        failed |= len(metrics) < len(given.notebooks.split(","))
        if metrics:
            new = {"seed": seed, "commit": store.commit(), "processor": store.machine(),
                   "seconds": round(time.monotonic() - begun, 1), "metrics": metrics}
            same = [store.merged(row, new) for row in rows if row["seed"] == seed] or [new]
            rows = [row for row in rows if row["seed"] != seed] + same
            rows.sort(key=lambda row: row["seed"])
            store.save("luck", rows)
    for stem in sorted({stem for row in rows for stem in row["metrics"]}):
        for name, found in luck.spread(stem).items():
            print(f"{stem[:2]}  {name:<34} {found.low:>10.4g} to {found.high:<10.4g} "
                  f"{found.runs} runs")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
