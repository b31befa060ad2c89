"""The study of over-optimisation: what it stores of a pool and of a run, and never does twice."""

import json
import sys

import numpy as np
import pytest

from benchmarks import over_optimisation as study
from benchmarks.shared import store
from helpers import reward, world
from helpers.paths import ROOT


class Stub:
    """In place of a job: a small pool in the cache, and no models."""

    def __init__(self, threads, seed):
        self.seed, self.folder = seed, study.CACHE / str(seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.questions = [f"\n\nHuman: What about {n}?\n\nAssistant:" for n in range(4)]
        self.test = self.questions[:2]
        self.pairs = {"train": [{"prompt": str(i), "chosen": "a", "rejected": "b"}
                                for i in range(9000)],
                      "test": [{"prompt": self.test[0] if i % 2 else str(i), "chosen": "a",
                                "rejected": "b"} for i in range(5000)]}

    pool = study.Job.pool


@pytest.fixture
def job(tmp_path, monkeypatch):
    for name, value in {"CACHE": tmp_path / "cache", "QUESTIONS": 4, "DRAWS": 8, "FEWER": 4,
                        "CHUNK": 2}.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "Job", Stub)
    monkeypatch.setattr(study.course, "require", lambda *_: None)
    return Stub(1, 0)


def pool(job, gold):
    for start in (0, 2):
        study.write(job.folder / f"pool-{start}.json", {
            "answers": [[f"One says {k}. The end." for k in range(8)] for _ in range(2)],
            "gold": gold[start : start + 2].tolist(), "seconds": 1.0, "commit": "x"})


def judged(job, name, scores):
    np.savez_compressed(job.folder / f"{name}.scores.npz", scores=scores, accuracy=0.7, ceiling=0.9)
    study.write(job.folder / f"{name}.model.json", {"likelihood": 1.0, "pairs": 1000,
                                                    "parameters": 5, "seconds": 1, "commit": "x"})


def unpacked(rows):
    return np.array([row.split() for row in rows], float)


def test_a_row_holds_what_every_n_picks_question_by_question(job):
    rng = np.random.default_rng(0)
    gold, own = rng.normal(size=(4, 8)), rng.normal(size=(4, 8))
    pool(job, gold)
    judged(job, "04", own)
    for name in (*study.ENSEMBLE, "second"):
        judged(job, name, rng.normal(size=(4, 4)))
    rows = {row["judge"]: row for row in study.best_of_rows(job)}
    row = rows["04"]
    assert row["n"] == [1, 2, 4, 8] and rows["m0"]["n"] == [1, 2, 4]
    assert unpacked(row["gold"])[0] == pytest.approx(gold.mean(1), abs=1e-3)
    best = gold[np.arange(4), own.argmax(1)]
    assert unpacked(row["gold"])[-1] == pytest.approx(best, abs=1e-3)
    scaled = (own - own.mean()) / own.std()
    assert unpacked(row["proxy"])[-1] == pytest.approx(scaled.max(1), abs=1e-3)
    assert [len(unpacked(row[what])) for what in ("second", "spread")] == [3, 3]
    assert [s[3] for s in row["samples"]] == pytest.approx(best, abs=1e-2)
    assert row["words"] == [5.0] * 4 and row["sentence"][-1] == 1.0
    members = np.stack([(s - s.mean()) / s.std() for s in (
        np.load(job.folder / f"{name}.scores.npz")["scores"] for name in study.ENSEMBLE)])
    picks = reward.conservative(members, "minimum").argmax(1)
    assert unpacked(rows["ensemble minimum"]["gold"])[-1] == pytest.approx(
        gold[np.arange(4), picks], abs=1e-3)


def test_before_the_pool_is_whole_nothing_is_told_of_it(job):
    pool(job, np.zeros((4, 8)))
    (job.folder / "pool-2.json").unlink()
    assert study.best_of_rows(job) == [] and study.rl_rows(job) == []


