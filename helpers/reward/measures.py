"""What is measured of a reward model: accuracy, its ceiling, calibration, and simple rivals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F


def pair_accuracy(margins: Sequence[float]) -> np.ndarray:
    """1 where the margin r(chosen) - r(rejected) is positive, ½ where it is 0: (n,)."""
    return (np.sign(np.asarray(margins, dtype=np.float64)) + 1) / 2


def expected_accuracy(margins: Sequence[float], probabilities: Sequence[float]) -> np.ndarray:
    """Chance that an annotator agrees with the sign of each margin: (n,).

    probabilities: true chance that an annotator prefers `chosen`. Scoring with it instead of with
    one drawn label removes the noise of the draw.
    """
    right, probabilities = pair_accuracy(margins), np.asarray(probabilities)
    return right * probabilities + (1 - right) * (1 - probabilities)


def bayes_ceiling(probabilities: Sequence[float]) -> np.ndarray:
    """Expected accuracy of a judge who knows the true probabilities: max(p, 1 - p), (n,)."""
    probabilities = np.asarray(probabilities)
    return np.maximum(probabilities, 1 - probabilities)


def reliability(
    margins: Sequence[float], right: Sequence[float] | None = None, bins: int = 10
) -> list[dict]:
    """Stated confidence against accuracy, in equal bins from ½ to 1.

    The confidence in the preferred side is sigmoid(|margin|). `right` (n,) is 1 where the sign of
    the margin is right, or the probability that it is; by default `pair_accuracy(margins)`.
    Returns one row per bin that is not empty: `confidence`, `accuracy`, `count`.
    """
    margins = np.asarray(margins, dtype=np.float64)
    right = pair_accuracy(margins) if right is None else np.asarray(right, dtype=np.float64)
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    rows = []
    for i in range(bins):
        inside = place == i
        if inside.any():
            rows.append(
                {
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                    "count": int(inside.sum()),
                }
            )
    return rows


def calibration_error(
    margins: Sequence[float], right: Sequence[float] | None = None, bins: int = 10
) -> float:
    """Expected calibration error: mean |confidence - accuracy| over the bins of `reliability`,
    each weighted by its share of the pairs (Guo et al. 2017, arXiv:1706.04599)."""
    rows = reliability(margins, right, bins)
    gaps = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    return gaps / sum(row["count"] for row in rows)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    ranks = []
    for values in (np.asarray(x), np.asarray(y)):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def fit_weight(margins: Sequence[float]) -> float:
    """The weight w >= 0 under which choices are likeliest when P(chosen) = sigmoid(w · margin).

    margins: (n,), chosen less rejected. One unknown, by Newton's method; 0 where the margins
    speak against the choices.
    """
    gaps, weight = np.asarray(margins, dtype=np.float64), 0.0
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(weight * gaps, -30, 30)))
        step = np.mean((1 - p) * gaps) / (np.mean(p * (1 - p) * gaps**2) + 1e-12)
        weight = max(0.0, weight + float(np.clip(step, -1.0, 1.0)))
        if abs(step) < 1e-9:
            break
    return weight


def length_margins(pairs: Sequence[dict]) -> np.ndarray:
    """The "longer wins" baseline: difference in characters, (n,)."""
    return np.array([len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs], dtype=float)


def bag_of_words_margins(
    train: Sequence[dict], test: Sequence[dict], penalty: float = 1e-3, min_count: int = 3
) -> np.ndarray:
    """A linear Bradley-Terry model on word counts, fitted on `train`: margins on `test`, (n,).

    It sees neither prompt nor word order. What it reaches, a reward model gets without reading.
    """
    words = [[_words(pair[side]) for side in ("chosen", "rejected")] for pair in [*train, *test]]
    counts: dict[str, int] = {}
    for pair in words[: len(train)]:
        for word in pair[0] + pair[1]:
            counts[word] = counts.get(word, 0) + 1
    kept = sorted(word for word, n in counts.items() if n >= min_count)
    index = {word: i for i, word in enumerate(kept)}
    entries: dict[tuple[int, int], float] = {}
    for row, pair in enumerate(words):
        for sign, side in zip((1.0, -1.0), pair, strict=True):
            for word in side:
                if word in index:
                    key = (row, index[word])
                    entries[key] = entries.get(key, 0.0) + sign
    place = torch.tensor(list(entries), dtype=torch.long).reshape(-1, 2).T
    values = torch.tensor(list(entries.values()), dtype=torch.float32)
    fit = place[0] < len(train)
    width = max(len(index), 1)
    features = torch.sparse_coo_tensor(
        place[:, fit], values[fit], (len(train), width), check_invariants=False
    ).coalesce()
    weights = torch.zeros(width, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        margins = torch.sparse.mm(features, weights)
        loss = F.softplus(-margins).mean() + penalty * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    rows = place[0, ~fit] - len(train)
    margins = torch.zeros(len(test)).index_add_(
        0, rows, values[~fit] * weights.detach()[place[1, ~fit], 0]
    )
    return margins.double().numpy()


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "'" else f" {c} " for c in text.lower()).split()
