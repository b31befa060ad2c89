"""Checkers of notebook 09: errors of a proxy, Gao's peak, a careful ensemble, a text that fools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from helpers.exercises.frame import (
    Exercise,
    NotDone,
    NotRight,
    check_diagnosis,
    checker,
)

# --- 09.1 ------------------------------------------------------------------------------------

ERRORS = {
    "even noise": "gold would go on rising beside the proxy, only more slowly",
    "wild noise": "the proxy would climb ever faster, and gold would fall back to where it began "
                  "and no farther",
    "a loophole": "gold would fall below where it began, since the answers that are liked most are "
                  "bad ones",
}
PROXIES = {"A": "wild noise", "B": "a loophole", "C": "even noise"}


def proxies(draws: int = 1024, questions: int = 300, seed: int = 0) -> dict[str, dict[str, list]]:
    """Best-of-n under three proxies, each wrong in one way of `ERRORS`: by name, `n`, `proxy`,
    `gold`, all means over invented questions. Gold is normal, in standard deviations."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, error in PROXIES.items():
        gold = rng.normal(size=(questions, draws))
        if error == "a loophole":  # a few answers in a hundred are bad and much liked
            holes = rng.random(gold.shape) < 0.01
            gold = np.where(holes, gold - 2.0, gold)
            proxy = gold + 0.5 * rng.normal(size=gold.shape) + 6.0 * holes
        elif error == "wild noise":
            proxy = gold + 0.5 * rng.standard_t(1.5, size=gold.shape)
        else:
            proxy = gold + rng.normal(size=gold.shape)
        curve: dict[str, list] = {"n": [], "proxy": [], "gold": []}
        for n in (2**k for k in range(draws.bit_length())):
            blocks = proxy.reshape(questions, -1, n)
            best = blocks.argmax(2)[..., None]
            curve["n"].append(n)
            curve["proxy"].append(float(np.take_along_axis(blocks, best, 2).mean()))
            curve["gold"].append(
                float(np.take_along_axis(gold.reshape(blocks.shape), best, 2).mean()))
        found[name] = curve
    return found


@checker
def check_proxies(diagnosis: Mapping[str, str] | None) -> str:
    """Exercise 09.1: which error each of `proxies()` has, {"A": …, "B": …, "C": …}."""
    check_diagnosis(diagnosis, PROXIES, ERRORS, what="proxy")
    return ("even noise only slows the gain; what turns it is error that is largest where the "
            "proxy is highest")


# --- 09.2 ------------------------------------------------------------------------------------

PEAK = {
    "kl for d": "the forms are in d = √KL; this fits the KL itself",
    "no start": "the curve begins at 0: subtract the gold of the first point",
    "distance": "this is the d of the peak; its KL is the square",
    "rl": "this is the form of reinforcement learning, with a logarithm; best-of-n has d(α − βd)",
    "highest point": "this is the highest measured point; wanted is the peak of the fitted curve",
    "root": "this is where the curve is back at 0, d = α/β; it is highest half-way there",
    "free start": "this fits a third number, a start; the form has none, it begins at 0",
}


def _peak(kl: Any, gold: Any, wrong: frozenset[str] = frozenset()) -> float:
    kl, gold = np.asarray(kl, dtype=float), np.asarray(gold, dtype=float)
    if "highest point" in wrong:
        top = kl[gold.argmax()]
        return float(np.sqrt(top) if "distance" in wrong else top)
    d = kl if "kl for d" in wrong else np.sqrt(kl)
    gain = gold if "no start" in wrong else gold - gold[0]
    falls = d * np.log(np.where(d > 0, d, 1.0)) if "rl" in wrong else d * d
    columns = [d, -falls, *([np.ones_like(d)] if "free start" in wrong else [])]
    alpha, beta, *_ = np.linalg.lstsq(np.stack(columns, 1), gain, rcond=None)[0]
    if "root" in wrong:
        top = np.exp(alpha / beta) if "rl" in wrong else alpha / beta
    else:
        top = np.exp(alpha / beta - 1) if "rl" in wrong else alpha / (2 * beta)
    return float(top if {"kl for d", "distance"} & wrong else top * top)


@checker
def check_peak(function: Callable) -> str:
    """Exercise 09.2: `function(kl, gold)`, both (points,), the first KL 0; the KL of the peak of
    the fitted d(α − βd), in nats."""
    n = 2.0 ** np.arange(9)
    kl = np.log(n) - (n - 1) / n
    wave = np.array([0.0, 0.03, -0.02, 0.04, 0.01, -0.03, 0.02, -0.01, -0.02])
    d = np.sqrt(kl)
    cases = [(kl, 0.4 + d * (1.3 - 0.42 * d) + wave),
             (kl[:6], (-0.7 + d * (0.9 - 0.36 * d) - wave)[:6])]
    return Exercise(
        _peak, PEAK, cases, "linear in α and β, so that least squares is all it takes",
        hint="one number, in nats",
    ).check(function)


