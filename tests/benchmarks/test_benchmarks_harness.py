"""The benchmark that asks the field's own programs: its items, and what it says without them."""

import json

import pytest

from benchmarks import harness
from helpers import models
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profiles import load_profile


def test_an_item_has_its_own_answer_where_the_label_says_and_three_of_other_topics():
    settings = load_profile()
    _, tokenizer = models.load_base(settings)
    items = harness.items_of(settings, tokenizer, 20, 256)
    answers, topics = {}, {}  # a question may have several, an answer stand under several topics
    for row in harness.data.load_demonstrations(settings, "test"):
        answers.setdefault(row["prompt"], {})[row["response"]] = row["topic"]
        topics.setdefault(row["response"], set()).add(row["topic"])
    assert len({item["label"] for item in items}) > 1  # the right one has no fixed place
    for item in items:
        others = [text for n, text in enumerate(item["choices"]) if n != item["label"]]
        own = answers[item["prompt"]][item["choices"][item["label"]]]
        assert len(others) == 3 and all(topics[text] - {own} for text in others)


def test_a_library_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(harness.PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(UserError, match="no-such-package is not installed.*--group harness"):
        harness.library("no_such_module")


def test_the_stored_rows_say_which_versions_measured_and_both_ways_agree():
    stored = json.loads((ROOT / "benchmarks" / "results" / "harness.json").read_text("utf-8"))
    assert set(stored["versions"]) == {"lm-eval", "sacrebleu", "rouge-score"}
    asked = [row for row in stored["rows"] if row["part"] == "task"]
    assert [row["model"] for row in asked] == list(harness.MODELS)
    for row in asked:
        assert row["same_choice"] > 0.95 and abs(row["accuracy"] - row["ours"]) < 0.05


def test_what_text_metrics_miss_is_in_the_stored_rows():
    stored = json.loads((ROOT / "benchmarks" / "results" / "harness.json").read_text("utf-8"))
    rows = {row["answer"]: row for row in stored["rows"] if row["part"] == "texts"}
    assert (rows["the opposite, same words"]["bleu"]
            > rows["the same advice, other words"]["bleu"])
    assert rows["its words in another order"]["rouge_1"] == 1
    assert rows["the reference, and another topic"]["rouge_1_recall"] == 1
