"""Checkers of notebook 02: bits per byte, the memory of training, and which model is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from helpers.exercises.frame import Exercise, NotDone, NotRight, check_guess, checker

# --- 02.1 ------------------------------------------------------------------------------------

BITS = {
    "nats": "this is in nats; divide by the natural logarithm of 2",
    "characters": "this counts characters; 'é' is two bytes",
    "tokens": "this is per token; divide by the bytes of the text",
    "sum": "this is of the whole text; divide by its bytes",
    "words": "this is per word; divide by the bytes of the text",
    "sign": "the sign is wrong; a surprise is minus a log-probability",
}


def _bits(logprobs: Sequence[float], text: str, wrong: frozenset[str] = frozenset()) -> float:
    size = len(text.encode("utf-8"))
    for name, other in {"characters": len(text), "tokens": len(logprobs), "sum": 1,
                        "words": len(text.split())}.items():
        size = other if name in wrong else size
    return (sum(logprobs) if "sign" in wrong else -sum(logprobs)) / size / (
        1 if "nats" in wrong else math.log(2))


@checker
def check_bits_per_byte(function: Callable) -> str:
    """Exercise 02.1: `function(token_logprobs, text)`, bits per byte of UTF-8 text."""
    return Exercise(
        _bits, BITS,
        [([-1.0, -2.0, -0.5, -3.5], "a café"), ([-0.7, -4.1], "Ünlü bir söz, değil mi?"),
         ([-2.5, -0.1, -1.9, -0.3, -6.0, -1.2], "three plain words")],
        "bits, and bytes", hint="one number for the whole text",
    ).check(function)


# --- 02.2 ------------------------------------------------------------------------------------


@checker
def check_training_memory(guess: Any, parameters: int) -> str:
    """Exercise 02.2: foretell the gigabytes (10⁹ bytes) that training holds for its parameters.

    Float32 weights, gradients and Adam's two averages: sixteen bytes a parameter, activations left
    aside.
    """
    one = parameters / 1e9
    check_guess(guess, 16 * one, {
        "weights": (4 * one, "these are the weights alone; training also holds gradients and "
                             "Adam's two averages"),
        "half": (2 * one, "these are weights in half precision, enough to read and not to train"),
        "no Adam": (8 * one, "Adam's two averages are missing"),
        "no gradients": (12 * one, "the gradients are missing"),
        "parameters": (one, "these are parameters; each takes four numbers of four bytes"),
        "megabytes": (16e3 * one, "these are megabytes"),
        "bytes": (16e9 * one, "these are bytes"),
    }, within=0.08)
    return f"{16 * one:.3g} GB before the first activation; reading takes a quarter of it"


# --- 02.3 ------------------------------------------------------------------------------------

MODELS = {  # perplexity per token, and bytes of text per token
    "A": (21.0, 4.4),
    "B": (9.5, 2.7),
    "C": (3.1, 1.0),
}


def rival_models() -> dict[str, dict[str, float]]:
    """Three made-up models of exercise 02.3: perplexity per token, and bytes per token."""
    return {name: {"perplexity": p, "bytes per token": b} for name, (p, b) in MODELS.items()}


@checker
def check_best_model(name: Any) -> str:
    """Exercise 02.3: which of `rival_models` predicts text best? Foretell it, then compute it."""
    if name is None or name is NotImplemented or name == "":
        raise NotDone
    bits = {m: math.log2(p) / b for m, (p, b) in MODELS.items()}
    told = ", ".join(f"{m} {x:.2f}" for m, x in bits.items())
    if not isinstance(name, str) or name not in MODELS:
        raise NotRight(f"{name!r:.40} is none of the models; they are {', '.join(MODELS)}")
    if name == min(MODELS, key=lambda m: MODELS[m][0]):
        raise NotRight(f"{name} has the lowest perplexity, but of the shortest tokens; what does a "
                       "*byte* of text cost each of them?")
    if name != min(bits, key=bits.__getitem__):
        raise NotRight(f"{name} lies between the others; divide the bits of a token by its bytes")
    return f"bits per byte: {told}; the order is not that of the perplexities"
