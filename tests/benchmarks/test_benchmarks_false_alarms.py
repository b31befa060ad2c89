"""The stored comparisons of a model with itself, made again from its stored answers."""

import numpy as np
import pytest

from benchmarks.shared import halves, store


@pytest.fixture(scope="module")
def stored():
    return store.load("false_alarms")


def test_a_model_is_rarely_found_to_differ_from_itself(stored):
    alike = [row for row in stored["rows"] if row["truth"] in (0.0, 0.5)]
    assert {row["measure"] for row in alike} == set(halves.MEASURES)
    for row in alike:
        assert row["trials"] == 400
        assert 0.02 <= row["found"] <= 0.08, row


def test_a_policy_that_is_better_by_a_known_amount_is_found(stored):
    better = [row for row in stored["rows"] if row["truth"] not in (0.0, 0.5)]
    assert len(better) == len(halves.SHARES)
    for row in better:
        deviation = 0.5 / np.sqrt(row["questions"])  # of one trial's win rate
        assert abs(row["mean"] - row["truth"]) < 4 * deviation / np.sqrt(row["trials"])
        assert row["right side"] > 0.95
    assert max(row["found"] for row in better) > 0.6
    assert np.all(np.diff([row["found"] for row in better]) > 0)


def test_the_stored_rows_are_what_the_stored_answers_give(stored, monkeypatch):
    answers = np.stack([np.array(stored["answers"][k]) for k in ("scores", "lengths")], -1)
    assert answers.shape == (400, 8, 2)
    got = halves.trials(answers, "mean gain", 0.0, seed=0)
    found = (got[:, 1] > 0) | (got[:, 2] < 0)
    row = next(row for row in stored["rows"] if row["measure"] == "mean gain")
    assert found.mean() == pytest.approx(row["found"], abs=0.005)


def test_a_bad_interval_is_seen(stored, monkeypatch):
    """One that is half as wide as it should be alarms four times as often."""
    answers = np.stack([np.array(stored["answers"][k]) for k in ("scores", "lengths")], -1)

    def narrow(a, b, seed):
        estimate, low, high = halves.gain(a, b, seed)
        return estimate, (estimate + low) / 2, (estimate + high) / 2

    monkeypatch.setitem(halves.MEASURES, "mean gain", (narrow, 0.0))
    monkeypatch.setattr(halves, "TRIALS", 100)
    got = halves.trials(answers, "mean gain", 0.0, seed=0)
    assert ((got[:, 1] > 0) | (got[:, 2] < 0)).mean() > 0.08


def test_two_answers_of_a_trial_are_never_the_same_one():
    answers = np.arange(300 * 8 * 2, dtype=float).reshape(300, 8, 2)
    for share in (0.0, 0.6):
        a, b = halves.drawn(answers, share, np.random.default_rng(0))
        assert len(a) == halves.QUESTIONS and not (a == b).all(1).any()
        assert (a[:, 0] // 16 == b[:, 0] // 16).all()  # of one opening
