"""The rating store and what is made of it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import krippendorff
import numpy as np
import pytest

from helpers import feedback as fb
from helpers.errors import UserError
from helpers.paths import ROOT

FOUR = dict.fromkeys(fb.DIMENSIONS, 3)


@pytest.fixture
def store(tmp_path):
    return fb.RatingStore(tmp_path / "ratings.jsonl")


def rated(prompt, response, value, annotator="ann", **more):
    ratings = value if isinstance(value, dict) else {"quality": value}
    return fb.rating_row(prompt, response, ratings, annotator=annotator, **more)


# -------------------------------------------------------------------------------------- store


def test_rows_come_back_in_order_and_as_given(store):
    first = rated("p", "r — ünï\n\u2028 two lines, \ud800 half a character", 4, model="sft")
    ids = [store.append(first), store.append(
        fb.preference_row("p", "x", "y", "tie", annotator="bob", source="simulated"))]
    rows = store.rows()
    assert [row["id"] for row in rows] == ids
    assert rows[0]["response"] == "r — ünï\n\u2028 two lines, ? half a character"
    assert rows[0]["model"] == "sft" and rows[0]["source"] == "human"
    assert store.rows(annotator="bob")[0]["preference"] == "tie"
    assert store.path.read_bytes().count(b"\n") == 2


def test_nothing_is_made_before_the_first_row(store):
    assert store.rows() == [] and not store.path.exists()


def test_an_acknowledged_row_is_synced_to_the_disk(store, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    store.append(rated("p", "r", 1))
    assert synced == [store.path.stat().st_size]


def test_a_row_taken_back_stays_in_the_file_and_no_longer_counts(store):
    keep, gone = store.append(rated("p", "r", 1)), store.append(rated("p", "s", 2))
    store.retract(gone, "ann", "human", "responses")
    assert [row["id"] for row in store.rows()] == [keep]
    assert len(store.history()) == 3


@pytest.mark.parametrize("change, message", [
    ({"ratings": {"quality": 6}}, "'quality' is rated 6.*1 to 5"),
    ({"ratings": {"quality": 2.5}}, "2.5"),
    ({"ratings": {"quality": True}}, "True"),
    ({"ratings": {}}, "'ratings' must map"),
    ({"ratings": [1, 2]}, "'ratings' must map"),
    ({"source": "robot"}, "'robot'.*'human' or 'simulated'"),
    ({"annotator": " "}, "'annotator' must be"),
    ({"response": None}, "'response' must be"),
])
def test_a_row_that_does_not_fit_is_refused_and_nothing_is_written(store, change, message):
    with pytest.raises(UserError, match=message):
        store.append(rated("p", "r", 1) | change)
    assert not store.path.exists()


def test_a_choice_must_be_a_b_or_tie(store):
    with pytest.raises(UserError, match="not 'c'"):
        store.append(fb.preference_row("p", "x", "y", "c", annotator="ann"))


def test_a_store_with_dimensions_wants_exactly_these(tmp_path):
    store = fb.RatingStore(tmp_path / "f.jsonl", dimensions=fb.DIMENSIONS)
    store.append(rated("p", "r", FOUR))
    with pytest.raises(UserError, match="wanted exactly coherence"):
        store.append(rated("p", "r", 3))


@pytest.mark.parametrize("line, message", [
    ("not json", "row 2: not a JSON object"),
    ("[1]", "row 2: a row must be"),
    (json.dumps({"time": "t", "annotator": "a", "source": "human", "task": "t", "prompt": "p",
                 "response": "r", "ratings": {"fluency": "5"}}), "row 2: 'fluency' is rated '5'"),
    ('{"time": "\\ud8"}', "row 2"),
])
def test_a_wrong_line_is_named_by_file_and_row_and_nothing_is_lost(store, line, message):
    store.append(rated("p", "r", 1))
    with open(store.path, "a") as file:
        file.write(line + "\n")
    before = store.path.read_bytes()
    with pytest.raises(UserError, match=rf"ratings.jsonl, {message}"):
        store.rows()
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("act", ["read", "append"])
def test_a_torn_last_line_is_reported_and_set_aside(store, act):
    store.append(rated("p", "r", 1))
    whole = store.path.read_bytes()
    torn = b'{"id": "x", "time": "2026' + "é".encode()[:1]
    store.path.write_bytes(whole + torn)
    with pytest.warns(UserWarning, match="cut short.*26 bytes.*jsonl.torn"):
        rows = store.rows() if act == "read" else store.append(rated("p", "s", 2)) and store.rows()
    assert len(rows) == (1 if act == "read" else 2)
    assert store.path.read_bytes().startswith(whole)
    assert store.path.with_name("ratings.jsonl.torn").read_bytes() == torn + b"\n"
    assert store.torn == [torn]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.rows()


def test_a_file_that_is_one_torn_line_longer_than_a_block_is_set_aside(store):
    store.path.write_bytes(b"x" * 200_000)
    with pytest.warns(UserWarning, match="200000 bytes"):
        assert store.rows() == []
    assert store.path.stat().st_size == 0


WORKER = """
import sys
from helpers.feedback import RatingStore, rating_row
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = RatingStore(path)
with open(f"{path}.{name}.acks", "w") as acks:
    for number in range(count):
        row = rating_row(f"prompt {number}", "response " * 20, {"quality": 1 + number % 5},
                         annotator=name)
        acks.write(store.append(row) + "\\n")
        acks.flush()
