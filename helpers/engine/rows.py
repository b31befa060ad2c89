"""Rows of each kind, as people write them, to the one form in which the course reads them.

`FORMS` names the manners of writing that are known. A row that cannot be meant is an error with
file and row; one of a sort that public datasets hold now and then is set aside and counted.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from os.path import commonprefix
from typing import Any, NamedTuple, cast

import numpy as np

from helpers.engine import annotation_tools
from helpers.engine.dialogues import (
    ASSISTANT,
    HUMAN,
    IrregularRow,
    Turn,
    alternate,
    checked_text,
    content_text,
    cut_hh,
    hh_prompt,
    is_dialogue,
    is_messages,
    messages,
    parse_hh,
    render_example,
    render_prompt,
    tidy,
    turns_of,
    unwritten,
)
from helpers.engine.kinds import Row
from helpers.engine.tables import read_rows, tell
from helpers.engine.values import blank, columns_of, shown
from helpers.errors import UserError, sentence

__all__ = ["ASSISTANT", "FORMS", "HUMAN", "IrregularRow", "as_comparison", "as_demonstration",
           "as_dialogue", "as_pair", "as_review", "clean_review", "convert_rows", "form_of_row",
           "parse_hh", "read_rows", "render_example", "render_prompt"]

# Rows set aside when a dataset has known irregularities; more than this share is an error. Of
# Anthropic's HH it is about 1.8 %.
IRREGULAR_SHARE = 0.05


class Form(NamedTuple):
    """A manner of writing rows of a kind: its name, its columns, and what is in them."""

    name: str
    columns: tuple[str, ...]
    example: str


# The first whose columns a row has is its form, so that the more particular ones stand first.
FORMS: dict[str, tuple[Form, ...]] = {
    "reviews": (
        Form("IMDB", ("text", "label"), "label: 0, 1, negative or positive"),
        Form("IMDB, as Kaggle has it", ("review", "sentiment"), "sentiment: negative or positive"),
    ),
    "preferences": (
        Form("LMSYS arena, 55k", ("prompt", "response_a", "response_b", "winner_model_a",
                                  "winner_model_b", "winner_tie"),
             "prompt and responses: JSON lists of turns; the winners: 0 or 1"),
        Form("LMSYS arena, conversations", ("conversation_a", "conversation_b", "winner"),
             "conversations: messages; winner: model_a, model_b or tie"),
        Form("choices", ("prompt", "response_a", "response_b", "winner"),
             "winner: a, b or tie"),
        Form("choices of the rating store", ("prompt", "response_a", "response_b", "preference"),
             "preference: a, b or tie"),
        Form("UltraFeedback", ("instruction", "completions"),
             "completions: a list of response and overall_score; best against worst"),
        Form("ShareGPT", ("conversations", "chosen", "rejected"),
             "conversations: from and value; chosen and rejected: one turn each"),
        Form("TRL, prompt apart", ("prompt", "chosen", "rejected"),
             "texts, or message lists; scores in score_chosen and score_rejected"),
        Form("Argilla", ("instruction", "chosen_response", "rejected_response"), "texts"),
        Form("OpenAI, preferences", ("input", "preferred_output", "non_preferred_output"),
             "input: an object with messages; the outputs: lists of one message"),
        Form("TRL or HH, prompt within", ("chosen", "rejected"),
             "whole dialogues: HH's text, message lists, or texts that begin alike"),
    ),
    "demonstrations": (
        Form("OpenAI, TRL", ("messages",), "role and content, the answer last"),
        Form("ShareGPT", ("conversations",), "from (human, gpt) and value, the answer last"),
        Form("KTO", ("prompt", "completion", "label"),
             "as below; label: true to imitate the completion, false to leave it out"),
        Form("TRL, prompt apart", ("prompt", "completion"), "texts, or message lists"),
        Form("prompt and response", ("prompt", "response"), "texts"),
        Form("Dolly", ("instruction", "response"), "texts, and perhaps a context"),
        Form("Alpaca", ("instruction", "output"), "texts, and perhaps an input"),
        Form("HH", ("text",), "a whole dialogue, 'Human:' first and 'Assistant:' last"),
    ),
    "dialogues": (Form("OpenAI, TRL", ("messages",), "role and content, the answer last"),
                  Form("ShareGPT", ("conversations",), "from and value, the answer last")),
}


def form_of_row(row: Row, kind: str) -> Form | None:
    """The manner in which a row of a kind is written, by its columns; None when it is none."""
    return _form(tuple(row), kind)


@lru_cache(maxsize=64)
def _form(columns: tuple[str, ...], kind: str) -> Form | None:
    return next((form for form in FORMS[kind] if {*form.columns} <= {*columns}), None)


# ------------------------------------------------------------------------------------- reviews


def clean_review(text: str) -> str:
    """HTML line breaks and entities of IMDB reviews to plain spaces and characters."""
    text = html.unescape(re.sub(r"<br\s*/?>", " ", text))
    return re.sub(r"\s+", " ", text).strip()


LABELS = {"positive": 1, "pos": 1, "1": 1, "negative": 0, "neg": 0, "0": 0}


def as_review(row: Row) -> Row:
    """A review with its label.

    Raises:
        ValueError: no text, or a label that says neither negative nor positive.
        IrregularRow: a text of HTML only.
    """
    old = "review" in row and "text" not in row
    text, label = ("review", "sentiment") if old else ("text", "label")
    value = row.get(label)
    key = value.strip().lower() if isinstance(value, str) else number(value)
    if isinstance(key, str) and key not in LABELS:
        key = number(key)
    if isinstance(key, float) and key in (0.0, 1.0):
        key = str(int(key))
    if key not in LABELS:
        raise ValueError(f"the {label} is {shown(value)}; it must be 0 (negative) or 1 (positive)")
    cleaned = clean_review(_text(row, text))
    if not cleaned:
        raise IrregularRow(f"{text!r} is empty but for HTML")
    return {"text": cleaned, "label": LABELS[cast(str, key)]}


# --------------------------------------------------------------------------------------- pairs


REJECTED = {"rejected", "rejected_response", "non_preferred_output"}  # one of them is in a pair


def as_pair(row: Row) -> Row | None:
    """A preference pair, or None for a tie.

    Raises:
        ValueError: what cannot be meant.
        IrregularRow: what public datasets hold now and then.
    """
    form = form_of_row(row, "preferences")
    if form is not None and REJECTED.isdisjoint(form.columns):
        judged = _best_and_worst(row) if "completions" in form.columns else as_comparison(row)
        if judged["winner"] == "tie":
            return None
        first = judged["winner"] == "a"
        gap = judged.get("score_gap")
        row = {**row, "prompt": judged["prompt"], "score_gap": gap if first or not gap else -gap,
               "chosen": judged["response_a" if first else "response_b"],
               "rejected": judged["response_b" if first else "response_a"]}
        prompts = dict.fromkeys(("chosen", "rejected"), row["prompt"])
        sides = {side: row[side] for side in prompts}
    else:
        prompts, sides = _sides(row, form.columns if form is not None else ())
    if prompts["chosen"] != prompts["rejected"]:
        raise IrregularRow("the chosen and the rejected dialogue have different prompts")
    _check_asked(cast(str, prompts["chosen"]))
    if sides["chosen"] == sides["rejected"]:
        raise IrregularRow("the two responses are equal; a pair must hold two different ones")
    for side, response in sides.items():
        if not response:
            raise IrregularRow(f"the {side} response is empty")
    return {
        "prompt": prompts["chosen"],
        **sides,
        "probability": _probability(row),
        "score_gap": _score_gap(row),
        "topic": _label(row, "topic"),
        "source": _label(row, "source"),
    }


def _check_asked(prompt: str) -> None:
    if prompt.endswith(f"{HUMAN} {ASSISTANT}"):
        raise IrregularRow("the prompt is empty: the user's last turn has no text")


def _sides(row: Row, columns: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Prompt and response of both sides of a pair, from the columns of its form."""
    names = {"chosen": "chosen", "rejected": "rejected"}
    prompt = row.get("prompt")
    if "conversations" in columns:
        prompt = row["conversations"]
    elif "chosen_response" in columns:
        names = {side: f"{side}_response" for side in names}
        prompt = row["instruction"]
    elif "preferred_output" in columns:
        names = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
        asked = _parsed(row["input"])
        if not isinstance(asked, dict) or not asked.get("messages"):
            raise ValueError(
                f"'input' is {shown(row['input'])}; it must be an object with messages")
        prompt = asked["messages"]
    elif prompt is None and (found := _alike(row.get("chosen"), row.get("rejected"))):
        return found
    values = {side: unwritten(row.get(name)) for side, name in names.items()}
    if prompt is None and all(isinstance(value, str) and not is_dialogue(value)
                              and ASSISTANT not in value for value in values.values()):
        return _common_prompt({side: _text(row, name) for side, name in names.items()})
    prompt = unwritten(prompt)
    prompts, sides = {}, {}
    for side, name in names.items():
        prompts[side], sides[side] = _prompt_and_response(prompt, values[side], name)
    return prompts, sides


