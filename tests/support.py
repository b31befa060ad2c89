"""Makers of tiny models and texts that several test files share."""

from helpers import scratch
from helpers.profiles import load_profile

TEXTS = [f"The {a} {b} sat on the {c}." for a in ("old", "young", "grey", "quiet")
         for b in ("cat", "dog", "owl", "fox") for c in ("mat", "wall", "roof", "step")] * 8


def small(**changes):
    """The section `models.scratch` of a model that trains in a second."""
    size = {"vocab_size": 300, "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 32,
            "tokens": 40_000, "batch_tokens": 256}
    return load_profile("embedded", {
        f"models.scratch.{k}": v for k, v in {**size, **changes}.items()}).models.scratch


def from_scratch(texts=TEXTS, seed=0, validation=(), **changes):
    """A tiny language model, its tokenizer and its metrics."""
    return scratch.train_from_scratch(
        texts, small(**changes), seed, validation=validation, progress=False)
