"""A reward model as a proxy: how far it can be pushed before the truth falls behind.

Gao, Schulman and Hilton 2023 (arXiv:2210.10760) describe gold against d = √KL, from where the
policy started: gain = d(α − β d) for best-of-n, gain = d(α − β log d) for reinforcement learning.
Both are linear in α and β, so that a fit is least squares and a bootstrap is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from helpers.errors import UserError
from helpers.evaluation import best_of_weights


def best_of_each(
    scores: np.ndarray, values: np.ndarray, ns: Sequence[int]
) -> np.ndarray:
    """Expected value of the answer that best-of-n picks by `scores`, for each n and question.

    Args:
        scores, values: (questions, N), of N independent answers of the untouched model; equal
            scores are picked alike, in the order of the answers.
        ns: each at least 1 and at most N.

    Returns:
        (len(ns), questions), the mean over all subsets of n answers (`best_of_weights`).
    """
    order = np.argsort(scores, axis=1, kind="stable")
    ranked = np.take_along_axis(np.asarray(values, dtype=float), order, axis=1)
    return np.stack([best_of_weights(scores.shape[1], int(n)) @ ranked.T for n in ns])


def gao_shape(distance: np.ndarray, form: str) -> np.ndarray:
    """What α and β of Gao's form are multiplied with, (points, 2): d, and −d² or −d log d.

    `distance`: d = √KL, in √nats.
    """
    d = np.asarray(distance, dtype=float)
    if form not in ("best_of_n", "rl"):
        raise UserError(f"there is no form {form!r}; it is 'best_of_n' or 'rl'.")
    falls = d * d if form == "best_of_n" else d * np.log(np.where(d > 0, d, 1.0))
    return np.stack([d, -falls], -1)


def gao_fit(distance: np.ndarray, gain: np.ndarray, form: str) -> tuple[float, float]:
    """α and β of the form that is nearest to the gains, by least squares.

    Args:
        distance: (points,) d = √KL from where the policy started, √nats; at least two beyond 0.
        gain: (points,) gold there less gold at the start.
    """
    shape = gao_shape(distance, form)
    if np.linalg.matrix_rank(shape) < 2:
        raise UserError("a fit of α and β needs at least two different distances beyond 0.")
    alpha, beta = np.linalg.lstsq(shape, np.asarray(gain, dtype=float), rcond=None)[0]
    return float(alpha), float(beta)


def gao_peak(alpha: float, beta: float, form: str) -> float:
    """The d at which the form is highest: α/(2β), or exp(α/β − 1). Infinite where β is not above 0,
    for then the form rises for ever."""
    if beta <= 0:
        return float("inf")
    with np.errstate(over="ignore"):
        return float(alpha / (2 * beta) if form == "best_of_n" else np.exp(alpha / beta - 1))


def gao_bootstrap(
    distance: np.ndarray, gold: np.ndarray, form: str, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """The fit on questions drawn anew with replacement: (resamples, 3) of α, β and the peak's d.

    Args:
        distance: (points,), the first 0.
        gold: (points, questions); the gain of a question is over its own first point.
    """
    shape, gain = gao_shape(distance, form), np.asarray(gold, dtype=float)
    gain = gain - gain[0]
    draws = np.random.default_rng(seed).integers(0, gain.shape[1], (resamples, gain.shape[1]))
    fits = (np.linalg.pinv(shape) @ gain)[:, draws].mean(-1).T
    return np.array([[a, b, gao_peak(a, b, form)] for a, b in fits])


def interval_of(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of bootstrap draws, some of which may be infinite."""
    ordered, tail = np.sort(np.asarray(draws, dtype=float)), (1 - level) / 2
    last = len(ordered) - 1
    return float(ordered[round(tail * last)]), float(ordered[round((1 - tail) * last)])


def fall_from_peak(gold: np.ndarray) -> np.ndarray:
    """How much gold each question lost from the peak to the last point, (questions,).

    A peak that is chosen and measured on the same questions looks higher than it is. So it is
    chosen on the one half of the questions and measured on the other, and the other way round.

    Args:
        gold: (points, questions).
    """
    gold = np.asarray(gold, dtype=float)
    if gold.shape[1] < 2:
        raise UserError("a peak is chosen on other questions than it is measured on: give two.")
    fall, half = np.zeros(gold.shape[1]), np.arange(gold.shape[1]) % 2 == 0
    for mine in (half, ~half):
        peak = int(gold[:, ~mine].mean(1).argmax())
        fall[mine] = gold[peak, mine] - gold[-1, mine]
    return fall


def conservative(
    scores: np.ndarray, how: str = "mean less spread", spreads: float = 1.0
) -> np.ndarray:
    """One score of an ensemble's, (models, …) -> (…): how good an answer is if one is careful.

    `how`: "mean", "minimum" or "mean less spread".

    Coste et al. 2023 (arXiv:2310.02743). All models must have one scale, such as mean 0 and
    deviation 1 on answers of the SFT model; `spreads` standard deviations (n − 1) are taken off.
    """
    scores = np.asarray(scores, dtype=float)
    if how == "mean":
        return scores.mean(0)
    if how == "minimum":
        return scores.min(0)
    if how == "mean less spread":
        return scores.mean(0) - spreads * scores.std(0, ddof=1)
    raise UserError(f"{how!r} is no way; it is 'mean', 'minimum' or 'mean less spread'.")
