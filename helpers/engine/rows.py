"""Rows of text: how a dialogue is written for a model, how a row of each kind is read and checked.

A row that cannot be meant is an error with file and row; one of a kind that public datasets hold
now and then is set aside and counted.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import html
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from helpers.engine.kinds import Row
from helpers.errors import UserError

EXTENSIONS = (".parquet", ".jsonl.gz", ".jsonl", ".json.gz", ".json", ".csv")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
# Rows set aside when a dataset has known irregularities; more than this share is an error. Of
# Anthropic's HH it is about 1.8 %.
IRREGULAR_SHARE = 0.05
SPEAKERS = {HUMAN: "user", ASSISTANT: "assistant"}
TURN = re.compile(f"({HUMAN}|{ASSISTANT})")


def render_prompt(prompt: str | Sequence[dict[str, str]]) -> str:
    """Text or message list to the string a model continues, ending in `\\n\\nAssistant:`.

    A string that already starts with a speaker's turn is returned as it is.
    """
    if isinstance(prompt, str):
        if prompt.startswith(HUMAN) and prompt.rstrip().endswith(ASSISTANT.strip()):
            return prompt.rstrip()
        return f"{HUMAN} {prompt.strip()}{ASSISTANT}"
    turns = [
        (HUMAN if m["role"] == "user" else ASSISTANT if m["role"] == "assistant" else "\n\nSystem:")
        + " " + m["content"].strip()
        for m in prompt
    ]
    return "".join(turns) + ASSISTANT


def render_example(prompt: str, response: str) -> str:
    """Prompt and response as one text, without the end-of-text token."""
    return f"{render_prompt(prompt)} {response.strip()}"


def parse_hh(text: str) -> tuple[list[dict[str, str]], str]:
    """An Anthropic HH string to its messages and the last assistant turn.

    Raises:
        IrregularRow: the text has no `\\n\\nAssistant:` turn or does not start with a human one.
    """
    dialogue, response = _cut_hh(text)
    return _turns(dialogue), response


def _cut_hh(text: str) -> tuple[str, str]:
    """All turns but the last assistant's, which begin with a blank line each, and that one."""
    if not text.startswith(HUMAN):
        text = f"\n\n{text.lstrip()}"
        if not text.startswith(HUMAN):
            raise IrregularRow("the text does not start with 'Human:'")
    cut = text.rfind(ASSISTANT)
    if cut < 0:
        raise IrregularRow("the text has no 'Assistant:' turn")
    return text[:cut], text[cut + len(ASSISTANT):].strip()


def _turns(dialogue: str) -> list[dict[str, str]]:
    _, *parts = TURN.split(dialogue)
    return [{"role": SPEAKERS[speaker], "content": said.strip()}
            for speaker, said in zip(parts[::2], parts[1::2], strict=True)]


def clean_review(text: str) -> str:
    """HTML line breaks and entities of IMDB reviews to plain spaces and characters."""
    text = html.unescape(re.sub(r"<br\s*/?>", " ", text))
    return re.sub(r"\s+", " ", text).strip()


class IrregularRow(ValueError):
    """A row that public datasets are known to contain now and then; set aside and counted."""


def as_review(row: Row) -> Row:
    text = _text(row, "text")
    label = row.get("label")
    if isinstance(label, str) and label.strip().lower() in ("positive", "negative", "0", "1"):
        label = int(label.strip().lower() in ("positive", "1"))
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int | np.integer) or label not in (0, 1):
        raise ValueError(f"the label is {label!r}; it must be 0 (negative) or 1 (positive)")
    return {"text": clean_review(text), "label": int(label)}


def as_pair(row: Row) -> Row | None:
    if "winner_tie" in row or "winner" in row:
        row = as_comparison(row)
        if row["winner"] == "tie":
            return None
        first = row["winner"] == "a"
        row = {
            "prompt": row["prompt"],
            "chosen": row["response_a" if first else "response_b"],
            "rejected": row["response_b" if first else "response_a"],
        }
    sides = {}
    prompts = {}
    for side in ("chosen", "rejected"):
        prompts[side], sides[side] = _prompt_and_response(row, side)
    if prompts["chosen"] != prompts["rejected"]:
        raise IrregularRow("the chosen and the rejected dialogue have different prompts")
    if sides["chosen"] == sides["rejected"]:
        raise IrregularRow("the two responses are equal; a pair must hold two different ones")
    for side, response in sides.items():
        if not response:
            raise IrregularRow(f"the {side} response is empty")
    probability = row.get("probability")
    if probability is not None and not (
        isinstance(probability, int | float) and 0 <= probability <= 1
    ):
        raise ValueError(f"the probability is {probability!r}; it must lie between 0 and 1")
    return {
        "prompt": prompts["chosen"],
        **sides,
        "probability": None if probability is None else float(probability),
        "score_gap": _score_gap(row),
        "topic": str(row.get("topic") or ""),
        "source": str(row.get("source") or ""),
    }


