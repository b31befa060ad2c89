"""The glossary names what there is: helpers that exist, every measure, the ranges in the code."""

import math
import pydoc
import re

import pytest

from benchmarks.shared import store
from helpers.paths import ROOT
from helpers.ppo_diagnostics import HEALTHY
from helpers.ppo_trainer import PPOConfig
from helpers.profiles import flatten, load_profile

TEXT = (ROOT / "GLOSSARY.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines()
        if line.startswith("|") and not line.startswith("|-")]
SYMBOLS = ROWS[1:next(n for n, row in enumerate(ROWS) if row[0] == "measure")]
ROWS = [row for row in ROWS if row[0] not in ("symbol", "measure")]
BEFORE = ("trl_", "ours_", "rloo_", "ood_", "loop_")
BEHIND = ("_before", "_after", "_low", "_high")


def names():
    return {name.strip() for row in ROWS for name in row[0].split(",")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_computes_a_measure_exists_and_every_cell_is_filled(row):
    assert len(row) == 6 and row[2] and row[3] and (row[1] or row in SYMBOLS)
    helper = re.fullmatch(r"`([\w.]+)`", row[5])
    assert helper and callable(pydoc.locate(f"helpers.{helper[1]}"))


def test_the_settings_named_beside_symbols_exist():
    known = flatten(load_profile().as_dict())
    named = [row[1].strip("`") for row in SYMBOLS if row[1]]
    assert len(named) >= 6
    for setting in named:
        last = setting.rpartition(".")[2]
        assert setting in known or "." not in setting and (
            hasattr(PPOConfig, last) or any(key.endswith(f".{last}") for key in known)), setting


def test_ranges_are_those_of_the_code():
    rows = {row[0]: row[3] for row in ROWS if row[4] == "rule of thumb"}
    assert set(rows) == set(HEALTHY)
    for name, (low, high, _) in HEALTHY.items():
        assert rows[name] == (f"from {low:g}" if math.isinf(high) else f"{low:g} to {high:g}")


def test_every_recorded_metric_has_a_row():
    metrics = {name for row in store.load("machines")["rows"] if "metrics" in row
               for values in row["metrics"].values() for name in values}
    assert len(metrics) > 50
    for name in metrics:
        short = name
        for word in BEFORE:
            short = short.removeprefix(word)
        for word in BEHIND:
            short = short.removesuffix(word)
        assert names() & {name, short, name.removeprefix("loop_")}, name
