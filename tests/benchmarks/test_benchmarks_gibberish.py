"""The forest of `quality.is_gibberish`: walked rightly, and the one that is stored."""

import numpy as np
import pytest

from benchmarks import gibberish as fitting
from benchmarks.shared import store
from helpers.quality import gibberish


@pytest.fixture(scope="module")
def stored():
    return store.load("gibberish")


def test_the_forest_is_walked_as_scikit_learn_walks_it(monkeypatch):
    from sklearn.ensemble import ExtraTreesClassifier

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0.1) | (x[:, 2] > 1)
    forest = ExtraTreesClassifier(30, random_state=0, min_samples_leaf=2).fit(x, y)
    arrays = fitting.arrays(forest)
    monkeypatch.setattr(gibberish, "read_forest", lambda: arrays)
    new = rng.normal(size=(200, 6)).astype(np.float32)
    walked = [gibberish._votes(row) for row in new]
    assert walked == pytest.approx(forest.predict_proba(new)[:, 1], abs=1e-3)
    assert 20 < sum(vote > 0.5 for vote in walked) < 180


def test_a_value_at_the_threshold_goes_to_the_left_and_the_next_one_to_the_right(monkeypatch):
    at = np.float32(0.1)
    arrays = {"root": np.array([0]), "feature": np.array([0, -1, -1]),
              "right": np.array([2, -1, -1]),
              "threshold": fitting._down(np.array([np.float64(0.1), 0, 0])),
              "value": np.array([0, 0.25, 0.75])}
    monkeypatch.setattr(gibberish, "read_forest", lambda: arrays)
    below = np.nextafter(at, np.float32(0))  # float32(0.1) lies above 0.1
    assert [gibberish._votes(np.array([x])) for x in (below, at)] == [0.25, 0.75]


def test_what_is_stored_is_what_the_forest_says_of_the_last_authors(stored):
    last = fitting.by_author(fitting.of_gibberish(fitting.labelled("final")))
    rows = {row["author"]: row for row in stored["rows"] if row["fitted"] == "never"}
    for author, asked in last.items():
        votes = np.array([gibberish.gibberish_score(row["text"]) for row in asked])
        told = fitting.right(asked, votes, gibberish.read_forest()["limit"])
        assert told.items() <= rows[author].items()


def test_left_out_authors_and_the_last_ones_are_found_about_as_well_as_asked(stored):
    rows = {row["author"]: row for row in stored["rows"]}
    assert min(rows["the last authors"][name] for name in ("precision", "recall")) >= 0.95
    assert rows["all of them"]["precision"] >= 0.96 and rows["all of them"]["recall"] >= 0.92
    assert len([row for row in rows.values() if row["fitted"] == "to all others"]) == 13


def test_precision_and_recall_are_counted_with_loops():
    loop = "so so so so so so so so so so so so"
    rows = [{"text": text, "fault": fault} for text, fault in
            (("a", True), ("b", True), (loop, True), ("c", False), ("d", False))]
    votes = np.array([0.9, 0.4, 0.1, 0.45, 0.2])
    assert fitting.right(rows, votes, 0.5) == {
        "faulty": 3, "sound": 2, "found": 2, "false_alarms": 0, "precision": 1.0, "recall": 0.6667}
    assert fitting.right(rows, votes, 0.3)["precision"] == 0.75  # c comes in with b


def test_the_limit_lets_three_sound_texts_of_a_hundred_pass_it():
    rows = [{"text": "x", "fault": False}] * 100 + [{"text": "y", "fault": True}] * 50
    votes = np.concatenate([np.arange(100) / 200, np.full(50, 0.9)])  # 0 to 0.495
    assert fitting.limit_for(rows, votes) == pytest.approx(0.48)  # .485, .49 and .495 lie above


def test_texts_that_are_made_keep_author_and_label():
    sound = [{"kind": "gibberish", "fault": False, "author": author, "text": f"{author} likes tea "
              f"with milk in the morning. Later there is cake number {i}."}
             for author in ("Ann", "Ben") for i in range(4)]
    broken = [{"kind": "gibberish", "fault": True, "author": author, "text": f"{author} zq" * 12}
              for author in ("Ann", "Ben")]
    made = fitting.made(sound + broken)
    assert {row["made"] for row in made} == {
        "its first sentence", "its first sentence, with a slip", "with a slip", "several",
        "several, one broken"}
    for row in made:
        assert row["fault"] == ("zq" in row["text"]) == (row["made"] == "several, one broken")
        assert row["author"] in row["text"] and not {"Ann", "Ben"} <= set(row["text"].split())


@pytest.mark.slow
def test_the_stored_forest_is_the_one_that_the_labelled_texts_make():
    rows = fitting.labelled(*fitting.OWN, *fitting.OTHERS)
    made = fitting.arrays(fitting.grow(fitting.to_be_fitted(rows), fitting.Features()))
    with np.load(gibberish.FOREST) as kept:
        for name in ("root", "feature", "right"):
            assert np.array_equal(kept[name], made[name])
        assert np.allclose(kept["threshold"], made["threshold"], rtol=1e-5)
