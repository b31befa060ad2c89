"""Seconds to load and to tokenise all texts of the embedded world.

    python benchmarks/loading.py [--rounds 3]

Every split of reviews, dialogues, demonstrations and pairs through the course's loaders, then
through the base model's tokenizer. Beside it, in turn, the same files read and parsed without any
check, which is the least that loading can take. The best round of each counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["TOKENIZERS_PARALLELISM"] = "true"

from benchmarks.shared import store
from helpers import data
from helpers.engine.tokens import text_ids
from helpers.models import base_source
from helpers.paths import ROOT
from helpers.profiles import load_profile

GOAL = 5.0  # seconds, loading and tokenising together, on two cores


def load(settings) -> list[str]:
    """All embedded texts, through the loaders."""
    texts: list[str] = []
    for split in data.SPLITS:
        texts += data.load_dialogues(settings, split)
        texts += [row["prompt"] + row["response"]
                  for row in data.load_demonstrations(settings, split)]
    for split in (*data.SPLITS, data.OOD):
        texts += [row["text"] for row in data.load_reviews(settings, split)]
        texts += [row["prompt"] + row[side] for row in data.load_pairs(settings, split)
                  for side in ("chosen", "rejected")]
    return texts


def parse() -> int:
    """Read the same files and do nothing with them; returns the number of rows."""
    files = [path for kind in data.KINDS for path in sorted((ROOT / "data" / kind).iterdir())]
    return sum(len(data.read_rows(path)) for path in files)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from transformers import AutoTokenizer

    settings = load_profile("embedded")
    tokenizer = AutoTokenizer.from_pretrained(base_source(settings))
    rows = []
    for _ in range(arguments.rounds):
        clock = [time.perf_counter()]
        parse()
        clock.append(time.perf_counter())
        texts = load(settings)
        clock.append(time.perf_counter())
        tokens = sum(map(len, text_ids(tokenizer, texts)))
        clock.append(time.perf_counter())
        parts = [b - a for a, b in zip(clock, clock[1:], strict=False)]
        rows.append(dict(zip(("parse_seconds", "load_seconds", "tokenise_seconds"), parts,
                             strict=True)))
    best = {name: min(row[name] for row in rows) for name in rows[0]}
    total = best["load_seconds"] + best["tokenise_seconds"]
    print(f"{len(texts):,} texts, {tokens:,} tokens")
    for name, seconds in best.items():
        print(f"{name.removesuffix('_seconds'):<10}{seconds:6.2f} s")
    print(f"loading and tokenising: {total:.2f} s (asked: {GOAL:g})")
    print("stored:", store.save(
        "loading", rows, ratio={"loaders over bare parsing": round(
            best["load_seconds"] / best["parse_seconds"], 3)},
        total_seconds=round(total, 2), goal_seconds=GOAL, texts=len(texts), tokens=tokens).name)
    return int(total > GOAL)


if __name__ == "__main__":
    sys.exit(main())
