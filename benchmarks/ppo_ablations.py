"""What each part of PPO does for the dialogue policy: one part changed at a time, three seeds.

    python benchmarks/ppo_ablations.py [--seeds 3] [--updates 14] [--only base no_kl]

Needs the stages `sft` and `reward_model` of the embedded profile and makes them if they are
missing. Prompts, settings and measurement are those of notebook 05. Each row is one run: reward,
gold utility, KL and variety on held-out prompts, and a short learning curve; the first rows are the
policy before training, sampled with as many seeds. What is stored of this commit is not run again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.shared import store
from helpers import course, data, evaluation, generation, models, reward, world
from helpers.ppo_trainer import PPO, PPOConfig

VARIANTS: dict[str, tuple[str, dict]] = {
    "sft": ("before: the SFT model", {}),
    "base": ("as in the notebook", {}),
    "no_clip": ("no clipping", {"clip_range": 1e6, "value_clip_range": 1e6}),
    "no_kl": ("no KL term", {"kl_coef": 0.0}),
    "no_whitening": ("advantages not whitened", {"whiten_advantages": False}),
    "lambda_0": ("λ = 0", {"lam": 0.0}),
    "lambda_1": ("λ = 1", {"lam": 1.0}),
    "reward_value": ("values from the reward model", {}),
    # a head that starts at zero and is not trained: whole returns less the batch's mean (REINFORCE)
    "no_critic": ("no critic: the batch's mean", {"lam": 1.0, "value_coef": 0.0}),
}


def measure(policy, reference, score, tokenizer, test, config) -> dict:
    """The policy's samples on held-out prompts: reward, gold, KL from the reference, variety."""
    rollout = generation.sample(policy, tokenizer, test, config.max_new_tokens,
                                config.temperature, seed=10_000 + config.seed)
    parts = (rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids, rollout.response_mask)
    new, old = (evaluation.response_logprobs(m, *parts, config.temperature)
                for m in (policy, reference))
    texts = [text.strip() for text in rollout.texts]
    gold = [world.gold_utility(p, t) for p, t in zip(test, texts, strict=True)]
    return {"reward": float(np.mean(score(test, texts))), "gold": float(np.mean(gold)),
            "kl": float(evaluation.sequence_kl(new, old, rollout.response_mask).mean()),
            "distinct": evaluation.distinct_share(texts),
            "length": float(rollout.lengths.float().mean()), "sample": texts[0]}


def run(settings, variant: str, seed: int, updates: int) -> dict:
    """Train one variant and measure it on held-out prompts."""
    policy, tokenizer = models.load_stage(settings, "sft")
    reference, _ = models.load_stage(settings, "sft")
    score = reward.load_reward_function(settings)
    value_model = None
    if variant == "reward_value":
        value_model, _ = models.load_stage(settings, "reward_model")
    prompts, test = data.policy_prompts(settings, tokenizer)
    config = PPOConfig.from_settings(settings, normalise_reward=False, seed=seed, updates=updates,
                                     **VARIANTS[variant][1])
    history, start = [], time.process_time()
    if variant != "sft":
        trainer = PPO(policy, reference, score, tokenizer, config, value_model=value_model)
        history = trainer.train(prompts)
        policy = trainer.policy
    seconds = time.process_time() - start
    keys = ("reward", "kl", "kl_exact", "entropy", "clip_fraction", "explained_variance",
            "ratio_max", "response_length")
    return {
        "variant": variant, "label": VARIANTS[variant][0], "seed": seed,
        "updates": updates if history else 0,
        **measure(policy, reference, score, tokenizer, test, config),
        "cpu_seconds": round(seconds, 1),
        "curve": {k: [round(row[k], 4) for row in history] for k in keys if history},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, help="of each run; default: as in the notebook")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    settings = course.start("embedded", {"threads": arguments.threads}, 0)
    updates = arguments.updates or settings.ppo.updates
    for stage in ("sft", "reward_model"):
        course.require(stage, settings)
    stored, commit = store.load("ppo_ablations") or {"rows": []}, store.commit()
    rows = [row for row in stored["rows"] if row.get("commit") == commit]
    known = {(row["variant"], row["seed"]) for row in rows}
    print(f"{'variant':<28}{'seed':>5}{'reward':>8}{'gold':>8}{'KL':>8}{'distinct':>9}{'CPU s':>7}")
    for variant in arguments.only:
        for seed in range(arguments.seeds):
            if (variant, seed) in known:
                continue
            row = {**run(settings, variant, seed, updates), "commit": commit}
            rows.append(row)
            print(f"{row['label']:<28}{seed:>5}{row['reward']:>8.2f}{row['gold']:>8.3f}"
                  f"{row['kl']:>8.2f}{row['distinct']:>9.2f}{row['cpu_seconds']:>7.0f}", flush=True)
            store.save("ppo_ablations", rows, threads=torch.get_num_threads())
    return 0


if __name__ == "__main__":
    sys.exit(main())
