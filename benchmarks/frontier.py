"""One frontier: gold utility against KL for every method, from the same SFT model.

    python benchmarks/frontier.py [--seeds 5] [--only best_of_n sft_best_of_n dpo_off …]

Needs the stages `sft` and `reward_model` of the embedded profile and makes them if they are
missing. Each part is one method with one seed, a minute or a few; what is stored is not run again
unless `--anew`. Policies are sampled at `ppo.temperature`, trained at it, and measured on the same
held-out prompts. Strengths: n for best-of-n and for the imitation of the best; for the others
moments along one run. Best-of-n is drawn for some of the prompts, so that it is compared with its
own n = 1. `labels` are comparisons that the method itself asks simulated annotators
for; the reward model's own pairs stand apart, as `reward_labels`. `generated` counts sampled
tokens up to that point, for best-of-n those of one answer; `seconds` is processor time.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.shared import store
from helpers import course, data, evaluation, generation, models, preference, reward, world
from helpers.engine.place import mixed_precision
from helpers.ppo_trainer import PPO, PPOConfig

DRAWS, DRAWN_PROMPTS = 32, 64  # responses to a held-out prompt, for best-of-n, and to how many
POOL_PROMPTS, POOL_DRAWS = 256, 8  # what the SFT model writes for imitation and for pairs
PAIRED_DRAWS = 4  # of these, for pairs: two of them make one
TEST_PROMPTS = 96
# Half of notebook 05's batch at half its rate: at the whole rate RLOO was at 7 nats in two updates.
ONLINE = {"updates": 12, "batch_size": 64, "mini_batch_size": 32, "learning_rate": 2.5e-4}
BETA = 0.1  # of DPO
MOMENTS = (0.2, 0.5, 1.0)  # shares of a run after which it is measured
METHODS = ("best_of_n", "sft_best_of_n", "dpo_off", "dpo_on", "rloo", "grpo", "ppo")


class Job:
    """What all methods share under one seed: models, prompts, a judge, a pool of samples."""

    def __init__(self, seed: int, threads: int | None) -> None:
        self.settings = course.start("embedded", {"threads": threads}, seed)
        self.seed, self.task = seed, self.settings.ppo
        self.reference, self.tokenizer = models.load_stage(self.settings, "sft")
        models.freeze(self.reference).eval()
        self.score = reward.load_reward_function(self.settings)
        self.prompts, test = data.policy_prompts(self.settings, self.tokenizer)
        self.test = test[:TEST_PROMPTS]
        self.precision = "bfloat16" if mixed_precision(self.settings) else "float32"

    def policy(self):
        """A fresh copy of the SFT model."""
        return models.load_stage(self.settings, "sft", trains=True)[0]

    def sample(self, model, prompts, seed):
        return generation.sample(model, self.tokenizer, prompts, self.task.max_new_tokens,
                                 self.task.temperature, seed=seed, batch_size=128)

    def measure(self, model) -> dict:
        """Gold, reward, KL, length and variety on the held-out prompts, one response to each."""
        rollout = self.sample(model, self.test, 10_000 + self.seed)
        parts = (rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids,
                 rollout.response_mask, self.task.temperature)
        new, old = (evaluation.response_logprobs(m, *parts) for m in (model, self.reference))
        texts = [text.strip() for text in rollout.texts]
        return {
            "gold": mean(world.gold_utility(p, t) for p, t in zip(self.test, texts, strict=True)),
            "reward": mean(self.score(self.test, texts)),
            "kl": float(evaluation.sequence_kl(new, old, rollout.response_mask).mean()),
            "length": float(rollout.lengths.float().mean()),
            "ended": float(rollout.finished.float().mean()),
            "distinct": evaluation.distinct_share(texts), "sample": texts[0]}

    @functools.cached_property
    def pool(self) -> tuple[list[str], list, float]:
        """Prompts, POOL_DRAWS rollouts of the SFT model to them, and the seconds that took."""
        start = time.process_time()
        prompts = self.prompts[:POOL_PROMPTS]
        draws = [self.sample(self.reference, prompts, 500 + 100 * self.seed + k)
                 for k in range(POOL_DRAWS)]
        return prompts, draws, time.process_time() - start


def mean(values) -> float:
    return float(np.mean(list(values)))


def watch(job: Job, rows: list[dict], model_of: Callable, generated: Callable) -> Callable:
    """A callback(step, of) that measures the policy at `MOMENTS`, off the clock."""
    clock = {"start": time.process_time(), "off": 0.0}

    def after(step: int, of: int) -> None:
        if step not in {max(1, round(share * of)) for share in MOMENTS}:
            return
        now = time.process_time()
        rows.append({"strength": round(step / of, 3), "generated": generated(step),
                     "seconds": now - clock["start"] - clock["off"], **job.measure(model_of())})
        clock["off"] += time.process_time() - now

    return after


def best_of_n(job: Job) -> list[dict]:
    """From DRAWS responses to each held-out prompt; KL is the bound."""
    prompts, start = job.test[:DRAWN_PROMPTS], time.process_time()
    draws = [job.sample(job.reference, prompts, 20_000 + 100 * job.seed + k) for k in range(DRAWS)]
    texts = [[t.strip() for t in draw.texts] for draw in draws]
    length = mean(float(draw.lengths.float().mean()) for draw in draws)
    scores, _ = preference.best_of(prompts, texts, job.score)
    seconds = time.process_time() - start
    gold = np.array([[world.gold_utility(p, draw[i]) for draw in texts]
                     for i, p in enumerate(prompts)])
    lengths = np.stack([draw.lengths.numpy() for draw in draws], 1)
    curve, longer = (evaluation.best_of_curve(scores, x, steps=12) for x in (gold, lengths))
    by_length = evaluation.best_of_curve(lengths.astype(float), gold, steps=12)
    return [{"strength": int(n), "kl": float(kl), "reward": float(r), "gold": float(g),
             "gold_longest": float(by_gold), "length": float(size), "generated": int(n) * length,
             "seconds": seconds * int(n) / DRAWS / len(prompts)}
            for n, kl, r, g, by_gold, size in zip(
                curve["n"], curve["kl"], curve["reward"], curve["gold"], by_length["gold"],
                longer["gold"], strict=True)]


def sft_best_of_n(job: Job) -> list[dict]:
    """Rejection sampling, then SFT on the best of n; an unfinished response is never chosen."""
    prompts, draws, made = job.pool
    rows = []
    for n in (2, 4, 8):
        start, policy = time.process_time(), job.policy()
        scores = np.stack([np.where(d.finished.numpy(), job.score(prompts, d.texts), -np.inf)
                           for d in draws[:n]], 1)
        kept = np.isfinite(scores.max(1)).nonzero()[0]
        best = [draws[int(scores[i].argmax())].texts[i] for i in kept]
        encoded = preference.encode_texts(job.tokenizer, [prompts[i] for i in kept], best)
        preference.fit_imitation(policy, encoded, job.task.temperature, epochs=3,
                                 learning_rate=3e-4, seed=job.seed, precision=job.precision)
        seconds = time.process_time() - start + made * n / POOL_DRAWS
        rows.append({"strength": n, "seconds": seconds,
                     "generated": int(sum(d.lengths.sum() for d in draws[:n])),
                     **job.measure(policy)})
    return rows


def on_pairs(job: Job) -> tuple[list[dict], int]:
    """Pairs of the SFT model's own samples, labelled anew by simulated annotators; tokens made."""
    prompts, draws, _ = job.pool
    draws = draws[:PAIRED_DRAWS]
    raters, rng, pairs = world.LABELLERS, Random(f"pairs:{job.seed}"), []
    for a, b in zip(draws[::2], draws[1::2], strict=True):
        for i, prompt in enumerate(prompts):
            first, second = a.texts[i].strip(), b.texts[i].strip()
            if not (a.finished[i] and b.finished[i] and first and second) or first == second:
                continue
            rater = raters[rng.randrange(len(raters))]
            chosen = rater.choose(prompt, first, second, rng)
            better, worse = (first, second) if chosen == "a" else (second, first)
            pairs.append({"prompt": prompt, "chosen": better, "rejected": worse})
    return pairs, int(sum(d.lengths.sum() for d in draws))


