"""How far notebook 04's reward model is from the ceiling for want of pairs, and for their noise.

    python benchmarks/more_pairs.py [--fresh 16000]

Trains the model of notebook 04 (its settings, likelihood included) on the shipped pairs, on the
same pairs with every label on the side of the true majority, and on the shipped pairs and fresh
ones, made by `data/build.py` from another seed. All are judged on the held-out pairs by the true
preference probabilities. Where more pairs and better labels bring little, it is the backbone that
does not see what the judge sees.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.shared import reward_bench, store
from data import build
from helpers import data
from helpers.course import session
from helpers.profiles import load_profile

SEED = 11  # of the fresh pairs


def fresh_pairs(count: int, test: list[dict]) -> list[dict]:
    """About `count` pairs of training topics, none with a response of a test pair."""
    known = {row[side] for row in test for side in ("chosen", "rejected")}
    with tempfile.TemporaryDirectory() as folder:
        scale = count / build.SIZES["preferences"]["train"]
        build.write_preferences(Path(folder), "train", SEED, scale, reward_bench.SOURCE)
        rows = data.load_pairs(load_profile("embedded", {"data.root": folder}), "train")
    return [row for row in rows if not {row["chosen"], row["rejected"]} & known]


def with_majority(pairs: list[dict]) -> list[dict]:
    """The same pairs as a panel without end would label them."""
    return [row if row["probability"] >= 0.5 else
            row | {"chosen": row["rejected"], "rejected": row["chosen"],
                   "probability": 1 - row["probability"]} for row in pairs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", type=int, default=16000)
    arguments = parser.parse_args()
    session.quiet()
    settings = load_profile("embedded")
    torch.set_num_threads(settings.threads)
    bench = reward_bench.Bench(settings.threads, settings.reward.eval_pairs)
    bench.validation = data.load_pairs(settings, "validation")
    shipped, test = bench.train, bench.test
    start = time.perf_counter()
    fresh = fresh_pairs(arguments.fresh, test)
    seconds = time.perf_counter() - start
    print(f"{len(fresh)} fresh pairs in {seconds:.0f} s", flush=True)
    gold = reward_bench.gold_margins(test)
    rows = []
    for arm, pairs in (("as shipped", shipped), ("labels of the majority", with_majority(shipped)),
                       ("with fresh pairs", shipped + fresh)):
        rows.append({"arm": arm} | reward_bench.fit_and_judge(bench, pairs, gold))
        print(rows[-1], flush=True)
    base = rows[0]["expected_accuracy"]
    print("stored:", store.save(
        "more_pairs", rows, test_pairs=len(test), seconds_to_make=round(seconds),
        ratio={row["arm"]: round(row["expected_accuracy"] / base, 4) for row in rows[1:]}).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
