"""Checkers of notebook 07: bootstrap, how many prompts, and a judge with a habit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from helpers.exercises.frame import (
    Exercise,
    NotRight,
    call,
    check_guess,
    checker,
    close,
    name_mistakes,
    numbers,
)

# --- 07.1 ------------------------------------------------------------------------------------

BOOTSTRAP = {
    "swapped": "the ends are swapped",
    "values": "these are quantiles of the values; resample, average, then take quantiles",
    "no replacement": "the ends are equal; each draw must take rows *with* replacement",
    "90": "this is a 90 % interval; cut off 2.5 % at either end",
    "99": "this is a 99 % interval; cut off 2.5 % at either end",
    "half": "each draw takes too few rows; take as many as there are",
    "median": "this is of the median; take the mean of each draw",
    "formula": "this is the mean and its standard error; the bootstrap draws, and follows a skew",
    "spread": "this is mean ± 1.96 standard deviations of the values; that is no error of the mean",
}
DRAWS = 20_000
TOO_FAR = 0.12  # in standard errors of the mean; the luck of 10,000 draws is a fourth of it


def _interval(
    values: np.ndarray, draws: int, seed: int, wrong: frozenset[str] = frozenset()
) -> np.ndarray:
    level = 5.0 if "90" in wrong else 0.5 if "99" in wrong else 2.5
    n, z = len(values), {5.0: 1.645, 0.5: 2.576, 2.5: 1.96}[level]
    if "values" in wrong:
        ends = np.percentile(values, [level, 100 - level])
    elif wrong & {"formula", "spread"}:
        width = values.std() / (1 if "spread" in wrong else np.sqrt(n))
        ends = values.mean() + z * width * np.array([-1, 1])
    elif "no replacement" in wrong:
        ends = np.full(2, np.median(values) if "median" in wrong else values.mean())
    else:
        take = n // 2 if "half" in wrong else n
        rows = np.random.default_rng(12345).integers(0, n, (DRAWS, take))
        of_each = np.median if "median" in wrong else np.mean
        ends = np.percentile(of_each(values[rows], axis=1), [level, 100 - level])
    return ends[::-1] if "swapped" in wrong else ends


@checker
def check_bootstrap(function: Callable) -> str:
    """Exercise 07.1: `function(values, draws, seed)`, the (low, high) 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    even, skewed = rng.normal(2.0, 1.0, 120), np.exp(rng.normal(0.0, 1.3, 17))
    cases = [(values, 10_000, 0) for values in (even, skewed)]
    given = [numbers(call(function, *case), (2,), hint="return the two ends, (low, high)")[0]
             for case in cases]
    error = [values.std() / np.sqrt(len(values)) for values, _, _ in cases]

    def fits(wrong: frozenset[str]) -> bool:
        return all((np.abs(ends - _interval(*case, wrong)) <= TOO_FAR * e).all()
                   for ends, case, e in zip(given, cases, error, strict=True))

    if not fits(frozenset()):
        said = name_mistakes(fits, BOOTSTRAP)
        if not said:
            (low, high), (mine, mine_high) = _interval(*cases[0]), given[0]
            if _fits_one(given[0], cases[0], error[0]):
                (low, high), (mine, mine_high) = _interval(*cases[1]), given[1]
            said = (f"about [{low:.2f}, {high:.2f}] is right, yours is "
                    f"[{mine:.2f}, {mine_high:.2f}]")
        raise NotRight(said)
    again = [numbers(call(function, skewed, 10, seed), (2,))[0] for seed in range(10)]
    lows = np.array([ends[0] for ends in again])
    if np.ptp(lows) == 0:
        raise NotRight("another seed gives the very same interval; draw with the one that is given")
    if np.ptp(lows) < 0.25 * error[1]:
        raise NotRight("with 10 draws the ends should jump about; `draws` has no effect")
    if not close(numbers(call(function, skewed, 10, 0), (2,))[0], again[0], 1e-6):
        raise NotRight("the same seed gives two intervals: draw with the seed that is given")
    return "resample rows, average, take the quantiles"


