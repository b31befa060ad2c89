"""How near to the ceiling notebook 04's reward model comes on backbones that know more or less.

    python benchmarks/backbones.py [--only gpt2-0.2m llama-1.9m base …]

Each model of `data/models/zoo`, which read two million tokens, and the base model, which read
thirteen, is fine-tuned on the demonstrations as in notebook 03 and trained on the shipped pairs as
in notebook 04, and judged on the held-out pairs by the true preference probabilities. Bits per byte
of held-out dialogues, before any of it, say how well the backbone knows the language. Rows named
here replace their stored ones; the others stay.
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
from helpers import data, models, sft
from helpers.course import session
from helpers.evaluation import bits_per_byte
from helpers.profiles import load_profile

FOLDERS = {name: models.EMBEDDED / "zoo" / name for name in models.zoo()} | {
    "base": models.EMBEDDED / "base"}


def run(name: str, settings) -> dict:
    """Fine-tune, train and judge one backbone."""
    model, tokenizer = models.load_causal(FOLDERS[name], settings)
    texts = [row["text"] for row in data.load_known_texts() if row["kind"] == "dialogues"]
    row = {"backbone": name, "parameters": models.count_parameters(model)["total"],
           "bits_per_byte_dialogues": round(bits_per_byte(model, tokenizer, texts), 4)}
    start = time.perf_counter()
    sft.train_sft(model, tokenizer, data.load_demonstrations(settings, "train"), settings,
                  seed=settings.seed)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        bench = reward_bench.Bench(settings.threads, settings.reward.eval_pairs,
                                   source=Path(folder))
        bench.validation = data.load_pairs(settings, "validation")
        found = reward_bench.fit_and_judge(
            bench, bench.train, reward_bench.gold_margins(bench.test))
    return row | {"sft_seconds": round(seconds, 1)} | found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(FOLDERS), choices=list(FOLDERS))
    arguments = parser.parse_args()
    session.quiet()
    settings = load_profile("embedded")
    torch.set_num_threads(settings.threads)
    stored = store.load("backbones") or {"rows": []}
    rows = {row["backbone"]: row for row in stored["rows"]}
    for name in arguments.only:
        rows[name] = run(name, settings)
        print(rows[name], flush=True)
        ordered = sorted(rows.values(), key=lambda row: -row["bits_per_byte_dialogues"])
        best = ordered[-1]["expected_accuracy"]
        path = store.save("backbones", ordered, ratio={
            row["backbone"]: round(row["expected_accuracy"] / best, 4) for row in ordered[:-1]})
    print("stored:", path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
