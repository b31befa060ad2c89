"""Every form of the trade comes in and goes out, and says the same."""

import json

import pandas
import pytest

from helpers import data
from helpers.engine import forms, rows
from helpers.engine.tables import read_rows
from helpers.profiles import load_profile

PROMPT = "\n\nHuman: Why is the sky blue?\n\nAssistant:"
LONG = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Why, again?\n\nAssistant:"
TOLD = "\n\nSystem: Be brief.\n\nHuman: Why?\n\nAssistant:"
EXTRA = {"probability": None, "score_gap": None, "topic": "", "source": ""}
PAIRS = [
    {"prompt": PROMPT, "chosen": "Air scatters blue light.", "rejected": "It is."} | EXTRA,
    {"prompt": LONG, "chosen": "Two\n\nparagraphs, \"quoted\"; and 1,5.", "rejected": "Früh – 早い"}
    | EXTRA | {"score_gap": 1.5, "probability": 0.75, "topic": "sky", "source": "me"},
    {"prompt": TOLD, "chosen": "Because.", "rejected": "Human: why do you ask?"} | EXTRA,
]
COMPARISONS = [{"prompt": p, "response_a": "First.", "response_b": "Second.", "winner": w}
               for p, w in ((PROMPT, "a"), (LONG, "b"), (PROMPT, "tie"))]
DEMONSTRATIONS = [{"prompt": p, "response": "An answer,\n\nin two parts.", "topic": ""}
                  for p in (PROMPT, LONG, TOLD)]
ENDINGS = (".jsonl", ".json", ".csv", ".tsv.gz", ".parquet", ".JSONL.GZ")


def both_ways(canonical, writers, convert):
    return [pytest.param(canonical, writer, convert, ending,
                         id=f"{convert.__name__}-{name}{ending}")
            for name, writer in writers.items() for ending in ENDINGS]


@pytest.mark.parametrize(("canonical", "writer", "convert", "ending"), [
    *both_ways(PAIRS, forms.PAIRS, rows.as_pair),
    *both_ways(COMPARISONS, forms.COMPARISONS, rows.as_comparison),
    *both_ways(DEMONSTRATIONS, forms.DEMONSTRATIONS, rows.as_demonstration)])
def test_rows_written_in_a_form_and_read_again_are_the_same(
        tmp_path, canonical, writer, convert, ending):
    if writer is forms.COMPARISONS["arena"]:  # the arena has no system prompts
        canonical = [row for row in canonical if "System" not in row["prompt"]]
    path = tmp_path / f"rows{ending}"
    forms.write_table(path, map(writer, canonical))
    assert [convert(row) for row in read_rows(path)] == canonical


@pytest.mark.parametrize("name", forms.PAIRS)
def test_pandas_between_writing_and_reading_changes_nothing(tmp_path, name):
    path = tmp_path / "rows.csv"
    forms.write_table(path, map(forms.PAIRS[name], PAIRS))
    pandas.read_csv(path).to_csv(path, sep=";", encoding="utf-8-sig")  # with its index
    assert [rows.as_pair(row) for row in read_rows(path)] == PAIRS


ASKED, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light.", "It is."
USER, YES, NO = ({"role": "user", "content": ASKED}, {"role": "assistant", "content": GOOD},
                 {"role": "assistant", "content": BAD})
