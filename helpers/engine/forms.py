"""Canonical rows written in the forms that other tools read, and as files.

What `rows` reads in a form, these write: read again, the rows are the same.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from helpers.engine.dialogues import Turn, render_example, turns_of
from helpers.engine.kinds import Row
from helpers.engine.tables import form_of
from helpers.errors import UserError

NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def _turns(prompt: str) -> list[Turn]:
    turns = turns_of(prompt)
    return turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns


def _answer(text: str) -> Turn:
    return {"role": "assistant", "content": text}


def _sharegpt(turns: Iterable[Turn]) -> list[Turn]:
    return [{"from": NAMES[turn["role"]], "value": turn["content"]} for turn in turns]


def _more(row: Row) -> Row:
    """What a pair holds beside its texts, where it holds anything."""
    return {key: row[key] for key in ("probability", "score_gap", "topic", "source")
            if row.get(key) not in (None, "")}


def _arena(row: Row) -> Row:
    turns = _turns(row["prompt"])
    asked = [t["content"] for t in turns if t["role"] == "user"]
    said = [t["content"] for t in turns if t["role"] == "assistant"]
    return {"prompt": json.dumps(asked, ensure_ascii=False),
            **{f"response_{side}": json.dumps([*said, row[f"response_{side}"]], ensure_ascii=False)
               for side in "ab"},
            **{f"winner_model_{side}": int(row["winner"] == side) for side in "ab"},
            "winner_tie": int(row["winner"] == "tie")}


PAIRS: dict[str, Callable[[Row], Row]] = {
    "trl": lambda r: {"prompt": r["prompt"], "chosen": r["chosen"], "rejected": r["rejected"],
                      **_more(r)},
    "trl-conversational": lambda r: {
        "prompt": _turns(r["prompt"]), "chosen": [_answer(r["chosen"])],
        "rejected": [_answer(r["rejected"])], **_more(r)},
    "messages": lambda r: {side: [*_turns(r["prompt"]), _answer(r[side])]
                           for side in ("chosen", "rejected")} | _more(r),
    "hh": lambda r: {side: render_example(r["prompt"], r[side])
                     for side in ("chosen", "rejected")} | _more(r),
    "sharegpt": lambda r: {
        "conversations": _sharegpt(_turns(r["prompt"])),
        **{side: _sharegpt([_answer(r[side])])[0] for side in ("chosen", "rejected")}, **_more(r)},
    "openai": lambda r: {
        "input": {"messages": _turns(r["prompt"])}, "preferred_output": [_answer(r["chosen"])],
        "non_preferred_output": [_answer(r["rejected"])], **_more(r)},
}
COMPARISONS: dict[str, Callable[[Row], Row]] = {
    "arena": _arena,
    "choices": lambda r: {k: r[k] for k in ("prompt", "response_a", "response_b", "winner")},
}
DEMONSTRATIONS: dict[str, Callable[[Row], Row]] = {
    "trl": lambda r: {"prompt": r["prompt"], "completion": r["response"]},
    "trl-conversational": lambda r: {"prompt": _turns(r["prompt"]),
                                     "completion": [_answer(r["response"])]},
    "messages": lambda r: {"messages": [*_turns(r["prompt"]), _answer(r["response"])]},
    "sharegpt": lambda r: {"conversations": _sharegpt(
        [*_turns(r["prompt"]), _answer(r["response"])])},
    "hh": lambda r: {"text": render_example(r["prompt"], r["response"])},
}


WRITERS: dict[str, dict[str, Callable[[Row], Row]]] = {
    "reviews": {"imdb": dict}, "preferences": PAIRS | COMPARISONS,
    "demonstrations": DEMONSTRATIONS}


def write_table(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows as the ending says (Parquet, CSV, JSON, JSON lines; `.gz`), and return how many.

    A CSV holds lists as JSON. The file is there whole or not at all.

    Raises:
        UserError: an ending that is not known, or a place that cannot be written.
    """
    path, rows = Path(path), list(rows)
    form = form_of(path.name)
    if form is None:
        raise UserError(f"{path.name} has an unknown ending; use .jsonl, .json, .csv or .parquet.")
    packed = path.name.lower().endswith(".gz")
    content = _content(form, rows, "\t" if ".tsv" in path.name.lower() else ",")
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_bytes(gzip.compress(content) if packed else content)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another place."
                        ) from None
    return len(rows)


def _content(form: str, rows: list[Row], separator: str) -> bytes:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if form == "Parquet":
        import pyarrow as pa
        import pyarrow.parquet

        buffer = io.BytesIO()  # the columns of a table of rows are those of its first
        table = pa.Table.from_pylist([dict.fromkeys(columns) | row for row in rows])
        pyarrow.parquet.write_table(table, buffer)
        return buffer.getvalue()
    if form == "CSV":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, delimiter=separator, restval="")
        writer.writeheader()
        writer.writerows({k: v if isinstance(v, str | int | float) else
                          "" if v is None else json.dumps(v, ensure_ascii=False)
                          for k, v in row.items()} for row in rows)
        return text.getvalue().encode()
    if form == "JSON":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
