"""What is measured of a reward model: accuracy, its ceiling, calibration, and simple rivals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from helpers.engine.kinds import PairText

Numbers = Sequence[float] | np.ndarray


def pair_accuracy(margins: Numbers) -> np.ndarray:
    """1 where the margin r(chosen) - r(rejected) is positive, ½ where it is 0: (n,)."""
    return (np.sign(np.asarray(margins, dtype=np.float64)) + 1) / 2


def expected_accuracy(margins: Numbers, probabilities: Numbers) -> np.ndarray:
    """Chance that an annotator agrees with the sign of each margin: (n,).

    probabilities: true chance that an annotator prefers `chosen`. Scoring with it instead of with
    one drawn label removes the noise of the draw.
    """
    right, p = pair_accuracy(margins), np.asarray(probabilities)
    return right * p + (1 - right) * (1 - p)


def bayes_ceiling(probabilities: Numbers) -> np.ndarray:
    """Expected accuracy of a judge who knows the true probabilities: max(p, 1 - p), (n,)."""
    p = np.asarray(probabilities)
    return np.maximum(p, 1 - p)


def reliability(
    margins: Numbers, right: Numbers | None = None, bins: int = 10
) -> list[dict]:
    """Stated confidence against accuracy, in equal bins from ½ to 1.

    The confidence in the preferred side is sigmoid(|margin|). `right` (n,) is 1 where the sign of
    the margin is right, or the probability that it is; by default `pair_accuracy(margins)`.
    Returns one row per bin that is not empty: `confidence`, `accuracy`, `count`.
    """
    gaps = np.asarray(margins, dtype=np.float64)
    correct = pair_accuracy(gaps) if right is None else np.asarray(right, dtype=np.float64)
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    rows = []
    for i in range(bins):
        inside = place == i
        if inside.any():
            rows.append(
                {
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(correct[inside].mean()),
                    "count": int(inside.sum()),
                }
            )
    return rows


def calibration_error(
    margins: Numbers, right: Numbers | None = None, bins: int = 10
) -> float:
    """Expected calibration error: mean |confidence - accuracy| over the bins of `reliability`,
    each weighted by its share of the pairs (Guo et al. 2017, arXiv:1706.04599)."""
    rows = reliability(margins, right, bins)
    gaps = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    return gaps / sum(row["count"] for row in rows)


def rank_correlation(x: Numbers, y: Numbers) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    return float(spearmanr(x, y).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def fit_weight(margins: Numbers) -> float:
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
    train: Sequence[PairText], test: Sequence[PairText], penalty: float = 1e-3, min_count: int = 3
) -> np.ndarray:
    """A linear Bradley-Terry model on word counts, fitted on `train`: margins on `test`, (n,).

    It sees neither prompt nor word order. What it reaches, a reward model gets without reading.
    Minimises the mean loss plus `penalty` times the squared weights; words in fewer than
    `min_count` responses of `train` do not count.
    """
    counter = CountVectorizer(
        tokenizer=_words, token_pattern=None,  # pyright: ignore[reportArgumentType]
        lowercase=False, min_df=min_count)
    try:
        counter.fit([pair[side] for pair in train for side in ("chosen", "rejected")])
    except ValueError:  # no word is frequent enough, so words tell nothing
        return np.zeros(len(test))

    def differences(pairs: Sequence[PairText]) -> sparse.csr_matrix:
        return counter.transform([pair["chosen"] for pair in pairs]) - counter.transform(
            [pair["rejected"] for pair in pairs])

    # Logistic regression wants both outcomes: each pair once as it is, and once turned round.
    seen = differences(train)
    model = LogisticRegression(C=1 / (4 * len(train) * penalty), fit_intercept=False, tol=1e-6,
                               max_iter=1000)
    model.fit(sparse.vstack([seen, -seen]), [1] * len(train) + [0] * len(train))
    return differences(test) @ model.coef_[0]


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "'" else f" {c} " for c in text.lower()).split()
