"""Checkers of notebook 01: a choice's probability, a repaired cost, a zero, and a trap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from helpers import gridworld
from helpers.exercises.frame import Exercise, NotRight, call, checker, numbers

LARGEST = 1e9  # beyond it the planner's sums lose their last digits, and it would not end

# --- 01.1 ------------------------------------------------------------------------------------

PREFERENCE = {
    "swapped": "this is the probability of the second walk; is it first minus second?",
    "gap": "this is the difference of the returns; a sigmoid makes it a probability",
    "odds": "these are the odds; a probability is odds / (1 + odds)",
    "log": "this is the logarithm of the probability",
    "share": "this divides the returns themselves; the model divides their exponentials",
    "certain": "this says who has the larger return; a choice has luck in it",
    "one walk": "this looks at the first walk only; the difference of both counts",
    "no weights": "the features are added up without their weights",
}


def _preference(first: Any, second: Any, weights: Any, wrong: frozenset[str] = frozenset()) -> Any:
    if "swapped" in wrong:
        first, second = second, first
    weights = np.ones_like(weights) if "no weights" in wrong else weights
    gap = float((first - ("one walk" not in wrong) * second) @ weights)
    if "share" in wrong:
        total = float((first + second) @ weights)
        return float(first @ weights) / total if total else 0.0
    if "gap" in wrong:
        return gap
    if "odds" in wrong:
        return np.exp(gap)
    if "certain" in wrong:
        return float(gap > 0)
    log = -np.logaddexp(0, -gap)
    return log if "log" in wrong else np.exp(log)


@checker
def check_preference_probability(function: Callable) -> str:
    """Exercise 01.1: `function(first, second, weights)`, P(first walk preferred), Bradley-Terry."""
    weights = np.array([-1.0, 0.0, -1.0, -3.0, 4.0, 10.0])
    plain, muddy = np.array([8.0, 8, 0, 0, 0, 1]), np.array([6.0, 6, 0, 2, 0, 1])
    bumpy, far = np.array([9.0, 7, 1, 0, 0, 1]), np.array([0.0, 0, 0, 0, 0, 90])
    overflow = ("for returns about 900 apart it must be 1 or 0; take the difference before the "
                "exponential")
    return Exercise(
        _preference, PREFERENCE,
        [(plain, muddy, weights), (bumpy, plain, weights), (muddy, bumpy, 0.5 * weights),
         (plain[:2], bumpy[:2], np.array([0.4, -0.3]))],
        "it depends on the difference of the returns only", hint="one probability",
        extremes=[((far, plain, weights), overflow), ((plain, far, weights), overflow)],
    ).check(_quiet(function))


def _quiet(function: Any) -> Any:
    """The same function, without NumPy's warnings of an overflow that the checker explains."""
    if not callable(function):
        return function

    def quiet(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args)

    quiet.__name__ = getattr(function, "__name__", type(function).__name__)
    return quiet


# --- 01.2 ------------------------------------------------------------------------------------


