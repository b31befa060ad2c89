"""The task of notebook 06 for studies of PPO: the job, our trainer's run, best-of-n."""

from __future__ import annotations

import copy

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
from helpers.world import gold_sentiment


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
