"""The course on real text: IMDB reviews and Anthropic HH pairs, models made from scratch.

    python benchmarks/real_text.py [--data FOLDER] [--read RUN]

Runs notebooks 03 to 07 with `models.base=scratch` on `FOLDER/imdb` and
`FOLDER/hh-rlhf/harmless-base` and stores what they recorded, with what was aimed at. FOLDER is
`RLHF_REAL_DATA` when it is not given. `--read` stores a run made before (its `--out` folder).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.shared import store
from helpers.course import expected
from helpers.paths import ROOT

MINUTES = 25
BOUNDS = ("classifier_accuracy >= 0.72", "reward_after - reward_before >= 1.0", "kl <= 10")


def run(folder: Path, out: Path) -> int:
    """The course's own command; returns its exit status."""
    return subprocess.run([
        sys.executable, "-m", "helpers", "run", "--notebooks", "03,04,05,06,07",
        "--set", "models.base=scratch", "--set", f"data.reviews={folder / 'imdb'}",
        "--set", f"data.preferences={folder / 'hh-rlhf' / 'harmless-base'}", "--out", str(out),
    ], cwd=ROOT).returncode


def read(out: Path) -> list[dict]:
    """One row per notebook: seconds, peak memory and metrics, from the run's summary.json."""
    path = out / "runs" / "embedded" / "summary.json"
    if not path.is_file():
        raise SystemExit(f"{path} is not there; give the --out folder of a run with --read.")
    notebooks = json.loads(path.read_text(encoding="utf-8"))["notebooks"]
    return [{"notebook": name, "status": found["status"], "seconds": found["seconds"],
             "peak_memory_mb": found["peak_memory_mb"], "metrics": found["metrics"]}
            for name, found in notebooks.items()]


def goals(rows: list[dict]) -> dict[str, bool]:
    """What the run should show, and whether it does."""
    ppo = next((row["metrics"] for row in rows if row["notebook"].startswith("06")), None)
    if ppo is None:
        raise SystemExit("the run has no notebook 06, whose figures this benchmark stores.")
    return {
        f"all in {MINUTES} minutes": all(row["status"] == "ok" for row in rows)
        and sum(row["seconds"] for row in rows) <= 60 * MINUTES,
        **{f"06: {bound}": expected.check(bound, ppo)[0] for bound in BOUNDS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("RLHF_REAL_DATA"))
    parser.add_argument("--read", type=Path, help="the --out folder of a run made before")
    given = parser.parse_args()
    if given.read:
        rows = read(given.read)
    else:
        if not given.data or not (Path(given.data) / "imdb").is_dir():
            print("real_text: not run; give --data or set RLHF_REAL_DATA to a folder with imdb/ "
                  "and hh-rlhf/harmless-base/.")
            return
        with tempfile.TemporaryDirectory() as out:
            if run(Path(given.data).resolve(), Path(out)):
                raise SystemExit("the run failed; nothing was stored.")
            rows = read(Path(out))
    verdicts = goals(rows)
    for row in rows:
        print(f"{row['notebook']:<36} {row['status']:<8} {row['seconds']:7.0f} s")
    for goal, reached in verdicts.items():
        print(f"{'ok    ' if reached else 'MISSED'} {goal}")
    print("stored in", store.save("real_text", rows, goals=verdicts).relative_to(ROOT))


if __name__ == "__main__":
    main()