def _score_gap(row: Row) -> float | None:
    """score_chosen - score_rejected, or None where one is missing; CSV brings them as text."""
    scores = []
    for side in ("score_chosen", "score_rejected"):
        value = row.get(side)
        if isinstance(value, str):
            value = value.strip() or None
        if value is None or value != value:  # NaN is how tables write "missing"
            return None
        try:
            scores.append(float(value))
        except (TypeError, ValueError):
            raise ValueError(f"the {side} is {value!r}; it must be a number") from None
    return scores[0] - scores[1]


def _prompt_and_response(row: Row, side: str) -> tuple[str, str]:
    value = row.get(side)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str):
        _text(row, side)
        # With a prompt beside it, "Human: …" is a response in which a model spoke for the user, as
        # HH has some, unless an assistant's turn follows.
        whole = value.lstrip().startswith("Human:") and ASSISTANT in value
        if isinstance(row.get("prompt"), str) and not whole:
            return render_prompt(_text(row, "prompt")), value.strip()
        dialogue, response = _cut_hh(value)
        prompt = _hh_prompt(dialogue)
        if prompt is None:
            raise IrregularRow(f"the turns of the {side} dialogue do not alternate")
        return prompt, response
    elif isinstance(value, list) and value and all(
        isinstance(m, dict) and {"role", "content"} <= set(m) for m in value
    ):
        roles = [m["role"] for m in value]
        if roles[-1] != "assistant":
            raise IrregularRow(f"the {side} dialogue does not end with the assistant's turn")
        messages, response = value[:-1], str(value[-1]["content"]).strip()
    else:
        raise ValueError(f"{side!r} must be a dialogue: text with 'Human:' and 'Assistant:' turns, "
                         "or a list of messages with role and content")
    if not _alternate(messages):
        raise IrregularRow(f"the turns of the {side} dialogue do not alternate")
    return render_prompt(messages), response


@lru_cache(maxsize=1)  # both sides of a pair begin with the same turns
def _hh_prompt(dialogue: str) -> str | None:
    """The turns as they are rendered, or None when they do not alternate."""
    messages = _turns(dialogue)
    return render_prompt(messages) if _alternate(messages) else None


def _alternate(messages: Sequence[dict[str, str]]) -> bool:
    """Whether user and assistant take turns, the user first and last."""
    turns = [m["role"] for m in messages if m["role"] != "system"]
    return turns == ["user", "assistant"] * (len(turns) // 2) + ["user"]


def as_comparison(row: Row) -> Row:
    if "winner_tie" in row:
        votes = {"a": row["winner_model_a"], "b": row["winner_model_b"], "tie": row["winner_tie"]}
        won = [k for k, v in votes.items() if int(float(v)) == 1]
        if len(won) != 1:
            raise ValueError("exactly one of winner_model_a, winner_model_b, winner_tie must be 1")
        prompts, first, second = (
            _json_turns(row, k) for k in ("prompt", "response_a", "response_b"))
        if not len(prompts) == len(first) == len(second):
            raise IrregularRow("prompt and responses have different numbers of turns")
        messages: list[dict[str, str]] = []
        for i, question in enumerate(prompts):
            messages.append({"role": "user", "content": question})
            if i < len(prompts) - 1:
                messages.append({"role": "assistant", "content": first[i]})
        if not first[-1].strip() or not second[-1].strip():
            raise IrregularRow("a response is empty")
        return {"prompt": render_prompt(messages), "response_a": first[-1].strip(),
                "response_b": second[-1].strip(), "winner": won[0]}
    if "winner" in row:
        winner = str(row["winner"]).strip().lower()
        if winner not in ("a", "b", "tie"):
            raise ValueError(f"the winner is {row['winner']!r}; it must be a, b or tie")
        return {"prompt": render_prompt(_text(row, "prompt")),
                "response_a": _text(row, "response_a").strip(),
                "response_b": _text(row, "response_b").strip(), "winner": winner}
    pair = cast(Row, as_pair(row))  # no tie: it has no winner
    flip = hashlib.sha256((pair["chosen"] + pair["rejected"]).encode()).digest()[0] % 2 == 1
    a, b = ("rejected", "chosen") if flip else ("chosen", "rejected")
    gap = pair["score_gap"]
    return {"prompt": pair["prompt"], "response_a": pair[a], "response_b": pair[b],
            "winner": "b" if flip else "a", "score_gap": -gap if gap and flip else gap}


def _json_turns(row: Row, key: str) -> list[str]:
    value = row[key]
    try:
        turns = json.loads(value) if isinstance(value, str) else list(value)
    except json.JSONDecodeError:
        turns = [value]
    return ["" if t is None else str(t) for t in (turns if isinstance(turns, list) else [turns])]


def as_demonstration(row: Row) -> Row:
    if "messages" in row:
        prompt, response = _prompt_and_response({"chosen": row["messages"]}, "chosen")
        if not response:
            raise IrregularRow("the response is empty")
    else:
        prompt, response = render_prompt(_text(row, "prompt")), _text(row, "response").strip()
    return {"prompt": prompt, "response": response, "topic": str(row.get("topic") or "")}


def as_dialogue(row: Row) -> str:
    prompt, response = _prompt_and_response({"chosen": row.get("messages")}, "chosen")
    return render_example(prompt, response)


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} is empty; it must hold text")
    return value


