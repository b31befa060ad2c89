"""Notebook 06's task with as many episodes as PPO wants, against best-of-n at the same KL.

    python benchmarks/ppo_long.py [--seeds 1] [--best-prompts 128] [--samples 8192]
                                  [--draws FOLDER] [--set …] [--ours …]

The notebook gives each trainer some 1,500 episodes. Here our trainer gets nearly eighty times as
many in larger batches, and is measured on held-out prompts on the way. Its KL coefficient adapts
(Ziegler et al. 2019, arXiv 1909.08593), which TRL's does not: `--ours` sets fields of `PPOConfig`,
`--set` those of the profile, which gives all the rest. The first batches move a policy fast and in
ways it does not easily leave, so the coefficient starts high; then it falls as far as the target,
just below 8 nats, allows.

Best-of-n comes from `--samples` draws for each of a part of the prompts, so that it reaches 8 nats.
On exactly these prompts the policy is measured a second time (`same_…`), with more responses to
each: what can be gained differs between prompts by more than what is to be told apart here.
`share_of_best_of_n` is the policy's gain there over that of best-of-n at the policy's own KL, null
where the draws do not reach, with a 95 % interval over those prompts (bootstrap) for the last
policy; `gold_share` the same by the true sentiment, which neither has seen. About an hour, more
than half of it for the draws; with `--draws` they are kept for a run with another seed or setting.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import hashlib
import math
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.shared import imdb_task, store
from helpers import course, evaluation, trl_adapter
from helpers.course.runner import parse_assignments
from helpers.errors import UserError
from helpers.ppo_trainer import PPOConfig
from helpers.world import gold_sentiment

SETTINGS = {
    "ppo_trl.total_episodes": 119808, "ppo_trl.batch_size": 1024, "ppo_trl.mini_batches": 8,
    "ppo_trl.learning_rate": 4e-4, "ppo_trl.kl_coef": 0.2,
}
OURS = {"kl_target": 7.7, "kl_horizon": 3000}
SAME_REPEATS = 16  # responses to each prompt of best-of-n


class Job(imdb_task.Job):
    """The task of the frontier, its policies measured on the prompts of best-of-n as well."""

    def __init__(self, overrides: dict, prompts: int, same_prompts: int):
        self.same_prompts = same_prompts
        super().__init__(overrides, prompts)

    def measure(self, policy) -> dict:
        """As the frontier does, and on those prompts `same_reward`, `same_gold`, `same_kl` (means),
        `same_reward_low` (5 % quantile), `same_reward_median`, and the `lowest` responses; the
        mean reward of each prompt stays in `same_rewards`."""
        m = evaluation.measure(
            policy, self.reference, self.tokenizer, self.test[: self.same_prompts],
            self.reward_fn, self.task, gold_sentiment, SAME_REPEATS, seed=7)
        self.same_rewards = m["scores"].mean(1)
        low, middle = np.quantile(m["scores"], (0.05, 0.5))
        lowest = np.argsort(m["scores"][:, 0])[:4].tolist()
        same = {"reward": m["scores"].mean(), "gold": m["gold"].mean(), "kl": m["kl"].mean(),
                "reward_low": low, "reward_median": middle}
        return super().measure(policy) | {
            f"same_{key}": round(float(value), 4) for key, value in same.items()
        } | {"lowest": [[round(float(m["scores"][i, 0]), 2), self.test[i], m["texts"][i]]
                        for i in lowest]}


def kept_draws(
    job: Job, prompts: int, samples: int, folder: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """What `imdb_task.draw` returns, from `folder` where an earlier run has left it there.

    The file's name tells what draws depend on: models, task, prompts and how many.
    """
    if folder is None:
        return imdb_task.draw(job, prompts, samples)
    asked = hashlib.sha256(repr(job.test[:prompts]).encode()).hexdigest()[:16]
    path = folder / f"draws-{job.made_of}-{asked}-{samples}.npz"
    if not path.exists():
        scores, gold = imdb_task.draw(job, prompts, samples)
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        with aside.open("wb") as file:
            np.savez(file, scores=scores, gold=gold)
        os.replace(aside, path)
    with np.load(path) as kept:
        return kept["scores"], kept["gold"]


def shares(row: dict, best: list[dict]) -> dict:
    """What a policy gained over what best-of-n gains at its KL, on the same prompts."""
    if not 0 < row["same_kl"] <= best[-1]["kl"]:
        return {"share_of_best_of_n": None, "gold_share": None}
    found, kl = {}, [point["kl"] for point in best]
    for name, key in (("share_of_best_of_n", "reward_gain"), ("gold_share", "gold_gain")):
        curve = {"kl": kl, "reward": np.array([point[key] for point in best])}
        share = evaluation.share_of_best_of_n(row[f"same_{key}"], row["same_kl"], curve)
        found[name] = None if math.isnan(share) else round(share, 4)
    return found


def share_interval(rewards: np.ndarray, kl: float, scores: np.ndarray) -> list[float] | None:
    """The share of best-of-n's gain, low and high end of its 95 % interval over the prompts.

    None where the draws do not reach, as in `shares`.

    Args:
        rewards: (prompts,) the policy's mean reward for each prompt.
        kl: nats; n is the smallest whose best-of-n is as far from the untouched model.
        scores: (prompts, N) rewards of draws from the untouched model.
    """
    ns = range(1, scores.shape[1] + 1)
    if not 0 < kl <= evaluation.best_of_n_kl(ns[-1]):
        return None
    n = ns[bisect.bisect_left(ns, kl, key=evaluation.best_of_n_kl)]
    before = scores.mean(1)
    gains = np.stack([rewards - before, evaluation.best_of_n(scores, n) - before], axis=1)

    def ratio(sample, axis=0):
        policy, best = np.moveaxis(sample.mean(axis), -1, 0)
        return policy / best

    return [round(value, 4) for value in evaluation.bootstrap_interval(gains, ratio)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--samples", type=int, default=8192, help="draws per prompt for best-of-n")
    parser.add_argument("--best-prompts", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--draws", type=Path, metavar="FOLDER", help="keep best-of-n's draws here")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--ours", nargs="*", default=[], metavar="FIELD=VALUE")
    arguments = parser.parse_args()
    try:  # what is wrong shows here, not after the draws
        overrides = SETTINGS | parse_assignments(arguments.set)
        changes = OURS | parse_assignments(arguments.ours, "--ours")
        if unknown := changes.keys() - {field.name for field in dataclasses.fields(PPOConfig)}:
            raise UserError(f"--ours: PPOConfig (helpers/ppo_trainer.py) has no field "
                            f"{min(unknown)!r}.")
        trl_adapter.our_config(course.start("embedded", overrides, 0), **changes)
    except UserError as error:
        parser.error(str(error))
    job = Job(overrides, arguments.prompts, arguments.best_prompts)
    scores, gold = kept_draws(job, arguments.best_prompts, arguments.samples, arguments.draws)
    best = imdb_task.best_of(scores, gold)
    print(f"before: {job.before}; best of {best[-1]['n']} gains {best[-1]['reward_gain']:.2f} at "
          f"{best[-1]['kl']:.2f} nats", flush=True)
    rows, intervals = [], {}
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        for row in imdb_task.run_ours(job, seed, arguments.points, **changes):
            row = {"trainer": "ours", "seed": seed, **row, **job.gains(row)} | {
                f"same_{key}_gain": round(row[f"same_{key}"] - best[0][key], 4)
                for key in ("reward", "gold")}
            rows.append(row | shares(row, best) | {
                "entropy_ratio": round(row["entropy"] / job.before["entropy"], 4)})
            print({key: rows[-1][key] for key in (
                "episodes", "reward_gain", "gold_gain", "kl", "same_reward_gain", "same_kl",
                "share_of_best_of_n", "gold_share", "entropy_ratio", "distinct")}, flush=True)
        intervals[f"seed {seed}"] = share_interval(job.same_rewards, rows[-1]["same_kl"], scores)
        print(f"seed {seed}: share of best-of-n with its interval {intervals[f'seed {seed}']}, "
              f"{time.perf_counter() - start:.0f} s", flush=True)
    last = [row for row in rows if row["episodes"] == rows[-1]["episodes"]]
    print("stored:", store.save(
        "ppo_long", rows + best, made_of=job.made_of, before=job.before, overrides=overrides,
        changes=changes, best_prompts=arguments.best_prompts, share_intervals=intervals,
        ratio={f"seed {row['seed']}": row["share_of_best_of_n"] for row in last}).name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