def dpo(job: Job, pairs: list[dict], generated: int) -> list[dict]:
    """DPO along one run over the pairs; every comparison is a label."""
    policy, rows = job.policy(), []
    sides = [preference.encode_texts(job.tokenizer, [p["prompt"] for p in pairs],
                                     [p[side] for p in pairs]) for side in ("chosen", "rejected")]
    fits = [i for i in range(len(pairs)) if max(len(s[i][0]) + len(s[i][1]) for s in sides) <= 128]
    chosen, rejected = ([side[i] for i in fits] for side in sides)
    preference.fit_dpo(
        policy, job.reference, chosen, rejected, BETA, job.task.temperature,
        epochs=1, learning_rate=1e-4, seed=job.seed, precision=job.precision,
        after_step=watch(job, rows, lambda: policy, lambda step: generated))
    return [{**row, "labels": len(chosen)} for row in rows]


def dpo_off(job: Job) -> list[dict]:
    """The course's own pairs, as many as the pool gives: others than the SFT model wrote them."""
    pairs = data.load_pairs(job.settings, "train")
    Random(job.seed).shuffle(pairs)
    return dpo(job, pairs[: len(on_pairs(job)[0])], 0)


def online(job: Job, kind: str) -> list[dict]:
    """PPO, RLOO or GRPO in the course's trainer: the same episodes, settings and reward."""
    rows, counted = [], []
    plain = {} if kind == "ppo" else {"value_coef": 0.0, "whiten_advantages": kind == "rloo"}
    config = PPOConfig.from_settings(job.settings, normalise_reward=False, kl_target=None,
                                     seed=job.seed, **ONLINE, **plain)
    parts = (job.policy(), job.reference, job.score, job.tokenizer, config)
    if kind == "ppo":
        trainer = PPO(*parts)
    else:
        how = preference.leave_one_out if kind == "rloo" else preference.group_advantages
        trainer = preference.GroupPPO(*parts, group=4, advantages=how)
    after = watch(job, rows, lambda: trainer.policy, lambda step: round(sum(counted)))

    def each(trainer, row):
        counted.append(row["response_length"] * config.batch_size)
        after(row["step"], config.updates)

    trainer.callbacks.append(each)
    trainer.train(job.prompts)
    return rows


