"""The range of a recorded number over stored runs: read from two files, printed where it holds."""

import json

import pytest

from helpers import course
from helpers.course import execute, luck
from helpers.engine import artifacts


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Three runs by seed and one by machine below a folder of their own."""
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    seeds = [{"seed": seed, "metrics": {"05_ppo": {"gold": value, "kl": None, "new": 1.0,
                                                "seconds_to_make": 9.0, "pairs": 4000}}}
             for seed, value in ((1, 0.61), (2, 0.88), (3, 0.7))]
    del seeds[0]["metrics"]["05_ppo"]["new"]
    machines = [{"machine": "avx2", "metrics": {"05_ppo": {"gold": 0.5}, "06_trl": {"gold": 9}}},
                {"machine": "avx2", "passed": 3}]
    for name, rows in (("luck", seeds), ("machines", machines)):
        (results / f"{name}.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    monkeypatch.setattr(luck, "ROOT", tmp_path)
    return results


def test_the_range_is_that_of_all_runs_of_the_notebook(stored):
    # two runs, or none, say nothing
    assert luck.spread("05") == {"gold": luck.Spread(0.5, 0.88, 4, 4)}
    assert luck.spread("05_ppo") == luck.spread("05") and luck.spread("04") == {}
    for path in stored.iterdir():
        path.unlink()
    assert luck.spread("05") == {}


def test_runs_on_other_machines_are_runs_of_one_seed(stored):
    rows = [{"machine": name, "metrics": {"05_ppo": {"gold": value}}}
            for name, value in (("avx2", 0.5), ("busy", 0.6), ("default", 0.7))]
    (stored / "machines.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    assert luck.spread("05")["gold"].seeds == 4  # 0 and three more
    (stored / "luck.json").unlink()
    assert str(luck.spread("05")["gold"]) == "in 3 stored runs (1 seed): 0.5 to 0.7"


@pytest.mark.parametrize("profile, overrides, ranges", [
    ("embedded", {}, True), ("embedded", {"ppo.kl_coef": 0.1}, False)])
def test_the_range_stands_behind_the_number_under_the_stock_profile_only(
        profile, overrides, ranges, stored, monkeypatch, capsys):
    for key in ("stock", "notebook", "profile", "started", "offline"):
        monkeypatch.setitem(artifacts.session, key, artifacts.session.get(key))
    course.start(profile, overrides)
    course.pipeline("05")
    capsys.readouterr()
    assert bool(course.stored_runs()) is ranges
    course.record(gold=0.66, new=2)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["gold", "0.66"] + (
        "in 4 stored runs (4 seeds): 0.5 to 0.88".split() if ranges else [])
    assert second.split() == ["new", "2"]


def test_every_number_that_has_a_range_lies_near_it():
    """A metric whose meaning changed would lie outside what earlier runs of it measured."""
    seen = 0
    for number, path in execute.notebooks().items():
        ranges = luck.spread(number)
        for cell in execute.read_notebook(path)["cells"]:
            for line in "".join("".join(output.get("text", "")) for output in
                                cell.get("outputs", [])).splitlines():
                name, *rest = line.split() or [""]
                if "stored runs" in line and name in ranges:
                    of, value = ranges[name], float(rest[0])
                    far = of.high - of.low + 1e-3
                    seen += 1
                    assert of.low - far <= value <= of.high + far, line
    assert seen > 30


def test_notebooks_run_again_alone_leave_the_others_with_their_commit():
    from benchmarks.shared import store

    old = {"seed": 1, "commit": "a", "metrics": {"05_ppo": {"x": 1.0}, "06_trl": {"y": 1.0}}}
    new = {"seed": 1, "commit": "b", "metrics": {"06_trl": {"y": 2.0}}}
    row = store.merged(old, new)
    assert row["metrics"] == {"05_ppo": {"x": 1.0}, "06_trl": {"y": 2.0}}
    assert row["commit"] == "b" and row["earlier"] == {"05_ppo": "a"}
    again = store.merged(row, {**new, "commit": "c"})
    assert again["earlier"] == {"05_ppo": "a"}  # and not "b", which never ran it
    whole = store.merged(row, {**old, "commit": "c"})
    assert "earlier" not in whole and whole["metrics"] == old["metrics"]
