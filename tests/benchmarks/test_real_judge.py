"""The study of an instruction-tuned judge with a tiny model, and with rules in a judge's place."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from transformers import AutoTokenizer

from helpers.paths import ROOT

sys.path.insert(0, str(ROOT))
from benchmarks import real_judge
from benchmarks.shared import store
from helpers import data, evaluation, judge, models
from helpers.profiles import load_profile

CHAT = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
COUNTS = (3, 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pairs of the embedded world in the files and schemas of HH and of the arena."""
    folder, settings = tmp_path_factory.mktemp("data"), load_profile("embedded")
    for path in real_judge.SOURCES.values():
        (folder / path).mkdir(parents=True)
    for split, count in (("train", 8), ("test", 6)):
        rows = data.load_pairs(settings, split, count)
        (folder / "hh-rlhf" / "harmless-base" / f"{split}.jsonl").write_text("\n".join(
            json.dumps({side: row["prompt"] + " " + row[side] for side in ("chosen", "rejected")})
            for row in rows))
    with open(folder / "arena" / "train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "prompt", "response_a", "response_b", "winner_model_a",
                        "winner_model_b", "winner_tie"])
        for i, row in enumerate(data.load_pairs(settings, "test", 60)[20:]):
            table.writerow([i, *(json.dumps([text]) for text in (
                data.plain_prompt(row["prompt"]), row["chosen"], row["rejected"])), 1, 0, 0])
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(models.EMBEDDED / "zoo" / "gpt2-0.2m", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def study(world, model, tmp_path, monkeypatch):
    """Makes the study anew, as a process does that was started again; a write for each pair."""
    monkeypatch.setattr(store, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(real_judge, "CHUNK", 1)
    return lambda: real_judge.Study(model, world, COUNTS, "tiny")


def rows_of(rows):
    return {(row["reply"], row["rules"]): row for row in rows}


def install(monkeypatch, taste):
    """A judge by rule: `taste(question, answer)` is a log-probability, of letters or answers."""
    def read(model, tokenizer, prompts, choices, batch_size=1):
        found = []
        for prompt, row in zip(prompts, choices, strict=True):
            said = dict(zip("AB", prompt.split("Answer ")[1:], strict=False))
            found.append([taste(prompt, said[c][3:].split("\n")[0].strip() if c in said else c)
                          for c in row])
        return np.array(found, float)

    monkeypatch.setattr(real_judge, "Reader", lambda: read)


def obedient(prompt, answer):
    """Takes the answer with more letters e, and the other one under reversed rules."""
    turned = real_judge.OPPOSITES[0] in prompt or "rules worse" in prompt
    return (-1 if turned else 1) * answer.count("e") / len(answer)


def test_what_prompts_share_is_read_once_and_changes_no_log_probability(study):
    made, read = study(), real_judge.Reader()
    rows = [(row["prompt"], row["chosen"], row["rejected"]) for row in made.pairs]
    said = [row[1:] for row in rows[:-1]] + [("Wait.", rows[-1][1])]
    seen = []
    made.model.base_model.register_forward_pre_hook(
        lambda _, args, given: seen.extend(ids.shape[1] for key, ids in given.items()
                                           if key == "input_ids"), with_kwargs=True)
    for form, choices in ((judge.constitution(), [("A", "B")] * len(rows)), (
            judge.constitution(reply="answer"), said)):
        prompts = [judge.pairwise_prompt(*row, form) for row in rows]
        seen.clear()
        once = read(made.model, made.tokenizer, prompts, choices)
        lengths = [len(ids) for ids in real_judge.encode_prompts(made.tokenizer, prompts)]
        asked = seen[:: 1 if choices[0] == ("A", "B") else 2]
        assert len(asked) == len(rows) and max(asked[1:]) < max(lengths)
        each = evaluation.choice_logprobs(made.model, made.tokenizer, prompts, choices)
        assert once == pytest.approx(each, abs=1e-3) and each.std() > 0.01
    assert max(asked) < real_judge.KEEP  # of the second form, only its last sentence


def test_a_study_that_was_stopped_goes_on_where_it_stopped_and_ends_with_the_same_rows(
        study, monkeypatch, tmp_path):
    whole = rows_of(study().run())
    shutil.rmtree(tmp_path / "results")
    plain, asked, most = real_judge.Study._ask, [], [18]

    def stops(self, reply, form, pairs, read):
        if len(asked) in most:
            raise KeyboardInterrupt
        asked.append((form, pairs[0]["chosen"]))
        return plain(self, reply, form, pairs, read)

    monkeypatch.setattr(real_judge.Study, "_ask", stops)
    with pytest.raises(KeyboardInterrupt):
        study().run()
    stored = store.load("real_judge")["rows"]
    assert [row["pairs"] for row in stored] == [len(row["verdicts"]) for row in stored] == [2] * 8
    del asked[16:], most[:]  # what was not stored is asked once more
    assert rows_of(study().run()) == whole
    assert rows_of(store.load("real_judge")["rows"]) == whole
    assert len(set(asked)) == len(asked) == 4 * len(whole)
    study().run()
    assert len(asked) == 4 * len(whole)  # nothing twice


def test_a_question_of_other_words_is_asked_anew_and_no_other(study, monkeypatch):
    before = rows_of(study().run())
    monkeypatch.setattr(real_judge, "OPPOSITES", ("It is dull.",))
    asked = []
    plain = real_judge.Study._ask
    monkeypatch.setattr(real_judge.Study, "_ask", lambda self, reply, form, pairs, read: (
        asked.append(form) or plain(self, reply, form, pairs, read)))
    after = rows_of(study().run())
    assert set(asked) == {form for (_, rules), form in real_judge.forms().items()
                          if rules == "opposite"} and after.keys() == before.keys()
    assert after["letter", "rules"] == before["letter", "rules"]


def test_verdicts_turn_with_the_rules_where_the_judge_follows_them(study, monkeypatch):
    install(monkeypatch, obedient)
    rows = rows_of(study().run())
    for reply, rules in (("letter", "opposite"), ("letter", "worse"), ("answer", "opposite")):
        turned, ruled = rows[reply, rules], rows[reply, "rules"]
        assert turned["same_as_rules"][:2] == [0, 0] and turned["same_as_rules"][2] > 0.4
        assert turned["agreement"][0] == pytest.approx(1 - ruled["agreement"][0])
        assert turned["rules_agree_more"][0] == pytest.approx(2 * ruled["agreement"][0] - 1)
    assert rows["letter", "none"]["same_as_rules"][::2] == [1, 1]
    assert rows["letter", "rules"]["names_first"][0] == 0.5
    assert rows["letter", "rules"]["same_winner"][0] == 1


def test_a_judge_that_names_the_first_whatever_the_rules_say_keeps_its_verdicts(
        study, monkeypatch):
    def first(prompt, answer):
        return 1.0 if prompt.split("Answer A: ")[-1].startswith(answer) else 0.0

    install(monkeypatch, first)
    rows = rows_of(study().run())
    for rules in ("none", "opposite", "worse"):
        row = rows["letter", rules]
        assert row["same_as_rules"][0] == row["names_first"][0] == 1
        assert row["same_winner"][0] == 0 and row["agreement"][0] == 0.5


def test_controls_and_the_length_of_what_people_took_are_as_counted_by_hand():
    pairs = [{"source": "hh", "chosen": "a b c", "rejected": "a"},
             {"source": "hh", "chosen": "a", "rejected": "a b"},
             {"source": "arena", "chosen": "a b", "rejected": "c d"}]
    assert real_judge.controls(pairs)["longer wins"]["agreement"][0] == 0.5
    assert real_judge.controls(pairs)["longer wins"]["agreement_arena"][0] == 0.5
    by = {("letter", "rules"): np.array([[0.9, 0.8], [0.4, 0.3], [0.9, 0.9]]),
          ("alone", "none"): np.array([[-1.0, -2.0], [-1.0, -2.0], [-2.0, -1.0]])}
    found = real_judge.summary("letter", by, "rules", pairs)
    assert found["agreement"][0] == pytest.approx(2 / 3, abs=1e-4)
    assert found["longer_than_people"][0] == 0.5  # the longer in both, where people took one
    assert found["same_as_likelier"][0] == pytest.approx(1 / 3, abs=1e-4)
    assert found["more_than_likelier"][0] == pytest.approx(0)
    assert found["more_than_longer"][0] == pytest.approx(2 / 3 - 1 / 2, abs=1e-4)
    assert real_judge.summary("alone", by, "none", pairs)["agreement"][0] == pytest.approx(
        2 / 3, abs=1e-4)


def test_each_question_differs_from_the_first_in_what_its_name_says():
    forms = real_judge.forms()
    assert len(set(forms.values())) == len(forms)
    for (reply, rules), form in forms.items():
        assert (judge.PRINCIPLES[0] in form) == (rules in ("rules", "worse"))
        assert (real_judge.OPPOSITES[0] in form) == (rules == "opposite")
        assert ("one letter" in form) == (reply == "letter")
        assert form.format(question="q", a="one", b="two").count("Answer") == 2
    assert len(real_judge.OPPOSITES) == len(judge.PRINCIPLES)


def test_pairs_hold_one_question_fit_and_leave_no_text_in_what_is_stored(study, monkeypatch):
    made = study()
    assert [row["source"] for row in made.pairs] == ["hh", "hh", "arena", "hh"]
    assert all(row["tokens"] <= real_judge.LENGTH for row in made.pairs)
    made.run()
    written = (store.RESULTS / "real_judge.json").read_text()
    assert not any(row[key][:20] in written for row in made.pairs
                   for key in ("chosen", "rejected"))
    longest = max(row["tokens"] for row in made.pairs)
    monkeypatch.setattr(real_judge, "LENGTH", longest - 1)
    assert all(row["tokens"] < longest for row in study().pairs)
    monkeypatch.setattr(real_judge, "LENGTH", 8)
    with pytest.raises(real_judge.UserError, match="0 pairs of one question within 8 tokens"):
        study()


def test_missing_data_or_model_are_one_sentence(world, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["real_judge.py", *map(str, arguments)])
        return real_judge.main()

    monkeypatch.delenv("RLHF_REAL_DATA", raising=False)
    assert call("--model", tmp_path) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "hh-rlhf" in said and "arena" in said
    assert call("--data", world, "--model", tmp_path) == 1
    assert "no config.json" in capsys.readouterr().err
    monkeypatch.setattr(real_judge.real_weights, "missing", lambda *names: "it needs weights")
    assert call("--data", world) == 0
    assert capsys.readouterr().out == "real_judge: not run; it needs weights.\n"
