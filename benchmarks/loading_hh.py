"""Seconds to load as many preference pairs as Anthropic's HH has, against bare JSON parsing.

    python benchmarks/loading_hh.py [--data FOLDER] [--rounds 3]

The training file is made of the real rows in `FOLDER/hh-rlhf/harmless-base`, repeated until there
are 160,800 and each changed by its number. Reading and parsing it without any check is timed beside
the course's loader, in turn; then the loader is asked again. FOLDER is `RLHF_REAL_DATA` when it is
not given. Seconds are of the processor, so that other work on the machine counts for little.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shared import store
from helpers import data
from helpers.profiles import load_profile

ROWS = 160_800
GOAL = 3.0  # times bare parsing


def write(folder: Path, path: Path) -> None:
    """The large file, from the rows of the small ones."""
    rows = [row for split in ("train", "test")
            for row in data.read_rows(folder / f"{split}.jsonl.gz")]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for i in range(ROWS):
            row = {side: text.replace("\n\nHuman: ", f"\n\nHuman: ({i}) ", 1)
                   for side, text in rows[i % len(rows)].items()}
            file.write(json.dumps(row) + "\n")


def parse(path: Path) -> list[dict]:
    """The same rows, unchecked."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def seconds(act: Callable[[], object]) -> float:
    """Of the processor, for one call."""
    start = time.process_time()
    act()
    return time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("RLHF_REAL_DATA"))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    source = Path(given.data or "") / "hh-rlhf" / "harmless-base"
    if not given.data or not source.is_dir():
        print("loading_hh: not run; give --data or set RLHF_REAL_DATA to a folder with "
              "hh-rlhf/harmless-base/.")
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl.gz"
        write(source, path)
        settings = load_profile("embedded", {"data.preferences": folder})
        for _ in range(given.rounds):
            data.forget()
            rows.append({"parse_seconds": seconds(lambda: parse(path)),
                         "load_seconds": seconds(lambda: data.load_pairs(settings, "train")),
                         "again_seconds": seconds(lambda: data.load_pairs(settings, "train"))})
    best = {name: min(row[name] for row in rows) for name in rows[0]}
    ratio = {name: round(best[f"{name}_seconds"] / best["parse_seconds"], 3)
             for name in ("load", "again")}
    print(f"{ROWS:,} rows: parsing {best['parse_seconds']:.2f} s; loading {ratio['load']:.2f} "
          f"times that (asked: {GOAL:g}), again {ratio['again']:.2f}")
    print("stored:", store.save("loading_hh", rows, goal=GOAL, pairs=ROWS, ratio={
        "one load over bare parsing": ratio["load"],
        "a later call over bare parsing": ratio["again"]}).name)
    return int(ratio["load"] > GOAL)


if __name__ == "__main__":
    sys.exit(main())