def test_repeats_are_counted_over_answers_to_other_questions():
    texts = ["You can try it. Rest well.", "You can try tea. Ask a friend.", "It helps. Rest well."]
    assert study.repeats(texts) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert study.repeats(["a b c", "d e f"]) == (0.0, 0.0)


def test_labels_are_turned_round_and_held_questions_left_out(job):
    judge = study.Judge(noise=0.3)
    rows = study.training_pairs(job, judge)
    assert sum(row["chosen"] == "b" for row in rows) == 300 and len(rows) == 1000
    assert [row["prompt"] for row in study.training_pairs(job, study.Judge(1000, 2))] == [
        "1000", "1001"]
    second = study.training_pairs(job, study.JUDGES["second"])
    assert len(second) == 2000 and not {row["prompt"] for row in second} & {*job.test}
    more = study.training_pairs(job, study.JUDGES["more"])
    assert len(more) == 1000 + study.MORE and more[1000]["prompt"] == "4000"
    used = [set(range(j.first, j.first + j.pairs)) for j in map(study.JUDGES.get, study.ENSEMBLE)]
    assert sum(map(len, used)) == len(set.union(*used))  # no pair twice


def test_a_study_that_was_stopped_goes_on_and_other_seeds_stay(job, monkeypatch):
    done = []

    def read_pool(job, name):
        if (job.folder / f"{name}.scores.npz").is_file():
            return
        done.append((job.seed, name))
        judged(job, name, np.random.default_rng(1).normal(size=(4, 4)))

    monkeypatch.setattr(study, "make_pool", lambda job: pool(job, np.zeros((4, 8))))
    monkeypatch.setattr(study, "judge_pool", read_pool)
    monkeypatch.setattr(study.course, "start", lambda *_: None)
    call = ["x", "--threads", "1", "--only", "pool", "m0"]
    for more in ([], ["m1"], ["m1", "--seeds", "0", "1"]):
        monkeypatch.setattr(sys, "argv", [*call, *more])
        assert study.main() == 0
    assert done == [(0, "m0"), (0, "m1"), (1, "m0"), (1, "m1")]
    rows = store.load("over_optimisation")["rows"]
    assert [(row["seed"], row["judge"]) for row in rows] == done


def test_the_run_is_told_checkpoint_by_checkpoint(job):
    texts = [["It helps to rest.", "Ask a friend."], ["Rest.", "Rest."]]
    study.write(job.folder / "rl.json", {"commit": "x", "seconds": 3.2, "rows": [
        {"step": s, "train_reward": None, "texts": t, "kl_each": [0.0, 2.0 * s],
         "gold_each": [world.gold_utility(q, a) for q, a in zip(job.test, t, strict=True)]}
        for s, t in enumerate(texts)]})
    judged(job, "m0", np.array([[0.0, 2.0]]))
    np.savez_compressed(job.folder / "m0.rl.npz", scores=np.array([[1.0, 3.0], [0.0, 0.0]]))
    row, = study.rl_rows(job)
    assert unpacked(row["judges"]["m0"]).tolist() == [[0.0, 2.0], [-1.0, -1.0]]
    assert unpacked(row["preferred"])[0].tolist() == [0.5, 0.5]  # against itself
    assert (unpacked(row["preferred"])[1] < 0.5).all() and row["distinct"] == [1.0, 0.5]
    assert row["sentence"] == [0.0, 1.0] and unpacked(row["kl"])[1].tolist() == [0.0, 2.0]


def test_what_is_stored_is_what_the_notebook_reads():
    path = ROOT / "benchmarks" / "results" / "over_optimisation.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    judges = {row["judge"]: row for row in stored["rows"] if row["part"] == "best_of_n"}
    assert judges["04"]["n"][-1] == stored["draws"] == 1024
    for row in judges.values():
        assert unpacked(row["gold"]).shape == (len(row["n"]), stored["questions"])
        assert (np.diff(unpacked(row["proxy"]).mean(1)) > 0).all()  # picked by it: it must rise
