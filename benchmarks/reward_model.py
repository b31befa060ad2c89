"""Pairs per second of reward-model training against TRL's RewardTrainer.

    python benchmarks/reward_model.py [--pairs 2000] [--repeats 3]

The same weights, tokens, batch size, precision, optimiser and number of steps; the trainers run in
turn, so that a slow minute of the machine meets all of them. TRL runs with its defaults, with
length-grouped batches, and with length-grouped batches and no gradient checkpointing. Seconds are
processor seconds over threads in use, which do not count what else the machine was doing; the
wall-clock seconds stand beside them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.shared import store
from helpers import data, models, reward
from helpers.course import session
from helpers.profiles import load_profile

BATCH, RATE, LENGTH = 32, 5e-4, 128
GOALS = {"TRL, defaults": 1.5, "TRL, grouped by length": 1.1}  # ours over theirs, pairs per second
TRL = {
    "TRL, defaults": {},
    "TRL, grouped by length": {"train_sampling_strategy": "group_by_length"},
    "TRL, grouped, no gradient checkpointing": {
        "train_sampling_strategy": "group_by_length", "gradient_checkpointing": False,
    },
}


def train_ours(model, tokenizer, pairs: list[dict], folder: str, seed: int) -> float:
    """Train on `pairs`; returns the share of padding among the tokens computed."""
    rows = reward.encode_pairs(tokenizer, pairs, LENGTH)
    lengths = np.array([reward.shared_length(row) for row in rows])
    order = reward.length_grouped_order(lengths, BATCH, seed)
    reward.train_reward_model(
        model, tokenizer, pairs, pairs[:8], folder, reward.RewardConfig(
            batch_size=BATCH, learning_rate=RATE, max_length=LENGTH, evaluations=0, seed=seed),
    )
    return reward.padding_share(lengths[order], BATCH)


def train_trl(
    model, tokenizer, pairs: list[dict], folder: str, seed: int, options: dict
) -> float:
    """The same with TRL's RewardTrainer on the same token ids; returns its share of padding."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import RewardConfig, RewardTrainer

    rows = reward.encode_pairs(tokenizer, pairs, LENGTH)
    dataset = Dataset.from_list(
        [{key: row[key] for key in ("chosen_ids", "rejected_ids", "length")} for row in rows]
    )
    config = RewardConfig(
        output_dir=folder, per_device_train_batch_size=BATCH, num_train_epochs=1,
        learning_rate=RATE, lr_scheduler_type="cosine", weight_decay=0.01, max_grad_norm=1.0,
        warmup_steps=int(0.05 * -(-len(rows) // BATCH)), max_length=LENGTH, bf16=False,
        use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, seed=seed,
        remove_unused_columns=False, dataloader_pin_memory=False, **options,
    )
    trainer = RewardTrainer(
        model=model, args=config, train_dataset=dataset, processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    tokens = [0, 0]
    collate = trainer.data_collator

    def counting(batch):
        out = collate(batch)
        tokens[0] += out["attention_mask"].numel()
        tokens[1] += int(out["attention_mask"].sum())
        return out

    trainer.data_collator = counting
    trainer.train()
    return 1 - tokens[1] / tokens[0]


def run(
    name: str, settings, pairs: list[dict], test: list[dict], source: str, seed: int
) -> dict:
    """One training run from the same weights: seconds, padding, held-out accuracy."""
    _, tokenizer = models.load_causal(source, settings)
    torch.manual_seed(seed)
    model = models.new_reward_model(source, tokenizer, settings)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        if name == "ours":
            padding = train_ours(model, tokenizer, pairs, folder, seed)
        else:
            padding = train_trl(model, tokenizer, pairs, folder, seed, TRL[name])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    model.gradient_checkpointing_disable()
    margins = np.subtract(*reward.score_pairs(model.eval(), tokenizer, test))
    seconds = cpu / torch.get_num_threads()
    return {
        "trainer": name, "pairs": len(pairs), "cpu_seconds": round(cpu, 2),
        "wall_seconds": round(wall, 2), "pairs_per_second": round(len(pairs) / seconds, 1),
        "padding": round(padding, 4), "accuracy": round(reward.pair_accuracy(margins).mean(), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    settings = load_profile("embedded", {"threads": arguments.threads})
    session.quiet()
    torch.set_num_threads(arguments.threads)
    pairs = data.load_pairs(settings, "train", arguments.pairs)
    test = data.load_pairs(settings, "test", arguments.test)
    source = models.base_source(settings)
    rows = []
    for repeat in range(arguments.repeats):
        for name in ("ours", *TRL):
            row = run(name, settings, pairs, test, source, seed=repeat)
            rows.append({"repeat": repeat} | row)
            print(rows[-1], flush=True)
    speed, accuracy = (
        {name: np.median([row[key] for row in rows if row["trainer"] == name])
         for name in ("ours", *TRL)}
        for key in ("pairs_per_second", "accuracy")
    )
    ratio = {name: round(float(speed["ours"] / speed[name]), 3) for name in TRL}
    for name in TRL:
        print(f"{name}: {ratio[name]:.2f} times its pairs per second, accuracy "
              f"{accuracy['ours']:.3f} against {accuracy[name]:.3f}")
    path = store.save("reward_model", rows, batch_size=BATCH, precision="float32", ratio=ratio,
                      goals=GOALS)
    print("stored:", path.name)
    padding = max(row["padding"] for row in rows if row["trainer"] == "ours")
    print(f"padding at most {padding:.1%} of all tokens")
    return int(any(ratio[name] < goal for name, goal in GOALS.items()) or padding >= 0.10)


if __name__ == "__main__":
    raise SystemExit(main())