def run(job: Job, method: str) -> list[dict]:
    """All points of one method under one seed."""
    if method in ("rloo", "grpo", "ppo"):
        rows = online(job, method)
    elif method == "dpo_on":
        rows = dpo(job, *on_pairs(job))
    else:
        rows = {"best_of_n": best_of_n, "sft_best_of_n": sft_best_of_n, "dpo_off": dpo_off}[
            method](job)
    judged = not method.startswith("dpo")
    return [{"method": method, "seed": job.seed, "labels": 0, "uses_reward_model": judged, **row}
            for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--anew", action="store_true", help="forget what is stored of these parts")
    arguments = parser.parse_args()
    settings = course.start("embedded", {"threads": arguments.threads}, 0)
    for stage in ("sft", "reward_model"):
        course.require(stage, settings)
    rows = (store.load("frontier") or {"rows": []})["rows"]
    known = {(row["method"], row["seed"]) for row in rows}
    for seed in range(arguments.seeds):
        job = None
        for method in ("sft", *arguments.only):
            if (method, seed) in known and not (arguments.anew and method != "sft"):
                continue
            job = job or Job(seed, arguments.threads)
            new = ([{"method": "sft", "seed": seed, **job.measure(job.reference)}]
                   if method == "sft" else run(job, method))
            at = store.commit()
            rows = [row for row in rows if (row["method"], row["seed"]) != (method, seed)]
            rows += [{**row, "commit": at} for row in new]
            for row in new:
                print(f"{method:<14} seed {seed}  strength {row.get('strength', 0):>6}  reward "
                      f"{row['reward']:5.2f}  gold {row['gold']:.3f}  KL {row['kl']:5.2f}  length "
                      f"{row['length']:.1f}  {row.get('seconds', 0):6.1f} s", flush=True)
            config = {"draws": DRAWS, "pool": [POOL_PROMPTS, POOL_DRAWS],
                      "paired_draws": PAIRED_DRAWS, "prompts": TEST_PROMPTS,
                      "drawn_prompts": DRAWN_PROMPTS, "moments": MOMENTS,
                      "online": ONLINE, "beta_dpo": BETA, "kl_coef": settings.ppo.kl_coef,
                      "temperature": settings.ppo.temperature}
            store.save("frontier", rows, threads=torch.get_num_threads(), config=config,
                       reward_labels=len(data.load_pairs(settings, "train")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