def _alike(chosen: Any, rejected: Any) -> tuple[dict[str, str], dict[str, str]] | None:
    """Both sides of a pair as nearly all of HH's are: the same turns, read once, and an answer.

    None where it is not plain at once that they are; the turns of each are then read for
    themselves, which comes to the same and takes twice as long.
    """
    if not (isinstance(chosen, str) and chosen.startswith(HUMAN) and isinstance(rejected, str)):
        return None
    end = chosen.rfind(ASSISTANT)
    before = chosen[:end + len(ASSISTANT)]
    if end < 0 or not rejected.startswith(before) or " :" in before or tidy(before) != before:
        return None
    one, other = chosen[len(before):], rejected[len(before):]
    both = f"{one}\n{other}"
    if "Human:" in both or "Assistant:" in both or " :" in both or "\r" in both:
        return None
    checked_text(chosen, "chosen")
    prompt = hh_prompt(before[:end])
    if prompt is None:
        raise IrregularRow("the turns of 'chosen' do not alternate")
    checked_text(rejected, "rejected")
    return ({"chosen": prompt, "rejected": prompt},
            {"chosen": one.strip(), "rejected": other.strip()})


def _common_prompt(whole: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """TRL's implicit prompt: what both texts begin with, up to a space."""
    shared = commonprefix([*whole.values()])
    if any(len(text) > len(shared) and not text[len(shared)].isspace() for text in whole.values()):
        shared = shared[:shared.rfind(" ") + 1]
    if not shared.strip():
        raise IrregularRow("the text does not start with 'Human:', and the two have no beginning "
                           "in common that could be the prompt")
    prompt = render_prompt(shared)
    return (dict.fromkeys(whole, prompt),
            {side: text[len(shared):].strip() for side, text in whole.items()})


def _prompt_and_response(prompt: Any, value: Any, name: str) -> tuple[str, str]:
    """A rendered prompt and a response.

    Args:
        prompt: text, message list or None; not used where the value holds the whole dialogue.
        value: a response, or a whole dialogue, as text or messages.
        name: the field, for messages of errors.
    """
    value = unwritten(value)
    if isinstance(value, dict) and is_messages([value]):
        value = [value]
    if isinstance(value, str):
        _as_text(value, name)
        # With a prompt beside it, "Human: …" is a response in which a model spoke for the user, as
        # HH has some, unless an assistant's turn follows.
        if prompt is not None and not (is_dialogue(value) and ASSISTANT in tidy(value)):
            return prompt_text(prompt, "prompt"), value.strip()
        before, response = cut_hh(value)
        rendered = hh_prompt(before)
        if rendered is None:
            raise IrregularRow(f"the turns of {name!r} do not alternate")
        return rendered, response
    if not is_messages(value):
        if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
            keys = ", ".join(map(str, value[0]))
            raise ValueError(f"{name!r} has messages of {keys}; each must have role and content")
        raise ValueError(f"{name!r} is {shown(value)}; it must be a dialogue: text with 'Human:' "
                         "and 'Assistant:' turns, or a list of messages with role and content")
    turns = messages(value, name)
    if turns[-1]["role"] != "assistant":
        raise IrregularRow(f"{name!r} does not end with the assistant's turn but with that of "
                           f"{value[-1].get('role', value[-1].get('from'))!r}")
    if _calls(value[-1]):
        raise IrregularRow(f"{name!r} ends with the call of a tool, which is no answer")
    before, response = turns[:-1], turns[-1]["content"].strip()
    if all(turn["role"] == "system" for turn in before):  # only the answer, the prompt is apart
        if prompt is None:
            raise IrregularRow(f"{name!r} has no turn of the user before the answer")
        if not before:
            return prompt_text(prompt, "prompt"), response
        before += [{"role": "user", "content": _text({"prompt": prompt}, "prompt").strip()}]
    elif is_messages(prompt) and turns[0]["role"] != "user" and not alternate(before):
        before = messages(prompt, "prompt") + before
    if not alternate(before):
        raise IrregularRow(f"the turns of {name!r} do not alternate")
    return render_prompt(before), response


def _calls(message: dict[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call")) or \
        message.get("from") == "function_call"


def prompt_text(value: Any, name: str) -> str:
    """A prompt in any manner as it is rendered: text, HH's text, messages, a list of turns."""
    value = unwritten(value)
    if isinstance(value, dict) and is_messages([value]):
        value = [value]
    if is_messages(value):
        turns = messages(value, name)
    elif isinstance(value, str) and is_dialogue(value):
        _as_text(value, name)
        turns = turns_of(tidy(value))
        if turns and turns[-1] == {"role": "assistant", "content": ""}:
            turns.pop()
    elif isinstance(value, str):
        return render_prompt(_as_text(value, name))
    else:
        raise ValueError(f"{name!r} is {shown(value)}; it must be text or a list of messages with "
                         "role and content")
    if not alternate(turns):
        raise IrregularRow(f"the turns of {name!r} do not alternate, or do not end with the user's")
    return render_prompt(turns)


def _parsed(value: Any) -> Any:
    """What a text holds as JSON; the value itself where it is none."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _best_and_worst(row: Row) -> Row:
    """UltraFeedback's completions: the highest overall score against the lowest."""
    completions = _parsed(row["completions"])
    if not isinstance(completions, list | tuple) or not all(
            isinstance(one, dict) for one in completions):
        raise ValueError(f"'completions' is {shown(completions)}; it must be a list of objects of "
                         "response and overall_score")
    scored = []
    for completion in completions:
        score = number(completion.get("overall_score"))
        if score is None:
            continue
        scored.append((score, _text(completion, "response").strip()))
    if len(scored) < 2:
        raise IrregularRow("fewer than two of the completions have an overall_score")
    best, worst = (pick(scored, key=lambda one: one[0]) for pick in (max, min))
    return {"prompt": prompt_text(row["instruction"], "instruction"), "response_a": best[1],
            "response_b": worst[1], "winner": "a" if best[0] > worst[0] else "tie",
            "score_gap": best[0] - worst[0]}


# --------------------------------------------------------------------------------- comparisons


WINNERS = {"a": "a", "model_a": "a", "left": "a", "response_a": "a", "1": "a",
           "b": "b", "model_b": "b", "right": "b", "response_b": "b", "2": "b",
           "tie": "tie", "tie (bothbad)": "tie", "bothbad": "tie", "both_bad": "tie",
           "both bad": "tie", "equal": "tie", "same": "tie", "draw": "tie"}
WINNERS_SAID = "it must be a, b or tie"


def as_comparison(row: Row) -> Row:
    """Two responses and which won; of a pair, `chosen` is a or b by a hash of the texts.

    Raises:
        ValueError: what cannot be meant.
        IrregularRow: what public datasets hold now and then.
    """
    if "winner_tie" in row:
        return _arena_55k(row)
    if "conversation_a" in row:
        (prompt, first), (other, second) = (
            _prompt_and_response(None, row[f"conversation_{side}"], f"conversation_{side}")
            for side in "ab")
        if _opening(prompt) != _opening(other):
            raise IrregularRow("the two conversations begin with different prompts")
        if prompt != other:
            raise IrregularRow("the two conversations differ before their last answers")
        return _compared(prompt, first, second, _winner(row, "winner"))
    column = next((c for c in ("winner", "preference") if c in row and "response_a" in row), None)
    if column:
        return _compared(prompt_text(row.get("prompt"), "prompt"), _text(row, "response_a").strip(),
                         _text(row, "response_b").strip(), _winner(row, column))
    pair = as_pair(row)
    if pair is None:  # UltraFeedback's completions, all with one score
        return _best_and_worst(row)
    flip = hashlib.sha256((pair["chosen"] + pair["rejected"]).encode()).digest()[0] % 2 == 1
    a, b = ("rejected", "chosen") if flip else ("chosen", "rejected")
    gap = pair["score_gap"]
    return {"prompt": pair["prompt"], "response_a": pair[a], "response_b": pair[b],
            "winner": "b" if flip else "a", "score_gap": -gap if gap and flip else gap}


def _compared(prompt: str, first: str, second: str, winner: str) -> Row:
    _check_asked(prompt)
    for side, response in (("a", first), ("b", second)):
        if not response:
            raise IrregularRow(f"the response_{side} is empty")
    return {"prompt": prompt, "response_a": first, "response_b": second, "winner": winner}


def _opening(prompt: str) -> str:
    return prompt.partition(ASSISTANT)[0]


def _winner(row: Row, column: str) -> str:
    value = row[column]
    key = value.strip().lower() if isinstance(value, str) else None
    if key not in WINNERS:
        raise ValueError(f"the {column} is {shown(value)}; {WINNERS_SAID}")
    return WINNERS[key]


def _arena_55k(row: Row) -> Row:
    votes = {"a": row["winner_model_a"], "b": row["winner_model_b"], "tie": row["winner_tie"]}
    won = [side for side, vote in votes.items() if number(vote) == 1]
    if len(won) != 1 or any(number(vote) not in (0, 1) for vote in votes.values()):
        raise ValueError("exactly one of winner_model_a, winner_model_b, winner_tie must be 1, "
                         "and the others 0")
    prompts, first, second = (
        _json_turns(row, k) for k in ("prompt", "response_a", "response_b"))
    if not len(prompts) == len(first) == len(second):
        raise IrregularRow("prompt and responses have different numbers of turns")
    turns: list[Turn] = []
    for i, question in enumerate(prompts):
        turns.append({"role": "user", "content": question})
        if i < len(prompts) - 1:
            turns.append({"role": "assistant", "content": first[i]})
    return _compared(render_prompt(turns), first[-1].strip(), second[-1].strip(), won[0])


def _json_turns(row: Row, key: str) -> list[str]:
    turns = value = _parsed(row[key])
    if not isinstance(turns, list | tuple | np.ndarray):
        turns = [value]
    if not len(turns):
        raise IrregularRow(f"{key!r} is an empty list of turns")
    return ["" if t is None else content_text(t, f"{key!r}, turn {n}")
            for n, t in enumerate(turns, 1)]


# ------------------------------------------------------------------------------ demonstrations


def as_demonstration(row: Row) -> Row | None:
    """A prompt and a response to imitate, or None for one that its `label` says not to.

    Raises:
        ValueError: what cannot be meant.
        IrregularRow: what public datasets hold now and then.
    """
    listed = next((c for c in ("messages", "conversations") if c in row), None)
    if listed:
        prompt, response = _prompt_and_response(None, row[listed], listed)
    elif "completion" in row:
        prompt, response = _prompt_and_response(row.get("prompt"), row["completion"], "completion")
    elif "instruction" in row:
        more = row.get("context" if "response" in row else "input")
        asked = _text(row, "instruction").strip()
        if not blank(more):
            asked += "\n\n" + _text({"input": more}, "input").strip()
        prompt = render_prompt(asked)
        response = _text(row, "response" if "response" in row else "output").strip()
    elif "response" in row:
        prompt = prompt_text(row.get("prompt"), "prompt")
        response = _text(row, "response").strip()
    else:
        prompt, response = _prompt_and_response(None, row.get("text"), "text")
    _check_asked(prompt)
    if not response:
        raise IrregularRow("the response is empty")
    if not _liked(row):
        return None
    return {"prompt": prompt, "response": response, "topic": _label(row, "topic")}


TRUTHS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def _liked(row: Row) -> bool:
    """Whether a response is one to imitate: of KTO's rows (and others with a truth for a label),
    those whose label is true."""
    value = row.get("label")
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if not {"completion", "label"} <= row.keys():
        return True
    found = TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"the label is {shown(value)}; it must be true (to imitate the completion)"
                         " or false (to leave it out)")
    return found


def as_dialogue(row: Row) -> str:
    """A whole dialogue as text.

    Raises:
        ValueError: what cannot be meant.
        IrregularRow: what public datasets hold now and then.
    """
    listed = "conversations" if "conversations" in row else "messages"
    prompt, response = _prompt_and_response(None, row.get(listed), listed)
    return render_example(prompt, response)


# -------------------------------------------------------------------------------------- fields


def _text(row: Row, key: str) -> str:
    """A field that must hold text."""
    return _as_text(row.get(key), key)


def _as_text(value: Any, key: str) -> str:
    """The value of a field that must hold text."""
    if isinstance(value, str) and value and not value.isspace():
        return checked_text(value, key)
    if value is None or (isinstance(value, str) and not value.strip()) or value != value:
        raise ValueError(f"{key!r} is empty; it must hold text")
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {shown(value)}; it must hold text")
    return checked_text(value, key)


def _label(row: Row, key: str) -> str:
    """A field that is only named: a text or a number."""
    value = row.get(key)
    if value is None or value != value:
        return ""
    if isinstance(value, list | tuple | dict | np.ndarray):
        raise ValueError(f"{key!r} is {shown(value)}; it must be a name")
    return checked_text(str(value), key)


# As people and programs write one; `float` would take 1_0 and the digits of every script as well.
NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?\s*", re.ASCII | re.IGNORECASE)


def number(value: Any) -> float | None:
    """A number, also when a table holds it as text; None for nothing, NaN, and what is none."""
    if not isinstance(value, str | Real | np.bool_) or (
            isinstance(value, str) and not NUMBER.fullmatch(value)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _probability(row: Row) -> float | None:
    value = row.get("probability")
    if blank(value):
        return None
    found = number(value)
    if found is None or isinstance(value, bool) or not 0 <= found <= 1:
        raise ValueError(f"the probability is {shown(value)}; it must lie between 0 and 1")
    return found


SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"),
          ("chosen-rating", "rejected-rating"), ("chosen_rating", "rejected_rating"))


def _score_gap(row: Row) -> float | None:
    """The score of the chosen less that of the rejected response, None where one is missing."""
    columns = next((c for c in SCORES if c[0] in row), ("score_gap",))
    scores: list[float] = []
    for column in columns:
        value = row.get(column)
        if blank(value):
            return None
        found = number(value)
        if found is None:
            raise ValueError(f"the {column} is {shown(value)}; it must be a number")
        scores.append(found)
    return scores[0] - (scores[1] if len(scores) > 1 else 0.0)


# ---------------------------------------------------------------------------------- whole files


@dataclass
class Converted:
    """What became of the rows of a file.

    `left_out`: ties among pairs, and what demonstrations say not to imitate. `irregular`,
    `faulty`: (row, reason) of rows that are set aside, and of rows that stop the loading.
    """

    good: list[Any]
    count: int
    left_out: int
    irregular: list[tuple[int, str]]
    faulty: list[tuple[int, str]]


def sorted_out(
    rows: Iterable[Row], convert: Callable[[Row], Any], all_faults: bool = True
) -> Converted:
    """Each row by `convert`, with what is wrong with those that it refuses.

    `all_faults=False` ends at the first row that cannot be meant.
    """
    found = Converted([], 0, 0, [], [])
    for found.count, row in enumerate(rows, start=1):
        try:
            value = convert(row)
        except IrregularRow as error:
            found.irregular.append((found.count, str(error)))
            continue
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError,
                RecursionError) as error:
            found.faulty.append((found.count, _reason(error)))
            if not all_faults:
                return found
            continue
        if value is None:
            found.left_out += 1
        else:
            found.good.append(value)
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError):
        return sentence(error)
    return f"a field is not what it must be ({sentence(error)}); look at this row"


