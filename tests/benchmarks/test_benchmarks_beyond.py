"""The frontier of notebook 08: what is stored is not run again, and every part measures itself."""

import sys

import pytest

from benchmarks import frontier
from benchmarks.shared import store


class Stub:
    """In place of a job: no models."""

    def __init__(self, seed, threads):
        self.seed, self.reference = seed, None

    def measure(self, model):
        return {"gold": 0.1, "reward": 0.0, "kl": 0.0, "length": 3.0}


@pytest.fixture
def stubbed(tmp_path, monkeypatch):
    ran = []

    def run(job, method):
        if ran.count((method, job.seed)) == 0 and (method, job.seed) == frontier_stop[0]:
            frontier_stop[0] = None
            raise KeyboardInterrupt
        ran.append((method, job.seed))
        return [{"method": method, "seed": job.seed, "strength": s, **job.measure(None)}
                for s in (0.5, 1.0)]

    frontier_stop = [("rloo", 1)]
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    monkeypatch.setattr(frontier, "Job", Stub)
    monkeypatch.setattr(frontier, "run", run)
    monkeypatch.setattr(frontier.course, "require", lambda *_: None)
    monkeypatch.setattr(
        sys, "argv", ["frontier.py", "--seeds", "2", "--threads", "1", "--only", "ppo", "rloo"])
    return ran


def test_a_study_that_was_stopped_goes_on_where_it_was(stubbed):
    with pytest.raises(KeyboardInterrupt):
        frontier.main()
    assert stubbed == [("ppo", 0), ("rloo", 0), ("ppo", 1)]
    assert frontier.main() == 0
    assert stubbed[3:] == [("rloo", 1)]
    rows = store.load("frontier")["rows"]
    assert sorted((r["method"], r["seed"]) for r in rows) == sorted(
        [("sft", 0), ("sft", 1)] + 2 * [(m, s) for m in ("ppo", "rloo") for s in (0, 1)])
    assert frontier.main() == 0 and len(stubbed) == 4


def test_a_run_is_measured_at_its_moments_with_the_measuring_off_the_clock(monkeypatch):
    now = [0.0]

    class Slow(Stub):
        def measure(self, model):
            now[0] += 100.0  # measuring takes long
            return super().measure(model)

    monkeypatch.setattr(frontier.time, "process_time", lambda: now[0])
    rows = []
    after = frontier.watch(Slow(0, 1), rows, lambda: None, lambda step: 10 * step)
    for step in range(1, 11):
        now[0] += 1.0
        after(step, 10)
    assert [row["strength"] for row in rows] == list(frontier.MOMENTS)
    assert [row["seconds"] for row in rows] == [10 * share for share in frontier.MOMENTS]
    assert [row["generated"] for row in rows] == [100 * share for share in frontier.MOMENTS]
