"""Checkers of notebook 06: the response's mask, how many draws a KL is worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from helpers.exercises.frame import Exercise, check_guess, checker

# --- 06.1 ------------------------------------------------------------------------------------

RESPONSE_MASK = {
    "not cut": "a token after a sampled pad still counts; the loss stops at the first pad",
    "prompt first":
        "the padding before the prompt switched everything off; drop the prompt first",
    "inverted": "ones and zeros are the wrong way round",
    "pad counts": "the first pad counts here; the response ends before it",
    "argmin": "a response without a pad is lost: `argmin` says 0 where nothing is smaller",
    "one early": "the last real token is missing",
}


def _response_mask(mask: Any, prompt_width: int, wrong: frozenset[str] = frozenset()) -> Any:
    mask = np.asarray(mask)
    response = mask[:, prompt_width:]
    width = response.shape[1]
    ends = np.where((response == 0).any(1), (response == 0).argmax(1), width)
    if "argmin" in wrong:
        ends = response.argmin(1)
    out = (np.arange(width) < (ends + ("pad counts" in wrong) - ("one early" in wrong))[:, None])
    if "not cut" in wrong:
        out = response == 1
    if "prompt first" in wrong:
        out = mask.cumprod(1)[:, prompt_width:] == 1
    return (~out if "inverted" in wrong else out).astype(float)


@checker
def check_response_mask(function: Callable) -> str:
    """Exercise 06.1: `function(attention_mask, prompt_width)`, 1 up to the first pad."""
    from torch import tensor

    first = tensor([[0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0],
                    [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 1]])
    second = tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1, 1, 1]])
    return Exercise(
        _response_mask, RESPONSE_MASK, [(first, 2), (second, 3)],
        "one up to the first pad, zero from there on",
        hint="the prompt's columns are left out", booleans=True,
    ).check(function)


# --- 06.2 ------------------------------------------------------------------------------------


@checker
def check_draws_for_kl(guess: Any, kl: float) -> str:
    """Exercise 06.2: foretell how many draws best-of-n needs to move `kl` nats.

    Best of n lies at most log n - (n - 1)/n nats from the model it draws from (Beirami et al.
    2024, arXiv:2401.01879), so n is about exp(kl + 1).
    """
    low, high = 1.0, math.exp(min(kl, 600.0) + 2)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = ((middle, high) if math.log(middle) - (middle - 1) / middle < kl
                     else (low, middle))
    check_guess(guess, high, {
        "no second term": (math.exp(kl),
                           "the second term of the bound is missing; it is nearly 1 nat"),
        "wrong side": (math.exp(kl - 1), "the second term has the wrong sign"),
        "bits": (2.0**kl, "nats are powers of e, not of 2"),
        "bits, with the term": (2.0 ** (kl + 1), "nats are powers of e, not of 2"),
        "straight": (kl, "n grows with the exponential of the nats"),
        "tens": (10.0**kl, "nats are powers of e, not of 10"),
        "exponent": (kl + 1, "this is the logarithm of n"),
    }, within=0.1)
    return f"about {high:,.0f} draws per prompt; the next nat costs e times as many"