def choices_of_tools(rows: list[Row], name: str) -> list[Row]:
    """What Label Studio or Argilla export of choices between two responses; else the rows.

    Raises:
        UserError: an export without choices, or one that cannot be meant.
    """
    tool = annotation_tools.recognise(rows)
    if tool is None:
        return rows
    found = annotation_tools.feedback_rows(rows, name)
    choices = [row for row in found if "preference" in row]
    if not choices:
        raise UserError(f"preferences: {name} is an export of {tool} with {len(found)} ratings and "
                        "no choice between two responses; take ratings into a store with "
                        "RatingStore.add_csv.")
    return choices


# What rows are made into, what is left out of it, and what to give where nothing else is there.
LEFT_OUT = {
    "preferences": ("pairs", "ties", "in which one response was preferred"),
    "demonstrations": ("demonstrations", "labelled false, not to be imitated",
                       "whose label is true")}


def wanted_columns(kind: str) -> str:
    """The columns that rows of a kind may have, in words."""
    return "; or ".join(", ".join(form.columns) for form in FORMS[kind])


def convert_rows(
    parts: Iterable[tuple[str, Iterable[Row]]], convert: Callable[[Row], Any], kind: str, name: str
) -> list[Any]:
    """Each row by `convert`; what it leaves out (None) or sets aside (`IrregularRow`) is not there.

    Args:
        parts: the files that make up a split, each with its name ("" where it is the only one)
            and its rows. The columns of each are recognised alone; what may be set aside is a
            share of them all.
        kind: one of `FORMS`, the columns of one of which the first row of a part must have.
        name: of the file or dataset, for messages.

    Raises:
        UserError: naming the row: one that cannot be meant, too many irregular ones, or none.
    """
    whole = Converted([], 0, 0, [], [])
    first = ""
    for part, rows in parts:
        found = _convert_part(list(rows), convert, kind, f"{name}, {part}" if part else name)
        if found.irregular and not first:
            first = f"{part}, " if part else ""
            first += "row {}: {}".format(*found.irregular[0])
        whole.good += found.good
        whole.irregular += found.irregular
        whole.count += found.count
        whole.left_out += found.left_out
    if not whole.count:
        raise UserError(f"{kind}: {name} is empty; it must hold at least one row.")
    aside = len(whole.irregular)
    if aside > IRREGULAR_SHARE * whole.count:
        raise UserError(
            f"{kind}: {name}, {first}; mend or remove it ({aside} of {whole.count} rows "
            "are of this kind, too many to set aside).")
    rows, what, remedy = LEFT_OUT.get(kind, ("rows", "", ""))
    if not whole.good:
        raise UserError(f"{kind}: {name} has no {rows} left: all {whole.left_out} are {what}; give "
                        f"rows {remedy}.")
    if whole.left_out and kind != "preferences":
        tell(f"{kind}: {name}: {whole.left_out} of {whole.count} rows left out: they are {what}.")
    if aside:
        tell(f"{kind}: {name}: {aside} of {whole.count} rows set aside, the first being {first}.")
    return whole.good


def _convert_part(
    rows: list[Row], convert: Callable[[Row], Any], kind: str, name: str
) -> Converted:
    """The rows of one file; the first that cannot be meant ends it."""
    if kind == "preferences":
        rows = choices_of_tools(rows, name)
    if rows and form_of_row(rows[0], kind) is None:
        raise UserError(f"{kind}: {name} has the columns {columns_of(rows[0])}; "
                        f"it must have {wanted_columns(kind)}.")
    found = sorted_out(rows, convert, all_faults=False)
    if found.faulty:
        row, reason = found.faulty[0]
        raise UserError(f"{kind}: {name}, row {row}: {reason}.")
    return found
