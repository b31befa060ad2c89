"""The bounds of `make course` against what other machines measured: none may hold by luck."""

import json

import numpy as np
import pytest

from benchmarks import machines
from helpers import paths
from helpers.course import expected

ROWS = [row for row in json.loads((paths.ROOT / "benchmarks" / "results" / "machines.json")
                                  .read_text(encoding="utf-8"))["rows"] if row["what"] == "course"]
MEASURED = set.intersection(*(set(row["metrics"]) for row in ROWS))
BOUNDS = [(stem, text) for stem, wanted in expected.read().items() for text in wanted["bounds"]
          if sum(stem in row["metrics"] for row in ROWS) >= 3]
# Newer than some machines' last measurements; benchmarks/machines.py brings them in.
NOT_YET = {"08_beyond_ppo", "09_over_optimisation", "10_your_own_feedback"}


def test_only_the_newest_notebooks_wait_for_the_machines():
    assert set(expected.read()) - MEASURED <= NOT_YET


def test_the_course_was_run_on_several_machines():
    assert len({row["machine"] for row in ROWS}) >= 5


@pytest.mark.parametrize(("stem", "text"), BOUNDS, ids=lambda value: value)
def test_a_bound_holds_wherever_it_was_measured_and_lies_two_spreads_away(stem, text):
    margins = np.array([expected.margin(text, row["metrics"][stem]) for row in ROWS
                        if stem in row["metrics"]])
    assert (margins >= 0).all()
    assert margins.mean() >= 2 * margins.std(ddof=1), f"{text} lies within two spreads: {margins}"


def course(commit, seconds, failed=(), **metrics):
    return {"what": "course", "machine": "busy", "commit": commit, "seconds": seconds,
            "failed": list(failed), "bounds": {stem: [] for stem in metrics},
            "metrics": {stem: {"value": value} for stem, value in metrics.items()},
            "notebook_seconds": dict.fromkeys(metrics, seconds / len(metrics))}


def test_a_run_of_some_notebooks_leaves_the_others_and_says_where_they_are_from():
    old = course("first", 30.0, ["01_a: low", "02_b: low"], **{"01_a": 1, "02_b": 2, "03_c": 3})
    old["earlier"] = {"03_c": "zero"}
    row = machines.joined(old, course("second", 8.0, **{"02_b": 5, "04_d": 6}))
    assert row["metrics"] == {stem: {"value": value} for stem, value in
                              {"01_a": 1, "02_b": 5, "03_c": 3, "04_d": 6}.items()}
    assert row["commit"] == "second" and row["earlier"] == {"01_a": "first", "03_c": "zero"}
    assert row["failed"] == ["01_a: low"]  # what 02 failed it fails no longer
    assert row["seconds"] == 10 + 4 + 10 + 4


@pytest.mark.parametrize("metrics", [{}, {"metrics": {"02_b": {}}}])
def test_a_part_that_did_not_run_replaces_nothing(metrics):
    old = course("first", 20.0, **{"01_a": 1, "02_b": 2})
    failed = {"what": "course", "machine": "busy", "commit": "second", "seconds": 1.0,
              "failed": ["02_b did not run"], **metrics}
    assert machines.taken_in([old], failed, part=True) == ([old], False)
    ran = course("second", 8.0, **{"02_b": 5})
    [row], kept = machines.taken_in([old], ran, part=True)
    assert kept and row["metrics"] == {"01_a": {"value": 1}, "02_b": {"value": 5}}
