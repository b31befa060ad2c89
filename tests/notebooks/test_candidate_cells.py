"""Notebook 02's tables and its choice, on a model that somebody else trained."""

import json

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch

from helpers import course, evaluation, models, plots
from helpers.course import execute
from helpers.engine.tokens import text_ids
from helpers.profiles import load_profile

TEXTS = ["Once upon a time there was a little dog. He liked to play in the park with a ball.",
         "Lily saw a big red car. She wanted to ride in it, but her mom said no."] * 3
IMPORTED = {"course": course, "evaluation": evaluation, "models": models, "plots": plots,
            "np": np, "pd": pd, "torch": torch, "ipywidgets": ipywidgets, "seed": 0, "math": None,
            **{name: getattr(evaluation, name) for name in (
                "text_bits", "bits_over_bytes", "bootstrap_interval", "pareto_front")},
            **{name: getattr(models, name) for name in ("load_causal", "model_bytes")}}


def cell(with_text):
    """The one code cell of notebook 02 that holds this text."""
    cells = execute.read_notebook(execute.notebooks()["02"])["cells"]
    [found] = [source for c in cells if c["cell_type"] == "code"
               and with_text in (source := "".join(c["source"]))]
    return found


@pytest.fixture
def names(real_data):
    """What those cells find when they run, with two candidates and a control."""
    settings = load_profile("embedded", {"threads": 1})
    sources = {"gpt2-0.2m": models.EMBEDDED / "zoo" / "gpt2-0.2m",
               "stories260k": real_data / "models" / "stories260k"}
    if not sources["stories260k"].is_dir():
        pytest.skip(f"needs {sources['stories260k']}")
    loaded = {name: models.load_causal(source, settings) for name, source in sources.items()}
    loaded["untrained"], sources["untrained"] = loaded["gpt2-0.2m"], sources["gpt2-0.2m"]
    bits = {name: {"stories": evaluation.text_bits(*found, TEXTS)}
            for name, found in loaded.items()}
    quality = {name: {kind: float(evaluation.bits_over_bytes(rows)) for kind, rows in own.items()}
               for name, own in bits.items()} | {"xz": {"reviews": 2.0}}
    quality["stories260k"]["reviews"] = 1.0
    return IMPORTED | {"settings": settings, "sources": sources, "loaded": loaded, "bits": bits,
                       "quality": quality, "texts": {"stories": TEXTS}, "chosen": "stories260k"}


def test_the_table_of_costs_holds_for_a_foreign_llama(names):
    quick = {"repeats": 1, "tokens": 8}
    names["models"] = type("models", (), vars(models) | {
        "writing_costs": lambda model, repeats: models.writing_costs(model, **quick)})
    exec(cell("def costs_of("), names)
    row = names["costs"]["stories260k"]
    folder = names["sources"]["stories260k"]
    config = json.loads((folder / "config.json").read_text())
    model, _ = names["loaded"]["stories260k"]
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    assert row["in embeddings"] == config["hidden_size"] * model.config.vocab_size
    assert row["disk (MB)"] * 1e6 == pytest.approx((folder / "model.safetensors").stat().st_size)
    assert row["licence"] == "not stated"
    cached = models.cache_bytes(model.config, 32 + quick["tokens"] - 1, batch=16)
    assert row["memory (MB)"] * 1e6 > models.model_bytes(model) + cached
    assert all(row[key] > 0 for key in row if key not in ("licence",))


def test_what_read_stories_predicts_them_best_and_is_chosen_when_quality_counts(names):
    names["costs"] = {name: {"memory (MB)": size, "tokens/s, batch 1": rate} for name, size, rate
                      in (("gpt2-0.2m", 1.0, 900.0), ("stories260k", 2.0, 300.0),
                          ("untrained", 1.0, 900.0))}
    del names["quality"]["stories260k"]["reviews"]
    names["twins"] = {name: [name] for name in names["costs"]}
    exec(cell("trained_ones = "), names)
    assert names["decision"]["stories260k"]["bits per byte"] < 1.0 < (
        names["decision"]["gpt2-0.2m"]["bits per byte"])
    assert list(names["front"]) == [True, True]
    exec(cell("def decide("), names | {"display": lambda shown: names.update(shown=shown)})
    *sliders, answer = names["shown"].children
    assert answer.value.startswith("least cost: stories260k")
    sliders[0].value = 0  # bits no longer count
    assert answer.value.startswith("least cost: gpt2-0.2m")


def test_a_sentence_is_as_many_tokens_as_the_tokenizer_says(names):
    """Bytes are counted of the text that was read, whatever cut it."""
    for name in ("gpt2-0.2m", "stories260k"):
        _, tokenizer = names["loaded"][name]
        assert max(map(len, text_ids(tokenizer, TEXTS))) < 256
        assert list(names["bits"][name]["stories"][:, 1]) == [len(t.encode()) for t in TEXTS]