"""


def write_from_eight_processes(folder, count, kill_after):
    path = folder / "shared.jsonl"
    chosen = random.Random().randrange(8)
    endless = 10**9  # the victim is at work when it is killed, however slow this process is
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(path), f"w{n}",
                                 str(endless if n == chosen else count)],
                                cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
               for n in range(8)]
    victim, acks_of_victim = workers[chosen], Path(f"{path}.w{chosen}.acks")
    while victim.poll() is None and (
            not acks_of_victim.exists() or acks_of_victim.read_text().count("\n") < kill_after):
        time.sleep(0.001)
    os.kill(victim.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    codes = [worker.wait() for worker in workers]
    assert [n for n, code in enumerate(codes) if code != 0] == [chosen]
    acknowledged = [line for n in range(8)
                    for line in Path(f"{path}.w{n}.acks").read_text().split("\n")[:-1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = [row["id"] for row in fb.RatingStore(path).rows()]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    assert len(set(stored) - set(acknowledged)) <= 1  # written, killed before it could be told
    assert len(acknowledged) >= 7 * count + kill_after
    return len(acknowledged)


def test_eight_writers_of_a_thousand_ratings_one_killed(tmp_path):
    """Every acknowledged rating is there, once."""
    write_from_eight_processes(tmp_path, 1000, kill_after=random.Random().randrange(50, 900))


def test_a_store_that_cannot_be_written_can_still_be_read(store, monkeypatch):
    store.append(rated("p", "r", 1))

    def refuse(*_):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(fb.RatingStore, "_lock_file", refuse)
    assert len(store.rows()) == 1
    with pytest.raises(PermissionError):
        store.append(rated("p", "s", 1))


# -------------------------------------------------------------------------- export and import


@pytest.fixture
def mixed(store):
    store.append(rated("p, \"q\"\nnew line", "=1+1; 'x'", FOUR, model="sft"))
    store.append(rated("p", "r", {"quality": 5}, annotator="bob", source="simulated"))
    store.append(fb.preference_row("p", "x", "y", "b", annotator="bob", model_a="m", model_b="n"))
    store.retract(store.append(rated("p", "gone", 1)), "ann", "human", "responses")
    return store


def test_csv_there_and_back(mixed, tmp_path):
    assert mixed.to_csv(tmp_path / "out.csv") == 3
    other = fb.RatingStore(tmp_path / "other.jsonl")
    assert other.add_csv(tmp_path / "out.csv") == 3
    assert other.rows() == mixed.rows()
    assert other.add_csv(tmp_path / "out.csv") == 0, "rows that are there are not added again"


def test_dataset_there_and_back(mixed, tmp_path):
    dataset = mixed.to_dataset()
    assert dataset.num_rows == 3 and "rating.coherence" in dataset.column_names
    other = fb.RatingStore(tmp_path / "other.jsonl")
    assert other.add_dataset(dataset) == 3
    assert other.rows() == mixed.rows()


def test_a_csv_with_a_wrong_row_adds_nothing(mixed, tmp_path):
    mixed.to_csv(tmp_path / "out.csv")
    text = (tmp_path / "out.csv").read_text().replace(",5\n", ",six\n").replace(",5,", ",six,")
    (tmp_path / "out.csv").write_text(text)
    other = fb.RatingStore(tmp_path / "other.jsonl")
    with pytest.raises(UserError, match=r"out.csv, row 2: rating.quality is 'six'"):
        other.add_csv(tmp_path / "out.csv")
    assert not other.path.exists()
    with pytest.raises(UserError, match="none.csv: cannot be read"):
        other.add_csv(tmp_path / "none.csv")


# ---------------------------------------------------------------------------- what rows say


def test_averages_count_a_response_once_and_carry_intervals():
    rows = [rated("p", "a", 5), rated("p", "a", 3, "bob"), rated("p", "b", 1),
            fb.preference_row("p", "a", "b", "a", annotator="ann")]
    mean, low, high = fb.average_ratings(rows)["all"]["quality"]
    assert mean == 2.5 and low == 1 and high == 4
    assert set(fb.average_ratings(rows, by="annotator")) == {"ann", "bob"}
    assert fb.average_ratings([]) == {}


def test_agreement_is_krippendorffs_own_example():
    """Krippendorff 2004's data of four observers and twelve units: alpha ordinal is .815."""
    _ = np.nan
    data = [[1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
            [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _]]
    rows = [rated("p", f"unit {u}", int(v), f"observer {o}") for o, line in enumerate(data)
            for u, v in enumerate(line) if not np.isnan(v)]
    alpha, low, high = fb.agreement(rows, "quality")
    assert alpha == pytest.approx(0.815, abs=0.001)
    assert alpha == pytest.approx(krippendorff.alpha(data, level_of_measurement="ordinal"))
    assert low < alpha < high <= 1


def test_agreement_of_twins_strangers_and_nobody():
    rng = np.random.default_rng(0)
    values = rng.integers(1, 6, (2, 300))
    twins = [rated("p", str(i), int(values[0, i]), a) for i in range(300) for a in ("ann", "bob")]
    strangers = [rated("p", str(i), int(values[k, i]), a)
                 for i in range(300) for k, a in enumerate(("ann", "bob"))]
    assert fb.agreement(twins, "quality")[0] == 1
    alpha, low, high = fb.agreement(strangers, "quality", draws=200)
    assert low < 0 < high and abs(alpha) < 0.15
    assert np.isnan(fb.agreement(twins[::2], "quality")[0]), "one annotator alone"
    assert fb.agreement([rated("p", "r", 3, a) for a in "ab"], "quality")[0] == 1


def test_a_second_rating_by_the_same_annotator_replaces_the_first():
    rows = [rated("p", "r", 1), rated("p", "r", 4), rated("p", "s", 2)]
    assert fb.rating_matrix(rows, "quality").tolist() == [[4, 2]]


def test_ratings_become_pairs_with_their_gap_and_ties():
    rows = [rated("p", "good", 5), rated("p", "good", 4, "bob"), rated("p", "fair", 4),
            rated("p", "bad", 1, source="simulated"), rated("q", "alone", 5)]
    pairs = fb.ratings_to_pairs(rows, min_gap=0.6)
    assert [(p["chosen"], p["rejected"], p["rating_gap"]) for p in pairs] == [
        ("good", "bad", 3.5), ("fair", "bad", 3.0)]
    assert {p["source"] for p in pairs} == {"simulated"}
    kept = fb.ratings_to_pairs(rows, min_gap=0.6, ties="keep")
    assert [(p["chosen"], p["rejected"]) for p in kept if p["tie"]] == [("good", "fair")]
    assert [p["source"] for p in kept if p["tie"]] == ["human"]


def test_weights_say_which_dimension_counts():
    rows = [rated("p", "dull and right", {"creativity": 1, "relevance": 5}),
            rated("p", "bright and wrong", {"creativity": 5, "relevance": 2})]
    assert fb.ratings_to_pairs(rows, {"relevance": 1})[0]["chosen"] == "dull and right"
    assert fb.ratings_to_pairs(rows, {"creativity": 1})[0]["chosen"] == "bright and wrong"
    with pytest.raises(UserError, match="'charm'"):
        fb.ratings_to_pairs(rows, {"charm": 1})
    with pytest.raises(UserError, match="ties"):
        fb.ratings_to_pairs(rows, ties="maybe")


def test_choices_become_pairs():
    rows = [fb.preference_row("p", "x", "y", choice, annotator="ann")
            for choice in ("a", "b", "tie")]
    pairs = fb.preferences_to_pairs(rows)
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("x", "y"), ("y", "x")]
    assert [p["tie"] for p in fb.preferences_to_pairs(rows, ties="keep")] == [False, False, True]


