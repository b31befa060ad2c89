"""Checkers of notebook 10: a judge freed of its habit, what to ask next, who rates badly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from helpers.exercises.frame import Exercise, check_diagnosis, checker

# --- 10.1 ------------------------------------------------------------------------------------

UNTURNED = {
    "one order": "the pair was asked about in one order only, so the habit is still in it",
    "not turned": "asked the other way round, the log-odds are those of the second text; turn "
                  "their sign, or what is left is the habit itself",
    "sum": "two questions were asked; take their mean",
    "chance": "log-odds are wanted, not chances: no logistic function",
}


def asking_judge(habit: float = 1.5) -> Callable[[str, str], float]:
    """A judge with a habit: `ask(shown_first, shown_second)` is the log-odds of the first, nats.

    It likes words that are different from one another, and adds `habit` to whatever it reads
    first. Made for exercise 10.1.
    """

    def ask(shown_first: str, shown_second: str) -> float:
        worth = [0.4 * len(set(text.split())) for text in (shown_first, shown_second)]
        return worth[0] - worth[1] + habit

    return ask


def _unturned(ask: Callable, first: Sequence[str], second: Sequence[str],
              wrong: frozenset[str] = frozenset()) -> np.ndarray:
    one = np.array([ask(a, b) for a, b in zip(first, second, strict=True)])
    two = np.array([ask(b, a) for a, b in zip(first, second, strict=True)])
    two = two if "not turned" in wrong else -two
    out = one if "one order" in wrong else (one + two) / (1 if "sum" in wrong else 2)
    return 1 / (1 + np.exp(-out)) if "chance" in wrong else out


@checker
def check_unturned(function: Callable) -> str:
    """Exercise 10.1: `function(ask, first, second)`, log-odds of `first`, freed of the order.

    `ask(shown_first, shown_second)` gives the log-odds of what is shown first; (pairs,) comes out.
    """
    words = "one two three four five six seven eight".split()
    texts = [" ".join(words[:n]) for n in range(1, 9)]
    pairs = [(texts[:4], texts[:4]), (texts[1:6], texts[:5]), (texts[:3], texts[5:])]
    return Exercise(
        _unturned, UNTURNED,
        [(asking_judge(habit), list(a), list(b)) for a, b in pairs for habit in (1.5, -0.7, 3.0)],
        "the habit is in both orders with the same sign and cancels, and equal texts get 0",
        hint="one number for each pair",
    ).check(function)


# --- 10.2 ------------------------------------------------------------------------------------

DOUBT = {
    "lowest": "these are the lowest margins; what counts is how near they are to 0, on either side",
    "surest": "these are the pairs that the head is surest of; it learns least from them",
    "again": "some of these have a label already; ask about open pairs only",
    "first": "these are the first open pairs, whatever their margins are",
}


def _doubt(margins: Any, labelled: Any, count: int,
           wrong: frozenset[str] = frozenset()) -> np.ndarray:
    margins, labelled = np.asarray(margins, dtype=float), np.asarray(labelled).astype(bool)
    worth = margins if "lowest" in wrong else np.abs(margins)
    worth = -worth if "surest" in wrong else worth
    worth = np.arange(len(margins)).astype(float) if "first" in wrong else worth
    worth = worth if "again" in wrong else np.where(labelled, np.inf, worth)
    return np.argsort(worth, kind="stable")[:count].astype(float)


@checker
def check_doubt(function: Callable) -> str:
    """Exercise 10.2: `function(margins, labelled, count)`, the rows to ask about, in any order.

    margins: (pairs,) of a reward head; labelled: (pairs,) of 0 and 1. Row numbers come out.
    """
    first = ([0.4, -0.1, 2.0, -3.0, 0.2, -0.7, 1.1, 0.05, -1.6, 0.9],
             [0, 0, 0, 0, 0, 0, 1, 1, 0, 0])
    second = ([-0.3, 0.6, 1.4, -2.2, -0.02, 0.8, 3.1, -0.5], [0, 1, 0, 0, 1, 0, 0, 0])
    return Exercise(
        _doubt, DOUBT, [(*first, 3), (*first, 5), (*second, 2), (*second, 4)],
        "the pairs that the head can least tell apart, and none twice",
        hint="the numbers of `count` rows", keep=lambda rows, *case: np.sort(np.ravel(rows)),
    ).check(function)


# --- 10.3 ------------------------------------------------------------------------------------

RATERS = {"A": "turned", "B": "length", "C": "side", "D": "chance"}
RATER_CAUSES = {
    "turned": "they would be wrong on nearly every test question, not on half of them",
    "length": "they would say the longer one nearly always, on whichever side it stands",
    "side": "they would say the left one nearly always, whatever stands there",
    "chance": "they would agree with the test questions, with length and with a side about half "
              "the time each",
}
CAREFUL = "careful"


def odd_raters(seed: int = 0, questions: int = 80) -> dict[str, list[dict[str, Any]]]:
    """Answers of five made-up raters to test questions: one careful, and A to D with a fault each.

    Returns:
        by name, a row for each question: `known` (the better side, "left" or "right"), `said`, and
        `left_words`, `right_words` (how long each text is).
    """
    rng, answers = np.random.default_rng(seed), {}
    for name in (CAREFUL, *RATERS):
        fault, rows = RATERS.get(name), []
        for _ in range(questions):
            words = rng.integers(8, 40, 2)
            words[1] += words[0] == words[1]
            known = "left" if rng.random() < 0.5 else "right"
            said = known
            if fault == "turned":
                said = "right" if known == "left" else "left"
            elif fault == "length":
                said = "left" if words[0] > words[1] else "right"
            elif fault == "side":
                said = "left"
            elif fault == "chance":
                said = "left" if rng.random() < 0.5 else "right"
            if rng.random() < 0.08:  # everybody slips
                said = "right" if said == "left" else "left"
            rows.append({"known": known, "said": said, "left_words": int(words[0]),
                         "right_words": int(words[1])})
        answers[name] = rows
    return answers


@checker
def check_odd_raters(diagnosis: Any) -> str:
    """Exercise 10.3: `{"A": cause, …}` for the raters of `odd_raters`; causes: `RATER_CAUSES`."""
    check_diagnosis(diagnosis, RATERS, RATER_CAUSES, what="rater")
    return "test questions alone tell only one of them from the rest; sides and lengths tell more"
