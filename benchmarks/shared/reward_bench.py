"""What the studies of the reward model share: backbone, pairs, training and judgement."""

from __future__ import annotations

import math
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from helpers import data, models, reward, world
from helpers.paths import ROOT
from helpers.profiles import load_profile

SOURCE = ROOT / "data" / "models" / "sampler"
AT_LEAST = 1000  # pairs seen in a run: few pairs are passed over several times
Row = dict


class Bench:
    """Settings, tokenizer and pairs that all runs share, and the backbone's folder."""

    def __init__(self, threads: int, test: int, scale: float = 1.0, source: Path = SOURCE):
        self.source = source
        self.settings = load_profile("embedded", {"threads": threads})
        self.scale = scale
        self.train = data.load_pairs(self.settings, "train")
        self.validation = data.load_pairs(self.settings, "validation")[: int(150 * scale)]
        self.test = data.load_pairs(self.settings, "test")[:test]
        _, self.tokenizer = models.load_causal(source, self.settings)

    def some(self, count: int, seed: int) -> list[Row]:
        """`count` training pairs, others for every seed."""
        count = min(len(self.train), int(count * self.scale))
        return random.Random(seed).sample(self.train, count)

    def model(self, seed: int, **models_settings) -> torch.nn.Module:
        """A reward model with an untrained head."""
        overrides = {f"models.{key}": value for key, value in models_settings.items()}
        settings = load_profile("embedded", {"threads": self.settings.threads, **overrides})
        torch.manual_seed(seed)
        return models.new_reward_model(self.source, self.tokenizer, settings)

    def fit(self, model, pairs: list[Row], seed: int, **options) -> float:
        """Train on `pairs` with the profile's settings; returns processor seconds."""
        own = {"epochs": self.epochs(len(pairs)), "evaluations": 2, "seed": seed, "patience": None,
               "bf16": False, "margin": 0.0}
        config = reward.RewardConfig.from_settings(self.settings, **{**own, **options})
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            reward.train_reward_model(
                model, self.tokenizer, pairs, self.validation, folder, config)
        return (time.process_time() - start) / torch.get_num_threads()

    def epochs(self, count: int) -> int:
        """Passes over `count` pairs: the profile's, or more where there are few."""
        return max(self.settings.reward.epochs, math.ceil(self.scale * AT_LEAST / count))

    def judge(self, margins: np.ndarray) -> Row:
        """Measures of reward margins on the held-out pairs, by the true probabilities."""
        p = np.array([row["probability"] for row in self.test])
        expected = reward.expected_accuracy(margins, p)
        return {
            "accuracy": round(float(reward.pair_accuracy(margins).mean()), 4),
            "expected_accuracy": round(float(expected.mean()), 4),
            "ece": round(reward.calibration_error(margins, expected), 4),
            "confidence": round(float((1 / (1 + np.exp(-np.abs(margins)))).mean()), 4),
        }

    def score(self, model) -> np.ndarray:
        """Reward margins on the held-out pairs."""
        return np.subtract(*reward.score_pairs(model, self.tokenizer, self.test))

    def margins(self, model, rows: list[Row]) -> np.ndarray:
        """r(a) - r(b) of comparisons."""
        pairs = [row | {"chosen": row["response_a"], "rejected": row["response_b"]} for row in rows]
        return np.subtract(*reward.score_pairs(model, self.tokenizer, pairs))

    def run(self, model, pairs: list[Row], seed: int, **options) -> Row:
        """Train and judge."""
        seconds = self.fit(model, pairs, seed, **options)
        return {"pairs": len(pairs), "seconds": round(seconds, 1)} | self.judge(self.score(model))


def gold_margins(pairs: list[dict]) -> np.ndarray:
    """True utility of the chosen less that of the rejected responses: (n,)."""
    return np.array([world.gold_utility(row["prompt"], row["chosen"])
                     - world.gold_utility(row["prompt"], row["rejected"]) for row in pairs])


def fit_and_judge(bench: Bench, pairs: list[dict], gold: np.ndarray) -> dict:
    """One reward model, trained and scored as notebook 04 does it."""
    settings, start = bench.settings, time.perf_counter()
    bf16 = models.mixed_precision(settings)
    model = bench.model(settings.seed)
    fitted = reward.fit_weight(
        reward.likelihood_margins(model, bench.tokenizer, bench.validation))
    reward.use_likelihood(model, min(fitted, settings.reward.likelihood))
    bench.fit(model, pairs, settings.seed, evaluations=4, patience=settings.reward.patience,
              bf16=bf16)
    margins = np.subtract(*reward.score_pairs(model, bench.tokenizer, bench.test, bf16=bf16))
    found = bench.judge(margins)
    ceiling = reward.bayes_ceiling([row["probability"] for row in bench.test]).mean()
    return {"pairs": len(pairs), "seconds": round(time.perf_counter() - start, 1), **found,
            "share_of_ceiling": round(found["expected_accuracy"] / float(ceiling), 4),
            "margin_correlation": round(reward.rank_correlation(margins, gold), 4)}