def test_a_leaderboard_finds_the_strengths_that_made_the_games():
    strengths = {"strong": 1.0, "middle": 0.0, "weak": -1.0}
    rng = np.random.default_rng(0)
    names, games = list(strengths), []
    for _ in range(3000):
        a, b = rng.choice(names, 2, replace=False)
        win = rng.random() < 1 / (1 + np.exp(strengths[b] - strengths[a]))
        games.append((str(a), str(b), float(win)))
    board = fb.bradley_terry(games, draws=60)
    assert [entry["model"] for entry in board] == names
    for entry in board:
        assert entry["strength"] == pytest.approx(strengths[entry["model"]], abs=0.12)
        assert entry["low"] < strengths[entry["model"]] < entry["high"]
    assert sum(entry["strength"] for entry in board) == pytest.approx(0, abs=1e-9)


def test_two_models_have_a_closed_form_and_ties_count_half():
    games = [("m", "n", 1.0)] * 6 + [("m", "n", 0.0)] * 2 + [("n", "m", 0.5)] * 2
    first, second = fb.bradley_terry(games, prior=1e-9, draws=20)
    assert first["strength"] - second["strength"] == pytest.approx(np.log(7 / 3), abs=1e-3)
    assert first["games"] == 10


def test_a_model_that_never_lost_stays_finite_and_no_games_are_an_error():
    board = fb.bradley_terry([("m", "n", 1.0)] * 5, draws=20)
    assert board[0]["model"] == "m" and board[0]["strength"] < 10
    with pytest.raises(UserError, match="at least one comparison"):
        fb.bradley_terry([])


def test_choices_in_rows_are_comparisons_of_models():
    rows = [fb.preference_row("p", "x", "y", "b", annotator="ann", model_a="m", model_b="n"),
            rated("p", "r", 3)]
    assert fb.comparisons_of(rows) == [("m", "n", 0.0)]
