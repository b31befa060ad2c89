"""Simulated annotators: people with a taste and noise of their own, whose choices are the labels.

They choose between two answers by a Bradley-Terry rule on the truth of `judge_dialogues.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, pvariance

from helpers.world.judge_dialogues import DIMENSIONS, WEIGHTS, analyse, combine, rubric

TEMPERATURE = 0.6


@dataclass(frozen=True)
class Annotator:
    """A simulated rater with its own weights, noise and position preference.

    Attributes:
        name: "simulated-01", …
        weights: per dimension, around `WEIGHTS`.
        noise: standard deviation added to each dimension in ratings, in points.
        bias: added to ratings, in points (a lenient or strict rater).
        position: utility in favour of the answer shown first.
        temperature: of the Bradley–Terry choice, in units of utility.
    """

    name: str
    weights: dict[str, float]
    noise: float
    bias: float
    position: float
    temperature: float = TEMPERATURE

    def utility(self, prompt: str, response: str) -> float:
        """The rater's own utility, same units as `gold_utility`."""
        scores, length = analyse(prompt, response)
        return combine(scores, length, self.weights)

    def rate(self, prompt: str, response: str, rng: Random) -> dict[str, int]:
        """Ratings 1 to 5 on each of `DIMENSIONS`; `rng` is a `random.Random`."""
        scores = rubric(prompt, response)
        return {
            name: min(5, max(1, round(scores[name] + self.bias + rng.gauss(0.0, self.noise))))
            for name in DIMENSIONS
        }

    def probability(self, prompt: str, a: str, b: str) -> float:
        """Probability of choosing `a` when it is shown first (Bradley–Terry)."""
        difference = self.utility(prompt, a) - self.utility(prompt, b) + self.position
        return _sigmoid(difference / self.temperature)

    def choose(self, prompt: str, a: str, b: str, rng: Random, ties: float = 0.0) -> str:
        """ "a", "b" or, with probability `ties` on a near draw, "tie"; `a` is shown first."""
        probability = self.probability(prompt, a, b)
        if ties and 0.4 < probability < 0.6 and rng.random() < ties:
            return "tie"
        return "a" if rng.random() < probability else "b"


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def simulated_annotators(n: int, seed: int) -> list[Annotator]:
    """`n` raters drawn from the population; the same seed gives the same raters."""
    rng = Random(f"annotators:{seed}")
    raters = []
    for i in range(n):
        raw = {name: WEIGHTS[name] * math.exp(rng.gauss(0.0, 0.35)) for name in DIMENSIONS}
        scale = sum(raw.values())
        raters.append(
            Annotator(
                name=f"simulated-{i + 1:02d}",
                weights={name: value / scale for name, value in raw.items()},
                noise=rng.uniform(0.3, 0.7),
                bias=rng.gauss(0.0, 0.25),
                position=rng.gauss(0.08, 0.12),
            )
        )
    return raters


LABELLERS = tuple(simulated_annotators(12, 0))  # who labelled the pairs
ANNOTATORS = LABELLERS[:9]  # whose mean is the stored probability


def expected_agreement(
    rows: Sequence[tuple[str, str]], dimension: str, raters: Sequence[Annotator] = ANNOTATORS
) -> float:
    """Krippendorff's α (interval) to expect when every rater rates every (prompt, response).

    One less the squared difference of two raters of one text, over that of any two ratings. Both
    are known: raters differ by their bias, their noise and by rounding (variance 1/12 each), texts
    by the rubric. That 1 and 5 end the scale is left out.
    """
    truth = [rubric(prompt, response)[dimension] for prompt, response in rows]
    own = fmean(rater.noise**2 for rater in raters) + 1 / 12
    bias = pvariance([rater.bias for rater in raters])
    within = 2 * own + 2 * bias * len(raters) / (len(raters) - 1)
    return 1 - within / (2 * (own + bias + pvariance(truth)))


def preference_probability(
    prompt: str, a: str, b: str, raters: Sequence[Annotator] = ANNOTATORS
) -> float:
    """True probability that an annotator prefers `a` to `b`.

    The mean over `raters` and over both orders of sigmoid((u(a) − u(b) ± position) /
    temperature), so `preference_probability(p, a, b) + preference_probability(p, b, a) == 1`.
    """
    (first, m), (second, n) = analyse(prompt, a), analyse(prompt, b)
    total = 0.0
    for rater in raters:
        gap = combine(first, m, rater.weights) - combine(second, n, rater.weights)
        total += _sigmoid((gap + rater.position) / rater.temperature)
        total += _sigmoid((gap - rater.position) / rater.temperature)
    return total / (2 * len(raters))
