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

import _store
import numpy as np

from helpers import (
    course,
    data,
    evaluation,
    generation,
    models,
    ppo_trainer,
    reward,
    trl_adapter,
)
from helpers.course.runner import parse_assignments
from helpers.world import gold_sentiment

TRAINERS = ("TRL", "ours")


class Job:
    """What all runs share: the untouched model, the judge, the prompts, the measure before."""

    def __init__(self, overrides: dict, prompts: int, repeats: int = 2):
        self.settings = course.start("embedded", overrides, 0)
        self.overrides, self.task, self.repeats = overrides, self.settings.ppo_trl, repeats
        self.policy, self.tokenizer = models.load_imdb_policy(self.settings)
        models.disable_dropout(self.policy).float().eval()
        self.reference = models.freeze(copy.deepcopy(self.policy))
        classifier, words = models.load_classifier(self.settings)
        self.made_of = evaluation.task_hash(self.reference, classifier, self.task)
        self.reward_fn = reward.chosen_reward(self.settings, models.freeze(classifier), words)
        self.train = self._prompts("train", self.task.total_episodes, 0)
        self.test = self._prompts("test", prompts, 1)
        self.before = self.measure(self.reference)

    def _prompts(self, split: str, count: int, seed: int) -> list[str]:
        reviews = [row["text"] for row in data.load_reviews(self.settings, split)]
        return data.cut_prompts(
            reviews, self.tokenizer, count, self.task.prompt_tokens_min,
            self.task.prompt_tokens_max, seed=seed)

    def measure(self, policy) -> dict:
        """Means over the held-out prompts; the same random numbers each time."""
        m = evaluation.measure(policy, self.reference, self.tokenizer, self.test, self.reward_fn,
                                self.task, gold_sentiment, self.repeats)
        row = {"reward": m["scores"].mean(), "gold": m["gold"].mean(), "kl": m["kl"].mean(),
               "entropy": m["entropy"], "distinct": evaluation.distinct_share(m["texts"])}
        return {key: round(float(value), 4) for key, value in row.items()}

    def gains(self, row: dict) -> dict:
        """What a measured policy has gained over the untouched model."""
        return {f"{key}_gain": round(row[key] - self.before[key], 4) for key in ("reward", "gold")}


def moments(updates: int, points: int) -> set[int]:
    """The updates after which the policy is measured; the last is among them."""
    return set(np.linspace(0, updates, points + 1).round().astype(int).tolist()) - {0}


def run_ours(job: Job, seed: int, points: int, **changes) -> list[dict]:
    """One run of the course's trainer; `changes` are to fields of its `PPOConfig`."""
    settings = course.start("embedded", job.overrides, seed)
    config = trl_adapter.our_config(settings, **changes)
    rows, due = [], moments(config.updates, points)

    def watch(trainer, row):
        if row["step"] in due:
            rows.append({"episodes": row["episodes"], "kl_coef": round(row["kl_coef"], 4),
                         **job.measure(trainer.policy)})

    trainer = ppo_trainer.PPO(
        copy.deepcopy(job.policy), job.reference, job.reward_fn, job.tokenizer, config,
        value_model=trl_adapter.new_value_model(job.policy, job.tokenizer.pad_token_id),
        callbacks=[watch])
    trainer.train(job.train)
    return rows


def run_trl(job: Job, seed: int, points: int) -> list[dict]:
    """One run of TRL's trainer."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOTrainer

    settings = course.start("embedded", job.overrides, seed)
    width, rows = job.task.prompt_tokens_max, []
    prompts = Dataset.from_list(trl_adapter.pad_prompts(job.train, job.tokenizer, width))

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            if state.global_step in moments(state.max_steps, points):
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


def draw(job: Job, prompts: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and gold of `samples` responses of the untouched model, (prompts, samples) each."""
    chosen = job.test[:prompts]
    scores, gold = np.zeros((2, len(chosen), samples))
    together = max(1, 512 // len(chosen))  # draws for each prompt in one call
    for start in range(0, samples, together):
        end = min(start + together, samples)
        rows = chosen * (end - start)
        texts = generation.sample(job.reference, job.tokenizer, rows, job.task.max_new_tokens,
                                  job.task.temperature, seed=50_000 + start, batch_size=512).texts
        scores[:, start:end] = np.reshape(job.reward_fn(rows, texts), (-1, len(chosen))).T
        gold[:, start:end] = np.reshape(
            [gold_sentiment(p + t) for p, t in zip(rows, texts, strict=True)],
            (-1, len(chosen))).T
    return scores, gold


def best_of(scores: np.ndarray, gold: np.ndarray) -> list[dict]:
    """Best-of-n from the draws for some prompts, as gains over their mean."""
    curve = evaluation.best_of_curve(scores, gold)
    return [{"trainer": "best of n", "n": int(n), "kl": round(float(kl), 4),
             "reward": round(float(reward), 4), "gold": round(float(value), 4),
             "reward_gain": round(reward - curve["reward"][0], 4),
             "gold_gain": round(value - curve["gold"][0], 4)}
            for n, kl, reward, value in zip(*curve.values(), strict=True)]


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
    job, rows = Job(overrides, arguments.prompts), []
    print(f"before: {job.before}", flush=True)
    best = best_of(*draw(job, arguments.best_prompts, arguments.samples))
    for seed in range(arguments.seeds):
        for name, run in (("TRL", run_trl), ("ours", run_ours)):
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
    path = _store.save("ppo_frontier", rows + best, before=job.before, overrides=overrides, **found)
    print("stored:", path.name)
    return int(found["ratio"] is None or found["ratio"] < 0.98)


if __name__ == "__main__":
    sys.exit(main())
