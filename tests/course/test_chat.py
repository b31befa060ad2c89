"""Talking to a stage in the terminal: the dialogue, the filter with its raw rate, the thumbs."""

import json

import pytest
from support import byte_policy, byte_tokenizer

from helpers import generation, models, profiles
from helpers.course import chat, cli
from helpers.engine import artifacts
from helpers.engine.dialogues import render_prompt
from helpers.errors import UserError

SOUND = "Go to bed at the same hour every day, and get up at the same hour too."
LOOP = "it is it is it is it is it is it is it is it is it is it is it is it is it is it is"


@pytest.fixture
def settings(tmp_path):
    return profiles.load_profile("embedded", {"out": str(tmp_path)})


@pytest.fixture
def drawn(monkeypatch):
    """What the model is going to write, one answer a draw; records what it was asked."""
    answers, asked = [], []

    class Rollout:
        def __init__(self, text):
            self.texts, self.finished = [f" {text}"], [True]

    def sample(model, tokenizer, prompts, *_, seed, **__):
        asked.append((prompts[0], seed))
        return Rollout(answers.pop(0))

    monkeypatch.setattr(generation, "sample", sample)
    return answers, asked


def start(settings, **options):
    return chat.Chat(settings, None, None, "sft", settings.runs / "chat", **options)


def logged(talk):
    return [json.loads(line) for line in talk.log.read_text(encoding="utf-8").splitlines()]


def test_the_model_is_asked_with_the_whole_dialogue(settings, drawn):
    answers, asked = drawn
    answers += [SOUND, "Then read a book.", "Or count sheep."]
    talk = start(settings)
    assert talk.say("How do I sleep?") == SOUND
    assert talk.say("And then?") == "Then read a book."
    assert talk.again() == "Or count sheep."
    second = render_prompt([{"role": "user", "content": "How do I sleep?"},
                            {"role": "assistant", "content": SOUND},
                            {"role": "user", "content": "And then?"}])
    assert [prompt for prompt, _ in asked] == [render_prompt("How do I sleep?"), second, second]
    assert len({seed for _, seed in asked}) == 3
    assert [turn["content"] for turn in talk.turns][-1] == "Or count sheep."


def test_a_broken_answer_is_drawn_again_and_counted(settings, drawn):
    drawn[0].extend([LOOP, "", SOUND])
    talk = start(settings)
    assert talk.say("How do I sleep?") == SOUND
    assert [row["faults"] for row in logged(talk)] == [["repetition"], ["empty"], []]
    assert [row["shown"] for row in logged(talk)] == [False, False, True]
    assert talk.raw_rate() == "1 of 3 draws were sound; repetition 1, empty 1"


def test_what_stays_broken_is_not_shown_and_cannot_be_rated(settings, drawn):
    drawn[0].extend([LOOP] * chat.TRIES)
    talk = start(settings)
    assert talk.say("How do I sleep?") == chat.FALLBACK
    assert talk.drawn == chat.TRIES
    with pytest.raises(UserError, match="no answer yet to rate"):
        talk.thumb("/up")


def test_raw_shows_the_first_draw_whatever_it_is(settings, drawn):
    drawn[0].extend([LOOP, SOUND])
    talk = start(settings, filtered=False)
    assert talk.say("How do I sleep?") == LOOP
    assert logged(talk)[0]["faults"] == ["repetition"] and logged(talk)[0]["shown"]


def test_thumbs_are_ratings_of_what_was_shown(settings, drawn, capsys):
    drawn[0].extend([LOOP, SOUND, "Open\x1b[2J the window at night, it helps."])
    lines = iter(["How do I sleep?", "/up", "", "/again", "/down", "/what", "/quit"])
    talk = start(settings, annotator="ann")
    assert chat.talk(talk, lambda: next(lines)) == 0
    rows = talk.store.rows()
    assert [(r["response"], r["ratings"]) for r in rows] == [
        (SOUND, {"thumb": 5}), ("Open\x1b[2J the window at night, it helps.", {"thumb": 1})]
    assert {(r["annotator"], r["model"], r["task"], r["prompt"]) for r in rows} == {
        ("ann", "sft", "chat", render_prompt("How do I sleep?"))}
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "Open\\x1b[2J the window" in shown
    assert shown.rstrip().splitlines()[-1].startswith("2 of 3 draws were sound")
    assert shown.count(chat.HELP) == 2  # at the start, and for what is no command


def test_the_loop_survives_what_cannot_be_done_and_ends_with_the_input(settings, capsys):
    lines = iter(["/up", "/again", "/new"])

    def read():
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    assert chat.talk(start(settings), read) == 0
    told = capsys.readouterr()
    assert "no answer yet to rate" in told.err and "no answer yet to draw again" in told.err
    assert "0 of 0 draws" in told.out


def test_the_stage_is_the_furthest_there_or_the_one_named(settings):
    with pytest.raises(UserError, match="stage ppo is not there .*--notebooks 05"):
        chat.chosen_stage(settings)
    tokenizer = byte_tokenizer()
    for stage in ("sft", "ppo"):
        artifacts.save_stage(stage, settings, byte_policy(tokenizer), tokenizer)
        assert chat.chosen_stage(settings) == stage
    assert chat.chosen_stage(settings, "sft") == "sft"
    with pytest.raises(UserError, match="'reward_model' is no stage to talk to"):
        chat.chosen_stage(settings, "reward_model")


def test_the_command_talks_to_a_stage_from_its_folder(settings, tmp_path, monkeypatch, capsys):
    tokenizer = byte_tokenizer()
    artifacts.save_stage("sft", settings, byte_policy(tokenizer), tokenizer)
    lines = iter(["Hello", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    asked = []
    real = models.load_stage
    monkeypatch.setattr(models, "load_stage", lambda *a, **k: asked.append(a[1]) or real(*a, **k))
    status = cli.run(cli.parse(["chat", "--out", str(tmp_path), "--raw",
                                "--set", "ppo.max_new_tokens=4"]))
    assert status == 0 and asked == ["sft"]
    assert "of 1 draws were sound" in capsys.readouterr().out
    [row] = [json.loads(line) for line in
             (settings.runs / "chat" / "chat.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row["prompt"] == render_prompt("Hello") and row["shown"]
