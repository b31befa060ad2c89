"""The table of promises about the embedded world: its verdicts, and the promises themselves."""

import subprocess
import sys

import pytest

from data import check
from helpers.paths import ROOT


@pytest.mark.parametrize(("value", "low", "high", "holds"), [
    (0.5, 0.5, None, True), (0.49, 0.5, None, False), (0.5, None, 0.5, True),
    (0.51, None, 0.5, False), (0.85, 0.8, 0.9, True), (0.95, 0.8, 0.9, False)])
def test_a_figure_holds_within_its_bounds(value, low, high, holds):
    figure = check.Figure("part", "name", value, low, high)
    assert figure.holds is holds
    assert figure.row().endswith("ok" if holds else "MISSED")


def test_climbing_never_loses_and_finds_a_word_that_pays():
    import random

    def paid(text):
        return text.split().count("gold")

    text = check.climb(paid, "one two three four", ["gold", "dust"], random.Random(0), steps=200)
    assert paid(text) >= 4


@pytest.mark.slow
def test_the_world_keeps_its_promises():
    done = subprocess.run([sys.executable, str(ROOT / "data" / "check.py")],
                          capture_output=True, text=True)
    missed = [line for line in done.stdout.splitlines() if line.endswith("MISSED")]
    assert not missed, "\n".join(missed)
    assert "figures" in done.stdout, done.stderr
    assert done.returncode == 0
