"""How benchmarks/ppo.py takes turns and what it makes of the times, without running a trainer."""

import multiprocessing
import sys

import pytest

from helpers.paths import ROOT

sys.path.insert(0, str(ROOT))
from benchmarks import ppo as bench


def test_a_ratio_is_taken_within_a_round_and_its_median_stands():
    seconds = {"TRL": [8.0, 20.0, 9.0], "ours, separate value model": [4.0, 5.0, 9.0],
               "ours, value head on trunk": [2.0, 2.0, 2.0]}
    rows = [{"trainer": name, "round": i, "seconds": s, "cpu_seconds": 2 * s}
            for name, column in seconds.items() for i, s in enumerate(column)]
    found = bench.summary(rows[::-1])
    assert found["TRL"] == {"seconds": 9.0, "cpu_seconds": 18.0}
    separate = found["ours, separate value model"]  # 2, 4 and 1: a slow round is slow for all
    assert [separate[k] for k in ("ratio_low", "ratio", "ratio_high")] == [1.5, 2.0, 3.0]
    assert separate["seconds"] == 5.0
    assert found["ours, value head on trunk"]["ratio"] == 4.5


def test_a_turn_leaves_out_the_first_update_and_the_waiting(monkeypatch):
    clock = {"wall": 100.0, "cpu": 10.0}
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(bench.time, "process_time", lambda: clock["cpu"])

    class Line:
        def __init__(self):
            self.sent = []

        def send(self, row):
            self.sent.append(row)

        def recv(self):
            clock["wall"] += 30.0  # another trainer's turn

    turn = bench.Turn(Line())
    turn({"response_length": 1})
    clock["wall"] += 2.0
    clock["cpu"] += 3.0
    turn({"response_length": 2})
    assert turn.line.sent == [{}, {"seconds": 2.0, "cpu_seconds": 3.0, "response_length": 2}]


def test_a_trainer_that_stops_is_named():
    ours, theirs = multiprocessing.Pipe()
    theirs.send({"seconds": 1.0})
    theirs.close()
    assert bench.answer(ours, "TRL") == {"seconds": 1.0}
    with pytest.raises(SystemExit, match="'TRL' has stopped"):
        bench.answer(ours, "TRL")