COLUMNS: dict[str, tuple[tuple[set[str], ...], str]] = {
    "reviews": (({"text", "label"},), "text, label"),
    "preferences": (
        ({"chosen", "rejected"}, {"prompt", "response_a", "response_b", "winner"},
         {"prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"}),
        "chosen, rejected; or prompt, response_a, response_b, winner",
    ),
    "demonstrations": (({"prompt", "response"}, {"messages"}), "prompt, response; or messages"),
    "dialogues": (({"messages"},), "messages"),
}


def convert_rows(
    rows: Iterable[Row], convert: Callable[[Row], Any], kind: str, name: str
) -> list[Any]:
    """Each row by `convert`; what it leaves out (None) or sets aside (`IrregularRow`) is not there.

    Args:
        kind: one of `COLUMNS`, whose columns the first row must have.
        name: of the file or dataset, for messages.

    Raises:
        UserError: naming the row: one that cannot be meant, too many irregular ones, or none.
    """
    good, irregular, count = [], [], 0
    choices, wanted = COLUMNS[kind]
    for count, row in enumerate(rows, start=1):
        if count == 1 and not any(c <= set(row) for c in choices):
            raise UserError(f"{kind}: {name} has the columns {', '.join(map(str, row))}; "
                            f"it must have {wanted}.")
        try:
            value = convert(row)
        except IrregularRow as error:
            irregular.append(f"row {count}: {error}")
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{kind}: {name}, row {count}: {error}.") from error
        if value is not None:
            good.append(value)
    if not count:
        raise UserError(f"{kind}: {name} is empty; it must hold at least one row.")
    if len(irregular) > IRREGULAR_SHARE * count:
        raise UserError(
            f"{kind}: {name}, {irregular[0]}; mend or remove it ({len(irregular)} of {count} rows "
            "are of this kind, too many to set aside)."
        )
    if irregular:
        _note(f"{kind}: {name}: {len(irregular)} of {count} rows set aside, the first being "
              f"{irregular[0]}.")
    return good


def read_rows(path: Path) -> list[Row]:
    """Rows of a .parquet, .csv, .json or .jsonl file (optionally gzipped) as dictionaries."""
    name = path.name
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        opener = gzip.open if name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            if ".csv" in name:
                csv.field_size_limit(10**9)
                return list(csv.DictReader(file))
            if ".jsonl" in name:
                return [_json_line(line, number) for number, line in enumerate(file, 1)
                        if line.strip()]
            if ".json" in name:
                rows = json.load(file)
                if not isinstance(rows, list):
                    raise ValueError("it must hold a list of rows")
                return rows
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except Exception as error:  # every reader has its own family of errors for a broken file
        raise UserError(f"{name} cannot be read: {sentence(error)}.") from error
    raise UserError(f"{name} has an unknown ending; use one of {', '.join(EXTENSIONS)}.")


def _json_line(line: str, number: int) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"row {number} is not valid JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise ValueError(f"row {number} is not an object with named fields")
    return row


@cache
def _note(text: str) -> None:
    """Say a thing once per process, however often the file is read."""
    print(text, file=sys.stderr)


def sentence(error: BaseException) -> str:
    """First line of an error's message, without its final full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
