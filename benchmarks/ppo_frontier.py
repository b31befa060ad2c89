"""Reward and gold against KL on the task of notebook 06: TRL's PPOTrainer, ours, best-of-n.

    python benchmarks/ppo_frontier.py [--seeds 3] [--points 8] [--samples 256] [--prompts 256]

Both trainers get the same prompts, reward, episodes and settings (`trl_adapter.trl_config` and
`our_config`), and each a value model of its own. A few times during training the policy is
measured on held-out prompts: mean reward, mean gold sentiment, KL. Gao et al. 2022 (arXiv
2210.10760) draw gold against √KL; `area` is what lies between that curve, as a gain over the
untouched model, and zero, from 0 to the largest √KL that every run has reached. `ratio` is ours
over TRL's, each the mean of its seeds. The draws for best-of-n are many, so they come from a part
of the prompts, each compared with its own mean.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np

from benchmarks.shared import imdb_task, store
from helpers import course, trl_adapter
from helpers.course.runner import parse_assignments

TRAINERS = ("TRL", "ours")


def run_trl(job: imdb_task.Job, seed: int, points: int) -> list[dict]:
    """One run of TRL's trainer."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOTrainer

    settings = course.start("embedded", job.overrides, seed)
    width, rows = job.task.prompt_tokens_max, []
    prompts = Dataset.from_list(trl_adapter.pad_prompts(job.train, job.tokenizer, width))

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            if state.global_step in imdb_task.moments(state.max_steps, points):
                rows.append({"episodes": state.episode, **job.measure(model.policy)})

    with tempfile.TemporaryDirectory() as folder, trl_adapter.quiet():
        trainer = PPOTrainer(
            args=trl_adapter.trl_config(settings, folder), processing_class=job.tokenizer,
            model=copy.deepcopy(job.policy), ref_model=job.reference, train_dataset=prompts,
            reward_model=trl_adapter.TextReward(job.reward_fn, job.tokenizer, width),
            value_model=trl_adapter.new_value_model(job.policy, job.tokenizer.pad_token_id),
            callbacks=[Watch()])
        trl_adapter.train_quietly(trainer)
    return rows


def on_grid(rows: list[dict], key: str, grid: np.ndarray) -> np.ndarray:
    """One run's gain in `key` at each √KL of `grid`, straight lines between what was measured."""
    points = sorted([(0.0, 0.0)] + [(max(r["kl"], 0.0) ** 0.5, r[key]) for r in rows])
    return np.interp(grid, *zip(*points, strict=True))


def summary(rows: list[dict], best: list[dict], steps: int = 41) -> dict:
    """Curves over the seeds on a common grid of √KL, areas under gold, and their ratio."""
    runs = {name: {} for name in TRAINERS}
    for row in rows:
        runs[row["trainer"]].setdefault(row["seed"], []).append(row)
    limit = min(max(r["kl"] for r in run) for of in runs.values() for run in of.values()) ** 0.5
    grid = np.linspace(0, limit, steps)
    out: dict = {"sqrt_kl": grid.round(4).tolist(), "curves": {}, "area": {}}
    for name, of in runs.items():
        for key in ("reward_gain", "gold_gain"):
            lines = np.array([on_grid(run, key, grid) for run in of.values()])
            out["curves"].setdefault(name, {})[key] = {
                "mean": lines.mean(0).round(4).tolist(), "low": lines.min(0).round(4).tolist(),
                "high": lines.max(0).round(4).tolist()}
        areas = [float(np.trapezoid(on_grid(run, "gold_gain", grid), grid)) for run in of.values()]
        out["area"][name] = {"mean": round(float(np.mean(areas)), 4),
                             "seeds": [round(area, 4) for area in areas]}
    if best:
        out["area"]["best of n"] = {"mean": round(float(np.trapezoid(
            on_grid(best, "gold_gain", grid), grid)), 4)}
    ours, trl = (out["area"][name]["mean"] for name in ("ours", "TRL"))
    return {**out, "ratio": round(ours / trl, 3) if trl > 0 else None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--samples", type=int, default=256, help="draws per prompt for best-of-n")
    parser.add_argument("--best-prompts", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    overrides = parse_assignments(arguments.set)
    job, rows = imdb_task.Job(overrides, arguments.prompts), []
    print(f"before: {job.before}", flush=True)
    best = imdb_task.best_of(*imdb_task.draw(job, arguments.best_prompts, arguments.samples))
    for seed in range(arguments.seeds):
        for name, run in (("TRL", run_trl), ("ours", imdb_task.run_ours)):
            start = time.perf_counter()
            for row in run(job, seed, arguments.points):
                rows.append({"trainer": name, "seed": seed, **row, **job.gains(row)})
            print(f"{name:<5} seed {seed}: reward {rows[-1]['reward']:5.2f}, gold "
                  f"{rows[-1]['gold']:.3f}, KL {rows[-1]['kl']:.2f} nats, distinct "
                  f"{rows[-1]['distinct']:.2f}, {time.perf_counter() - start:.0f} s", flush=True)
    found = summary(rows, best)
    for name, area in found["area"].items():
        print(f"{name:<10} area under gold against √KL: {area['mean']:.4f}")
    print(f"ours over TRL: {found['ratio']}")
    path = store.save("ppo_frontier", rows + best, before=job.before, overrides=overrides, **found)
    print("stored:", path.name)
    return int(found["ratio"] is None or found["ratio"] < 0.98)


if __name__ == "__main__":
    sys.exit(main())
