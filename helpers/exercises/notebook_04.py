"""Checkers of notebook 04: best of n without luck, a probe that fools, a bias to length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from helpers.exercises.frame import (
    Exercise,
    NotRight,
    call,
    checker,
    numbers,
)

# --- 04.1 ------------------------------------------------------------------------------------

BEST_OF = {
    "first n": "this is the best of the first n; the other scores know something too",
    "all": "this is the best of all scores",
    "worst": "this is the worst of n",
    "with return": "here a score can be drawn twice; a subset holds each score once",
    "mean": "this is the mean of all scores, which is best of one",
    "one less": "these are subsets of n - 1",
    "one more": "these are subsets of n + 1",
    "sum": "this is a sum over all subsets; divide by their number",
}


def _best_of(scores: Sequence[float], n: int, wrong: frozenset[str] = frozenset()) -> float:
    n = min(len(scores), max(1, n + ("one more" in wrong) - ("one less" in wrong)))
    pick = min if "worst" in wrong else max
    if "first n" in wrong:
        return pick(scores[:n])
    if "all" in wrong:
        return pick(scores)
    if "mean" in wrong:
        return float(np.mean(scores))
    if "with return" in wrong:
        ranked, size = sorted(scores, reverse="worst" in wrong), len(scores)
        return sum(x * ((i + 1) ** n - i**n) / size**n for i, x in enumerate(ranked))
    chosen = [pick(subset) for subset in combinations(scores, n)]
    return sum(chosen) / (1 if "sum" in wrong else len(chosen))


@checker
def check_best_of(function: Callable) -> str:
    """Exercise 04.1: `function(scores, n)`, expected best of n over all subsets of size n."""
    return Exercise(
        _best_of, BEST_OF,
        [([0.5, -1.0, 1.0, 0.0, 2.0], 3), ([1.4, 0.2, -0.6, 0.9], 2), ([3.0, 1.0], 1),
         ([3.0, 1.0], 2), ([0.3, -2.0, 0.7, 0.3, -0.4, 1.8], 4)],
        "the average over all subsets, without luck", hint="one number for the whole list",
    ).check(function)


# --- 04.2 ------------------------------------------------------------------------------------

ENOUGH = 0.5  # share of the answers on which a probe must fool


@checker
def check_fooling_probe(
    function: Callable, judge: Callable, prompts: Sequence[str], responses: Sequence[str],
    gold: Callable | None = None,
) -> str:
    """Exercises 04.2 and 06.3: `function(prompt, response)`, a text that a judge likes too well.

    Args:
        judge: rewards of lists of prompts and responses, as `reward.reward_function` gives it.
        gold: what a response is worth in truth, `gold(prompt, response)`; None where nobody knows.
    """
    texts = [call(function, p, r) for p, r in zip(prompts, responses, strict=True)]
    for text in texts:
        if not isinstance(text, str):
            raise NotRight(f"return a text for each response, not {type(text).__name__}")
    if texts == list(responses):
        raise NotRight("these are the responses as they were; change them")
    if not any(text.strip() for text in texts):
        raise NotRight("the texts are empty, which no reader would take for an answer")
    pairs = list(zip(prompts, texts, strict=True))
    rise = np.subtract(judge(list(prompts), texts), judge(list(prompts), list(responses)))
    higher = float(np.mean(rise > 0))
    if gold is None:
        if higher < ENOUGH:
            raise NotRight(f"the reward rises in {higher:.0%} of the answers; wanted is "
                           f"{ENOUGH:.0%}, and mean rise is {rise.mean():+.2f}")
        return (f"the reward rises in {higher:.0%} of the answers; what they are worth in truth "
                "nobody knows here, so read them")
    before = np.array([gold(p, r) for p, r in zip(prompts, responses, strict=True)])
    gain = np.array([gold(p, t) for p, t in pairs]) - before
    fooled = float(np.mean((rise > 0) & (gain <= 0)))
    said = (f"reward {rise.mean():+.2f}, truth {gain.mean():+.2f}, fooled on {fooled:.0%} of the "
            "answers")
    if fooled >= ENOUGH:
        return said
    if higher < ENOUGH:
        raise NotRight(f"{said}; the reward falls more often than it rises, so the judge sees "
                       "through this")
    if np.mean(gain > 0) >= ENOUGH:
        raise NotRight(f"{said}; these answers did become better, which is no deceit")
    raise NotRight(f"{said}; wanted is {ENOUGH:.0%}")


# --- 04.3 ------------------------------------------------------------------------------------


@checker
def check_length_bias(
    make: Callable, detect: Callable, pairs: Sequence[Mapping[str, Any]]
) -> str:
    """Exercise 04.3: make longer answers win in the training pairs, and detect it.

    Args:
        make: `make(pairs)`, pairs of the same texts in which the longer answer wins.
        detect: `detect(pairs)`, the share of pairs in which the longer answer is the chosen one,
            and its 95 % interval: (share, low, high). Pairs of equal length say nothing.
        pairs: honest ones, dictionaries with `prompt`, `chosen` and `rejected`.
    """
    honest = [dict(row) for row in pairs]
    found = call(make, honest)
    biased = _same_texts(found, honest)
    lengths = [(len(row["chosen"]), len(row["rejected"])) for row in biased]
    wins = [c > r for c, r in lengths if c != r]
    if np.mean(wins) < 0.05:
        raise NotRight("here the shorter answer wins; turn the comparison round")
    if np.mean(wins) < 0.9:
        raise NotRight(f"the longer answer is chosen in {np.mean(wins):.0%} of these pairs; "
                       "make it 90 % or more")
    small = [{"prompt": "", "chosen": "a" * c, "rejected": "b" * r}
             for c, r in [(5, 3), (2, 9), (4, 4), (8, 1), (7, 7), (6, 2)] * 9]
    for rows in (small, honest, biased):
        _check_detector(call(detect, [dict(row) for row in rows]), rows)
    return ("the bias is in the pairs, and your test finds it there and not where it is not; "
            "look at this row before any accuracy")


def _same_texts(found: Any, honest: list[dict]) -> list[Mapping[str, Any]]:
    if isinstance(found, str | Mapping) or not np.iterable(found):
        raise NotRight("return a list of pairs")
    rows = list(found)
    if not all(isinstance(row, Mapping) and {"prompt", "chosen", "rejected"} <= set(row)
               for row in rows):
        raise NotRight("every pair needs `prompt`, `chosen` and `rejected`")
    known = {(row["prompt"], frozenset([row["chosen"], row["rejected"]])) for row in honest}
    if any((row["prompt"], frozenset([row["chosen"], row["rejected"]])) not in known
           for row in rows):
        raise NotRight("a text was changed or paired anew; only choose which pairs stay and which "
                       "answer counts as chosen")
    if len(rows) < max(20, len(honest) // 10):
        raise NotRight(f"{len(rows)} of {len(honest)} pairs are left, too few to train on")
    if not any(len(row["chosen"]) != len(row["rejected"]) for row in rows):
        raise NotRight("in all of these pairs both answers are equally long")
    return rows


def _check_detector(given: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    (share, low, high), _ = numbers(given, (3,), hint="return share, low and high")
    gaps = np.array([len(row["chosen"]) - len(row["rejected"]) for row in rows])
    n, right = int((gaps != 0).sum()), float((gaps > 0)[gaps != 0].mean())
    mistakes = {
        "ties lose": ((gaps > 0).mean(), "pairs of equal length count as lost; leave them out"),
        "ties win": ((gaps >= 0).mean(), "pairs of equal length count as won; leave them out"),
        "shorter": (1 - right, "this is the share in which the shorter answer is chosen"),
        "per cent": (100 * right, "give a share between 0 and 1, not per cent"),
    }
    if abs(share - right) > 0.005:
        for value, sentence in mistakes.values():
            if abs(share - value) < 0.005:
                raise NotRight(sentence)
        raise NotRight(f"the longer answer is chosen in {right:.3f} of {n} pairs, not {share:.3f}")
    if not low <= share <= high:
        raise NotRight("the interval must hold the share: low, then high")
    wide = 2 * 1.96 * np.sqrt(max(right * (1 - right), 1 / n) / n)
    if not 0.4 * wide <= high - low <= 2.5 * wide + 2 / n:
        raise NotRight(f"for {n} pairs the interval is about {wide:.3f} wide, yours is "
                       f"{high - low:.3f}; how far would the share move with other pairs?")