# --- 09.3 ------------------------------------------------------------------------------------

CAREFUL = {
    "raw": "the models have units of their own: subtract each one's mean and divide by its "
           "deviation before they are compared",
    "not centred": "each model's mean is still in it; subtract it before you divide",
    "bold": "this adds the spread: it likes answers on which the models disagree",
    "no spread": "this is the mean alone; nothing is taken off where the models disagree",
    "minimum": "this is the least of the models, which is careful too; wanted is the mean less the "
               "spread",
    "across answers": "the spread is over the models, for each answer by itself",
    "population": "with so few models divide by their number less one (ddof=1)",
    "variance": "this takes off the variance; the spread is its root",
}


def _careful(scores: Any, means: Any, deviations: Any,
             wrong: frozenset[str] = frozenset()) -> np.ndarray:
    raw = np.asarray(scores, dtype=float)
    mean, deviation = (np.asarray(x, dtype=float)[:, None] for x in (means, deviations))
    own = raw if "raw" in wrong else (raw if "not centred" in wrong else raw - mean) / deviation
    if "minimum" in wrong:
        return own.min(0)
    if "no spread" in wrong:
        return own.mean(0)
    ddof = 0 if "population" in wrong else 1
    spread = own.std(1, ddof=ddof).mean() if "across answers" in wrong else own.std(0, ddof=ddof)
    spread = spread**2 if "variance" in wrong else spread
    return own.mean(0) + spread if "bold" in wrong else own.mean(0) - spread


@checker
def check_careful(function: Callable) -> str:
    """Exercise 09.3: `function(scores, means, deviations)`; scores (models, answers), the others
    (models,), of each model on the SFT model's answers. Mean less spread of each answer."""
    from torch import tensor

    first = (tensor([[1.0, 4.0, 2.5, 0.5], [10.0, 11.0, 18.0, 13.0], [-3.0, -1.0, 0.5, -2.0]]),
             tensor([2.0, 12.0, -1.5]), tensor([1.5, 2.0, 0.8]))
    second = (tensor([[0.3, 0.9], [0.1, -0.4], [2.0, 1.0], [5.0, 7.0]]),
              tensor([0.5, 0.2, 1.0, 4.0]), tensor([0.4, 0.5, 1.5, 3.0]))
    return Exercise(
        _careful, CAREFUL, [first, second],
        "an answer must please the models together, not one of them much",
        hint="one number for each answer",
    ).check(function)


# --- 09.4 ------------------------------------------------------------------------------------

LIKED, GOOD = 0.95, 0.5  # shares of the pool that a text must beat, and must not


@checker
def check_fooling_text(
    text: str | None, question: str, judge: Callable, rewards: Sequence[float],
    gold: Callable | None = None, golds: Sequence[float] = (),
) -> str:
    """Exercise 09.4: a text that the reward model ranks above nearly all of the SFT model's answers
    to the question, and gold below the middle one.

    Args:
        judge: rewards of lists of prompts and responses, as `reward.reward_function` gives it.
        rewards, golds: of the SFT model's answers to this question.
        gold: `gold(prompt, response)`; None where nobody knows the truth.
    """
    if text is None or text is NotImplemented:
        raise NotDone
    if not isinstance(text, str):
        raise NotRight(f"hand over a text, not {type(text).__name__}")
    if not text.strip():
        raise NotRight("the text is empty, which no reader would take for an answer")
    if text.strip() == question.strip():
        raise NotRight("this is the question itself")
    mine = float(np.asarray(judge([question], [text.strip()]))[0])
    above = float(np.mean(np.asarray(rewards, dtype=float) < mine))
    said = f"reward {mine:+.2f}, above {above:.0%} of the model's own answers"
    if gold is None:
        if above < LIKED:
            raise NotRight(f"{said}; wanted are {LIKED:.0%}")
        return f"{said}; what it is worth in truth nobody knows here, so read it"
    truth = float(gold(question, text.strip()))
    better = float(np.mean(np.asarray(golds, dtype=float) < truth))
    said += f"; gold {truth:+.2f}, above {better:.0%}"
    if above < LIKED and better >= GOOD:
        raise NotRight(f"{said}; the truth likes it better than the reward model does, which is "
                       "the wrong way round")
    if above < LIKED:
        raise NotRight(f"{said}; the reward model sees through it: wanted are {LIKED:.0%}")
    if better >= GOOD:
        raise NotRight(f"{said}; this is a good answer, which is no deceit")
    return said