def _rewards(function: Any, argument: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    reward, _ = numbers(call(_quiet(function), argument), shape, hint="one number for each move")
    if np.abs(reward).max() > LARGEST:
        raise NotRight(f"a move earns {reward.flat[np.abs(reward).argmax()]:g}; stay within "
                       f"±{LARGEST:g}")
    return reward


def _walks(grid: Any, reward: np.ndarray) -> Iterator[bool]:
    """Whether five walks that are planned with a reward arrive."""
    policy = gridworld.plan(grid, reward)
    for start in gridworld.starts(grid, 5, np.random.default_rng(0)):
        yield gridworld.follow(grid, policy, start).success


@checker
def check_repaired_cost(function: Callable) -> str:
    """Exercise 01.2: `function(features)`, a reward per move under which circling never pays."""
    arrived: list[bool] = []
    for size, seed in ((10, 7), (10, 8), (8, 9)):
        grid = gridworld.make_map(seed, size)
        features = gridworld.moves(grid)[1]
        reward = _rewards(function, features, features.shape[:2])
        there, back = ((features == [1, progress, 0, 0, 0, 0]).all(-1) for progress in (1, -1))
        paid, cost = reward[there].max(), reward[back].max()
        circle = paid + cost
        if circle > 1e-6 * max(abs(paid), 1e-3):
            raise NotRight(f"one step there and one back still earn {circle:+.2f}; what a step "
                           "back costs must be at least what the step forward paid")
        if np.ptp(reward) == 0 and reward.flat[0] == 0:
            raise NotRight("no move earns or costs anything; is there still something to gain on "
                           "the way to the goal?")
        arrived += _walks(grid, reward)
    if not all(arrived):
        raise NotRight(f"circling no longer pays, but only {sum(arrived)} of {len(arrived)} walks "
                       "arrive; is there still something to gain on the way to the goal?")
    return f"a circle earns nothing, and {len(arrived)} of {len(arrived)} walks arrive"


# --- 01.3 ------------------------------------------------------------------------------------


@checker
def check_rating_zero(function: Callable) -> str:
    """Exercise 01.3: `function(ratings)`, rewards from predicted ratings, so that walks arrive."""
    arrived: list[bool] = []
    for size, seed in ((10, 11), (10, 12), (8, 13)):
        grid = gridworld.make_map(seed, size)
        features = gridworld.moves(grid)[1]
        ratings = np.clip(3.5 + 0.5 * (features @ gridworld.TRUE_WEIGHTS + features[..., 1]), 1, 5)
        reward = _rewards(function, ratings, ratings.shape)
        slope, zero = np.polyfit(ratings.ravel(), reward.ravel(), 1)
        if np.abs(slope * ratings + zero - reward).max() > 1e-3 * max(np.ptp(reward), 1e-9):
            raise NotRight("equal steps of the rating must stay equal steps of the reward; only "
                           "shift")
        if np.ptp(reward) == 0 or slope <= 0:
            raise NotRight("better rated moves must keep the better reward; only shift")
        arrived += _walks(grid, reward)
    if not all(arrived):
        raise NotRight(f"only {sum(arrived)} of {len(arrived)} walks arrive; while a step forward "
                       "and one back earn more than nothing together, going on for ever beats "
                       "arriving")
    return f"{len(arrived)} of {len(arrived)} walks arrive"


# --- 01.4 ------------------------------------------------------------------------------------

PLAUSIBLE = 0.8


@checker
def check_plausible_trap(function: Callable) -> str:
    """Exercise 01.4: `function(features)`, a reward that looks right and leads nobody home.

    Over all moves it must correlate with the true reward by at least 0.8, and of the walks that
    are planned with it no more than half may arrive.
    """
    arrived: list[bool] = []
    agreement = []
    for size, seed in ((10, 7), (10, 8), (8, 9)):
        grid = gridworld.make_map(seed, size)
        features = gridworld.moves(grid)[1]
        reward = _rewards(function, features, features.shape[:2])
        truth = features @ gridworld.TRUE_WEIGHTS
        same = np.corrcoef(reward.ravel(), truth.ravel())[0, 1] if np.ptp(reward) else 0.0
        agreement.append(same)
        arrived += _walks(grid, reward)
    worst, home = float(min(agreement)), sum(arrived)
    said = f"correlation with the truth {worst:.2f}, {home} of {len(arrived)} walks arrive"
    if worst < 0:
        raise NotRight(f"{said}; this is the truth upside down, which anybody would see")
    if worst < PLAUSIBLE:
        raise NotRight(f"{said}; below {PLAUSIBLE} nobody would take it for the truth: stay near "
                       "it, and change what few moves have")
    if home == len(arrived):
        raise NotRight(f"{said}; this is no trap yet: where could a walk earn without end?")
    if home > len(arrived) / 2:
        raise NotRight(f"{said}; no more than half may arrive")
    return f"{said}: move by move it looks like the truth, and the planner found the hole"
