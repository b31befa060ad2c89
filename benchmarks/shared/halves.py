"""Comparisons of a model with itself, and with one that is better by a known amount."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from helpers import evaluation

TRIALS, QUESTIONS, SHARES = 400, 200, (0.3, 0.6)


def win_rate(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[float, float, float]:
    """a, b: (questions, 2), score and length of one answer to each."""
    return evaluation.win_rate(a[:, 0], b[:, 0], seed=seed, resamples=1000)


def controlled(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[float, float, float]:
    """The same at equal length."""
    return evaluation.length_controlled_win_rate(
        a[:, 0], b[:, 0], a[:, 1], b[:, 1], seed=seed, resamples=200)


def gain(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[float, float, float]:
    """The mean difference of the scores."""
    return evaluation.bootstrap_interval(a[:, 0] - b[:, 0], seed=seed, resamples=1000)


MEASURES: dict[str, tuple[Callable[..., tuple[float, float, float]], float]] = {
    "win rate": (win_rate, 0.5), "length-controlled win rate": (controlled, 0.5),
    "mean gain": (gain, 0.0)}


def drawn(answers: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """One trial: answers of A and of B to the same questions, disjoint, each (questions, 2).

    Args:
        answers: (openings, answers each, 2), score and length.
        share: of A's answers how many are the better of two; 0 makes A and B the same policy.
    """
    asked = rng.permutation(len(answers))[:QUESTIONS]
    order = np.argsort(rng.random((len(asked), answers.shape[1])), axis=1)[:, :3]
    first, second, other = (answers[asked, order[:, k]] for k in range(3))
    better = (second[:, 0] > first[:, 0]) & (rng.random(len(asked)) < share)
    return np.where(better[:, None], second, first), other


def trials(answers: np.ndarray, measure: str, share: float, seed: int) -> np.ndarray:
    """(trials, 3): each trial's estimate and interval."""
    ask, rng = MEASURES[measure][0], np.random.default_rng(seed)
    return np.array([ask(*drawn(answers, share, rng), number) for number in range(TRIALS)])


def study(stored: dict[str, list[list[float]]], seed: int = 0) -> list[dict[str, Any]]:
    """How often each measure finds a difference, where there is none and where there is one."""
    answers = np.stack([np.array(stored["scores"]), np.array(stored["lengths"])], -1)
    plan = [(name, 0.0) for name in MEASURES] + [("win rate", share) for share in SHARES]
    rows = []
    for name, share in plan:
        got, null = trials(answers, name, share, seed), MEASURES[name][1]
        found = (got[:, 1] > null) | (got[:, 2] < null)
        rows.append({"measure": name, "questions": QUESTIONS, "trials": TRIALS,
                     "truth": null if name == "mean gain" else 0.5 + share / 6,
                     "found": float(found.mean()), "mean": float(got[:, 0].mean()),
                     "right side": float((got[found, 0] > null).mean()) if found.any() else None})
    return rows