HUMAN = {"from": "human", "value": ASKED}
ALIKE = {
    "TRL, prompt within, plain text": (
        {"chosen": "The sky is blue, by day.", "rejected": "The sky is green, by day."},
        ("\n\nHuman: The sky is\n\nAssistant:", "blue, by day.", "green, by day.")),
    "prompt beside one turn": {"prompt": ASKED, "chosen": [YES], "rejected": [NO]},
    "prompt as messages": {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
    "prompt as messages, answers as text": {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
    "prompt as messages, with a winner": {
        "prompt": [USER], "response_a": BAD, "response_b": GOOD, "winner": "model_b"},
    "content parts": {"chosen": [USER, {"role": "assistant", "content": [
        {"type": "text", "text": GOOD}]}], "rejected": [USER, NO]},
    "messages as JSON text, as a CSV holds them": {
        "chosen": json.dumps([USER, YES]), "rejected": json.dumps([USER, NO])},
    "messages as Python text, as pandas writes them": {
        "chosen": str([USER, YES]), "rejected": str([USER, NO])},
    "ShareGPT, whole": {"chosen": [HUMAN, {"from": "gpt", "value": GOOD}],
                        "rejected": [HUMAN, {"from": "gpt", "value": BAD}]},
    "ShareGPT, answers apart": {"conversations": [HUMAN], "chosen": {"from": "gpt", "value": GOOD},
                                "rejected": {"from": "gpt", "value": BAD}},
    "Argilla's UltraFeedback": {
        "instruction": ASKED, "chosen_response": GOOD, "rejected_response": BAD},
    "UltraFeedback's completions": (
        {"instruction": ASKED, "completions": [
            {"response": "Hm.", "overall_score": 5}, {"response": BAD, "overall_score": "2.0"},
            {"response": GOOD, "overall_score": 8.5}]}, (PROMPT, GOOD, BAD)),
    "the arena's conversations": {"conversation_a": [USER, NO], "conversation_b": [USER, YES],
                                  "winner": "model_b"},
    "the rating store": {"prompt": ASKED, "response_a": BAD, "response_b": GOOD,
                         "preference": "b"},
    "HH with Windows line ends": {
        "chosen": f"\r\n\r\nHuman: {ASKED}\r\n\r\nAssistant: {GOOD}",
        "rejected": f"\r\n\r\nHuman: {ASKED}\r\n\r\nAssistant: {BAD}"},
    "HH without the first blank line": {"chosen": f"Human: {ASKED}\n\nAssistant: {GOOD}",
                                        "rejected": f"Human: {ASKED}\n\nAssistant: {BAD}"},
    "HH with single line breaks": {"chosen": f"Human: {ASKED}\nAssistant: {GOOD}",
                                   "rejected": f"Human: {ASKED}\nAssistant: {BAD}"},
    "HH with spaces about": {"chosen": f"  Human : {ASKED}\n \n  Assistant:{GOOD} ",
                             "rejected": f"\n\nHuman:{ASKED}\n\n\nAssistant :  {BAD}\n"},
    "HH's prompt beside the answers": {"prompt": f"Human: {ASKED}\n\nAssistant:",
                                       "chosen": GOOD, "rejected": BAD},
    "HH's prompt with spaces about": {"prompt": f"\r\n\r\nHuman: {ASKED} \r\n\r\nAssistant: ",
                                      "chosen": GOOD, "rejected": BAD},
    "HH's prompt without the assistant": {"prompt": f"Human: {ASKED}", "chosen": GOOD,
                                          "rejected": BAD},
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_pair_is_the_same_however_it_is_written(name):
    row, said = ALIKE[name] if isinstance(ALIKE[name], tuple) else (
        ALIKE[name], (PROMPT, GOOD, BAD))
    pair = rows.as_pair(row)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == said
    assert rows.as_comparison(row)["prompt"] == said[0]
    assert rows.form_of_row(row, "preferences") is not None


TOOLS = [USER, {"role": "assistant", "content": None, "tool_calls": [
    {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
    {"role": "tool", "content": "blue"}, {"role": "tool", "content": "very"}, YES]
SPOKEN = {
    "messages": {"messages": [USER, YES]},
    "a developer's turn": {"messages": [{"role": "developer", "content": ""}, USER, YES]},
    "ShareGPT": {"conversations": [HUMAN, {"from": "gpt", "value": GOOD}]},
    "TRL": {"prompt": ASKED, "completion": f" {GOOD}"},
    "TRL, conversational": {"prompt": [USER], "completion": [YES]},
    "prompt and response": {"prompt": ASKED, "response": GOOD},
    "Alpaca": {"instruction": ASKED, "input": "", "output": GOOD},
    "Dolly": {"instruction": ASKED, "context": None, "response": GOOD, "category": "qa"},
    "HH": {"text": f"Human: {ASKED}\n\nAssistant: {GOOD}"},
}


@pytest.mark.parametrize("name", SPOKEN)
def test_a_demonstration_is_the_same_however_it_is_written(name):
    found = rows.as_demonstration(SPOKEN[name])
    prompt = found["prompt"].removeprefix("\n\nSystem: ")
    assert (prompt, found["response"]) == (PROMPT, GOOD)
    assert rows.form_of_row(SPOKEN[name], "demonstrations") is not None


def test_turns_with_tools_are_kept_and_the_answer_is_what_was_said_last():
    found = rows.as_demonstration({"messages": TOOLS})
    assert found["response"] == GOOD
    assert found["prompt"].startswith(PROMPT.removesuffix("Assistant:") + "Assistant: [{")
    assert found["prompt"].endswith("\n\nTool: blue\n\nTool: very\n\nAssistant:")
    again = forms.DEMONSTRATIONS["messages"](found)["messages"]
    assert [m["role"] for m in again] == ["user", "assistant", "tool", "tool", "assistant"]
    with_input = rows.as_demonstration({"instruction": "Translate.", "input": "Hut", "output": "x"})
    assert data.plain_prompt(with_input["prompt"]) == "Translate.\n\nHut"


@pytest.mark.parametrize(("value", "label"), [
    (1, 1), (0, 0), ("1", 1), ("1.0", 1), (" 0.0 ", 0), (1.0, 1), (True, 1), ("Positive", 1),
    ("neg", 0), ("NEGATIVE", 0)])
def test_a_label_is_a_label_in_any_type(value, label):
    assert rows.as_review({"text": "A film.", "label": value})["label"] == label
    assert rows.as_review({"review": "A film.", "sentiment": value})["label"] == label


@pytest.mark.parametrize("value", [2, -1, 0.5, "1.5", "", None, float("nan"), "good", [1], {}])
def test_what_is_no_label_is_none(value):
    with pytest.raises(ValueError, match="the label is .*; it must be 0"):
        rows.as_review({"text": "A film.", "label": value})


@pytest.mark.parametrize(("scores", "gap"), [
    ({"score_chosen": "4", "score_rejected": 1.5}, 2.5),
    ({"chosen_score": 4, "rejected_score": "1.5"}, 2.5),
    ({"chosen-rating": 4.0, "rejected-rating": 1.5}, 2.5),
    ({"score_chosen": " ", "score_rejected": 1.5}, None),
    ({"score_chosen": float("nan"), "score_rejected": 1.5}, None)])
def test_scores_and_probabilities_are_numbers_in_any_type(scores, gap):
    row = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD, **scores}
    assert rows.as_pair(row)["score_gap"] == gap
    for value, said in (("0.75", 0.75), (1, 1.0), ("", None), (None, None)):
        assert rows.as_pair({**row, "probability": value})["probability"] == said


def test_rows_of_every_form_load_side_by_side(tmp_path):
    written = [row[0] if isinstance(row, tuple) else row for row in ALIKE.values()]
    for split in data.SPLITS:
        forms.write_table(tmp_path / f"{split}.jsonl", written)
    settings = load_profile("embedded", {"data.preferences": str(tmp_path)})
    assert len(data.load_pairs(settings, "test")) == len(ALIKE)
    assert len(data.load_comparisons(settings, "test")) == len(ALIKE)
