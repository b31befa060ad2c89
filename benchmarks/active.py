"""How many labels a reward head needs when chance, its doubt or a committee chooses the pairs.

    python benchmarks/active.py [--seeds 24]

Needs the stage `sft` of the embedded profile. The frozen SFT model reads every pair once; then
linear heads are trained on labels by simulated raters, who choose the better response with the
pair's true chance. A seed draws half of the training pairs as its pool, who says what, and where
it begins. Accuracy is expected agreement with a rater on held-out pairs, which has no luck of
labels in it. What is stored is not run again unless `--anew`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.shared import store
from helpers import course, data, models
from helpers.reward import active

POOL, TEST = 4000, 2000  # pairs
COUNTS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def read(settings) -> list[np.ndarray]:
    """Scaled feature differences and true chances of pool and test pairs."""
    model, tokenizer = models.load_stage(settings, "sft")
    found = []
    for split, count in (("train", POOL), ("test", TEST)):
        pairs = data.load_pairs(settings, split)[:count]
        found += [active.pair_features(model, tokenizer, pairs),
                  np.array([pair["probability"] for pair in pairs])]
    unit = found[0].std(0)
    return [found[0] / unit, found[1], found[2] / unit, found[3]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--anew", action="store_true", help="forget what is stored")
    given = parser.parse_args()
    stored = None if given.anew else store.load("active")
    rows = stored["rows"] if stored else []
    settings = course.start("embedded", {"threads": given.threads}, 0)
    pool, chances, test, test_chances = read(settings)
    ceiling = float(np.maximum(test_chances, 1 - test_chances).mean())
    for seed in range(given.seeds):
        half = np.random.default_rng(1000 + seed).permutation(len(pool))[: len(pool) // 2]
        for strategy in active.STRATEGIES:
            if any(row["seed"] == seed and row["strategy"] == strategy for row in rows):
                continue
            curve = active.label_curve(strategy, pool[half], chances[half], test, test_chances,
                                       COUNTS, seed=seed)
            rows += [{"strategy": strategy, "seed": seed, **row} for row in curve]
            print(f"seed {seed} {strategy:<13}{curve[-1]['labels']} labels: "
                  f"{curve[-1]['accuracy']:.3f}", flush=True)
        store.save("active", rows, ceiling=ceiling, pool=len(pool) // 2, test=len(test))
    return 0


if __name__ == "__main__":
    sys.exit(main())