def _fits_one(ends: np.ndarray, case: tuple[np.ndarray, int, int], error: float) -> bool:
    """Whether an interval is right for one case, up to the luck of the draw."""
    return bool((np.abs(ends - _interval(*case)) <= TOO_FAR * error).all())


# --- 07.2 ------------------------------------------------------------------------------------


@checker
def check_prompts_needed(guess: Any, half_width: float = 0.03) -> str:
    """Exercise 07.2: foretell how many prompts a win rate near one half needs.

    Args:
        guess: prompts for a 95 % interval of plus or minus `half_width`, ties left aside.
        half_width: as a share, 0.03 for three percentage points.

    The standard error of a share p of n is √(p(1-p)/n), at most 1/(2√n).
    """
    right = (1.96 * 0.5 / half_width) ** 2
    check_guess(guess, right, {
        "no 1.96": (0.25 / half_width**2,
                    "this makes *one* standard error that small; 95 % need 1.96 of them"),
        "whole": (right / 4, "this is for an interval that wide from end to end; plus *or* minus"),
        "no square": (1.96 * 0.5 / half_width,
                      "the error falls with the square root of n; you forgot to square"),
        "sd of 1": (4 * right, "the standard deviation of a win or a loss is one half, not 1"),
        "one-sided": ((1.645 * 0.5 / half_width) ** 2,
                      "1.645 leaves 5 % on one side; a 95 % interval has 2.5 % on either"),
    }, within=0.03)
    return f"about {right:.0f}; half the width costs four times the prompts"


# --- 07.3 ------------------------------------------------------------------------------------


def position_judge(habit: float = 1.0) -> Callable[[str, str], float]:
    """A judge with a habit: `judge(first, second)` is 1, 0.5 or 0 for the *first* text.

    It likes words that are different from one another, and adds `habit` to whatever it reads
    first. Made for exercise 07.3.
    """

    def judge(first: str, second: str) -> float:
        worth = [len(set(text.split())) for text in (first, second)]
        gap = worth[0] + habit - worth[1]
        return 1.0 if gap > 0 else 0.0 if gap < 0 else 0.5

    return judge


FAIR = {
    "A first": "the judge always reads A first, and may like what it reads first; "
               "ask in both orders",
    "A second": "the judge always reads A second, and may like what it reads first; "
                "ask in both orders",
    "not turned": "asked the other way round, the judge's answer is about B; A gets what is left "
                  "to 1",
    "B": "this is B's win rate",
    "sum": "two questions were asked; take their mean",
}


def _fair(
    judge: Callable, a: Sequence[str], b: Sequence[str], wrong: frozenset[str] = frozenset()
) -> float:
    first = float(np.mean([judge(x, y) for x, y in zip(a, b, strict=True)]))
    second = float(np.mean([judge(y, x) for x, y in zip(a, b, strict=True)]))
    second = second if "not turned" in wrong else 1 - second
    rate = (first + second) / (1 if "sum" in wrong else 2)
    rate = first if "A first" in wrong else second if "A second" in wrong else rate
    return 1 - rate if "B" in wrong else rate


@checker
def check_fair_win_rate(function: Callable) -> str:
    """Exercise 07.3: `function(judge, a_texts, b_texts)`, A's win rate freed of position.

    `judge(first, second)` says 1, 0.5 or 0 for the first of two texts.
    """
    words = "one two three four five six seven eight".split()
    texts = [" ".join(words[:n]) for n in range(1, 9)]
    pairs = [(texts, texts), (texts[1:], texts[:-1]), (texts[:3], texts[5:]),
             (texts[2:6], texts[1:5])]
    return Exercise(
        _fair, FAIR,
        [(position_judge(habit), list(a), list(b)) for a, b in pairs for habit in (1.0, 2.0, -1.0)],
        "both orders, and the habit cancels: equal texts get one half",
        hint="one rate for all pairs together",
    ).check(function)
