"""A row of feedback: what it must hold, how its values are read, and when two rows are the same.

One rule for each value wherever it comes from (a store, a table, an annotation tool, a panel). What
cannot be meant is refused with place, reason and remedy, and never turned into something else.

A row is what one annotator said of one item. Its name is its `id` together with its annotator; a
row without an id is known by all that it says (and by its time, where it has one). A correction is
a further row whose `supersedes` names the one that it replaces.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from numbers import Real
from typing import Any, cast

from helpers.engine.kinds import Row
from helpers.engine.values import blank, shown
from helpers.errors import UserError

SOURCES = ("human", "simulated")
PREFERENCES = ("a", "b", "tie")
RATED = ("response", "model")
COMPARED = ("response_a", "response_b", "model_a", "model_b", "preference")
TEXTS = ("prompt", "response", "response_a", "response_b")
KNOWN = {"id", "time", "annotator", "source", "task", "supersedes", "retracts", "ratings",
         *TEXTS, *RATED, *COMPARED}
# Texts that pandas' read_csv takes for "missing" unless it is given keep_default_na=False.
READ_AS_MISSING = frozenset((
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"))


def rating_value(value: Any, what: str) -> int:
    """A rating as a whole number from 1 to 5, from 4, 4.0, "4", "4.0" or NumPy's numbers.

    Raises UserError, beginning with `what`, for all else: 4.5, True, NaN, "four", "".
    """
    number: Any = value
    if isinstance(value, str) and re.fullmatch(r"\s*[1-5](\.0*)?\s*", value, re.ASCII):
        number = int(float(value))
    if hasattr(number, "item") and getattr(number, "shape", None) == ():  # NumPy's scalars
        number = number.item()
    is_number = isinstance(number, Real | Decimal) and not isinstance(number, bool)
    if is_number and number in range(1, 6):
        return int(cast(Any, number))
    raise UserError(f"{what} {shown(value)}, must be a whole number from 1 to 5; mend it, or leave "
                    "it out where nothing was rated.")


def validate_row(row: Any, where: str = "row", dimensions: Sequence[str] | None = None) -> Row:
    """The row with its values in their own types, when it fits the schema.

    Raises UserError that begins with `where`. With `dimensions`, every rating must be of exactly
    these. A blank `id` is left out, and so is a further field that is NaN.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: a row must be a JSON object, not {type(row).__name__}.")
    row = {name: value for name, value in row.items()
           if name in KNOWN or not isinstance(value, float) or value == value}  # NaN says nothing
    for name, value in row.items():
        _check_field(name, value, where)
    if blank(row.get("id", "")):
        row.pop("id", None)
    for name in ("time", "annotator", "source", "task",
                 *(n for n in ("id", "supersedes", "retracts") if n in row)):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{where}: {name!r} must be a non-empty string, not "
                            f"{shown(row.get(name))}; fill it in.")
    row["source"] = row["source"].strip().lower()
    if row["source"] not in SOURCES:
        raise UserError(f"{where}: 'source' is {shown(row['source'])}, must be 'human' or "
                        "'simulated'.")
    if "retracts" in row:
        if "ratings" in row or "preference" in row:
            raise UserError(f"{where}: a row that takes another back ('retracts') rates nothing; "
                            "make two rows of it.")
        return row
    if "ratings" in row or "preference" in row:
        for name in COMPARED if "ratings" in row else RATED:
            if not blank(row.get(name)):
                raise UserError(f"{where}: has {'ratings' if 'ratings' in row else 'a preference'} "
                                f"and {name!r}; a row is a rating or a choice, make two of it.")
            row.pop(name, None)
    for name in texts_of(row):
        if not isinstance(row.get(name), str):
            raise UserError(f"{where}: {name!r} must be a string, not {shown(row.get(name))}; "
                            "write it as text.")
    for name in ("model", "model_a", "model_b"):
        if not isinstance(row.get(name, ""), str):
            raise UserError(f"{where}: {name!r} must be a string, not {shown(row[name])}; leave it "
                            "empty where it is not known.")
    if "ratings" in row:
        row["ratings"] = _ratings(row["ratings"], where, dimensions)
        return row
    choice = row.get("preference")
    if not isinstance(choice, str) or choice.strip().lower() not in PREFERENCES:
        raise UserError(f"{where}: needs 'ratings' (1 to 5 for each dimension) or a 'preference' "
                        f"of 'a', 'b' or 'tie', not {shown(choice)}; mend it, or take the row out.")
    return row | {"preference": choice.strip().lower()}


def _ratings(ratings: Any, where: str, dimensions: Sequence[str] | None) -> dict[str, int]:
    if not isinstance(ratings, Mapping) or not ratings:
        raise UserError(f"{where}: 'ratings' must map each dimension to a number from 1 to 5.")
    if not all(isinstance(name, str) and name.strip() for name in ratings):
        raise UserError(f"{where}: a dimension of 'ratings' has no name; name it.")
    if dimensions is not None and set(ratings) != set(dimensions):
        raise UserError(f"{where}: rated are {', '.join(ratings)}; wanted exactly "
                        f"{', '.join(dimensions)}.")
    return {name: rating_value(value, f"{where}: {name!r} is rated")
            for name, value in ratings.items()}


def _check_field(name: Any, value: Any, where: str) -> None:
    if not isinstance(name, str):
        raise UserError(f"{where}: has more fields than the header has columns; quote the text "
                        "that holds the separator." if name is None else
                        f"{where}: a field is named {shown(name)}; its name must be text.")
    if name == "ratings":
        value = list(value) if isinstance(value, Mapping) else None  # NumPy's numbers are none here
    if name.startswith("rating."):
        raise UserError(f"{where}: {name!r} is a column's name; in a row the ratings stand under "
                        "'ratings'.")
    try:
        json.dumps([name, value], ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start:error.start + 1]
        raise UserError(f"{where}: {name!r} holds half of a character ({half!r}, a lone "
                        "surrogate); write the whole character, or leave it out.") from None
    except (TypeError, ValueError, RecursionError):
        raise UserError(f"{where}: {name!r} is {shown(value)}, which JSON cannot hold; write it "
                        "as text or as a number.") from None


def texts_of(row: Row) -> tuple[str, ...]:
    """The names of the texts that make the item of a row."""
    return ("prompt", "response") if "ratings" in row else ("prompt", "response_a", "response_b")


# ---------------------------------------------------------------------------------------- tables


def flatten(row: Row) -> Row:
    """A row as a table has it: ratings as columns `rating.<dimension>`."""
    flat = {key: value for key, value in row.items() if key != "ratings"}
    return flat | {f"rating.{k}": v for k, v in row.get("ratings", {}).items()}


def unflatten(flat: Any, where: str) -> Row | None:
    """The row that a line of a table means, or None where every field is blank.

    Fields that say nothing are left out, of a rating those of a choice, and the other way round.
    """
    if not isinstance(flat, Mapping):
        raise UserError(f"{where}: a row must be a JSON object, not {type(flat).__name__}.")
    for name in flat:
        if not str(name).startswith("rating."):
            _check_field(name, None, where)
    if all(blank(value) for value in flat.values()):
        return None
    row: Row = {}
    ratings: dict[str, Any] = {}
    for key, value in flat.items():
        empty = value is None or (isinstance(value, str) and not value.strip())
        if key.startswith("rating."):
            if not empty:
                ratings[key.removeprefix("rating.")] = rating_value(value, f"{where}: {key} is")
        elif key == "ratings" and isinstance(value, Mapping):
            ratings |= {k: v for k, v in value.items() if v is not None}
        elif key in TEXTS or not blank(value):
            row[key] = value.isoformat() if key == "time" and isinstance(value, datetime) else value
    if ratings:
        row["ratings"] = ratings
    if "retracts" in row:
        return {k: v for k, v in row.items()
                if k not in TEXTS or (k == "prompt" and v == "") or not blank(v)}
    if "ratings" not in row and "preference" not in row and not blank(row.get("response")):
        raise UserError(f"{where}: rates nothing; give at least one column 'rating.<dimension>' a "
                        "whole number from 1 to 5, or take the row out.")
    for name in RATED[1:] if "ratings" in row else COMPARED[2:4]:
        row.setdefault(name, "")
    return row


# -------------------------------------------------------------------------------------- identity


def item_of(row: Row) -> tuple[str, ...]:
    """The texts that were judged."""
    return tuple(row[name] for name in texts_of(row))


def models_of(row: Row) -> tuple[str, ...]:
    """The names of the models that wrote them, "" where not known."""
    names = ("model",) if "ratings" in row else ("model_a", "model_b")
    return tuple(row.get(name, "") for name in names)


def verdict(row: Row) -> Any:
    """What was said of the item: {dimension: rating}, or "a", "b", "tie"."""
    return row["ratings"] if "ratings" in row else row["preference"]


def stable_id(row: Row, *more: str) -> str:
    """The id of a row that brings none: the same for the same content (and time, if given)."""
    said = [row["retracts"]] if "retracts" in row else [item_of(row), models_of(row), verdict(row)]
    text = json.dumps([row["annotator"], row["source"], row["task"], row.get("time"), said, more],
                      sort_keys=True)
    return f"row-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def agrees(row: Row, other: Row) -> bool:
    """Whether a row says nothing that another row of the same annotator does not say.

    The time is not what a row says, and a blank field says nothing.
    """
    if ("retracts" in row) != ("retracts" in other) or row.get("retracts") != other.get("retracts"):
        return False
    if "retracts" in row:
        return True
    return (item_of(row) == item_of(other) and verdict(row) == verdict(other)
            and all(row[name] == other[name] for name in ("source", "task"))
            and all(not new or new == old
                    for new, old in zip(models_of(row), models_of(other), strict=True))
            and all(blank(value) or _plain(value) == _plain(other.get(name))
                    for name, value in row.items() if name not in KNOWN))


def _plain(value: Any) -> Any:
    """A further field as it compares: a table may write 1 as "1" or as "1.0"."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)


class Book:
    """The rows of a store by identity: which of them count, and what a further row would be."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows: list[Row] = []
        self._named: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._followers: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._about: dict[tuple, list[int]] = defaultdict(list)
        self._retracted: set[tuple[str, str]] = set()
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Take in the row that was written next; it has an id."""
        number, who = len(self.rows), row["annotator"]
        self.rows.append(row)
        self._named[who, row["id"]].append(number)
        if "retracts" in row:
            self._retracted.add((who, row["retracts"]))  # of the same annotator's rows only
            return
        if "supersedes" in row:
            self._followers[who, row["supersedes"]].append(number)
        self._about[self._key(row)].append(number)

    def counting(self) -> list[Row]:
        """The rows that count, in the order written: neither retracted nor superseded."""
        return [row for number, row in enumerate(self.rows) if "retracts" not in row
                and number in self._standing(self.family(row["annotator"], row["id"]))]

    def named(self, annotator: str, row_id: str) -> list[Row]:
        """The rows of an annotator that have an id; more than one only in old stores."""
        return [self.rows[n] for n in self._named.get((annotator, row_id), ())]

    def alike(self, row: Row) -> list[Row]:
        """Rows of the annotator about the same item and models, as far as times are given."""
        found = (self.rows[n] for n in self._about.get(self._key(row), ()))
        return [other for other in found if row.get("time", other["time"]) == other["time"]]

    def family(self, annotator: str, row_id: str) -> list[int]:
        """Numbers of a row, of what it supersedes and of what supersedes it, as written."""
        return sorted(self._walk(annotator, row_id)[0])

    def retracted(self, annotator: str, row_id: str) -> bool:
        """Whether the row, or one in its line of corrections, was taken back."""
        return any((annotator, name) in self._retracted
                   for name in self._walk(annotator, row_id)[1])

    def standing(self, annotator: str, row_id: str) -> list[Row]:
        """Those of a family that count."""
        return [self.rows[n] for n in sorted(self._standing(self.family(annotator, row_id)))]

    def _walk(self, annotator: str, row_id: str) -> tuple[set[int], set[str]]:
        numbers, names, ahead = set(), set(), [row_id]
        while ahead:
            name = ahead.pop()
            if name in names:
                continue
            names.add(name)
            for number in (*self._named.get((annotator, name), ()),
                           *self._followers.get((annotator, name), ())):
                row = self.rows[number]
                if "retracts" not in row:
                    numbers.add(number)
                    ahead += [row["id"], row.get("supersedes", row["id"])]
        return numbers, names

    def _standing(self, family: Sequence[int]) -> set[int]:
        first = self.rows[family[0]]
        if self.retracted(first["annotator"], first["id"]):
            return set()
        corrections = [n for n in family if "supersedes" in self.rows[n]]
        if corrections:
            return {corrections[-1]}
        stand: list[int] = []
        for number in family:  # the same id twice: once if both say the same
            if not any(agrees(self.rows[number], self.rows[n]) for n in stand):
                stand.append(number)
        return set(stand)

    @staticmethod
    def _key(row: Row) -> tuple:
        return (row["annotator"], row["source"], row["task"], item_of(row), models_of(row))


def without_doubles(rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Row, bool]]:
    """Each row of one file with its place, and whether the file has said the same before.

    Raises UserError naming both places, where one identity stands for two contents.
    """
    seen: dict[tuple, tuple[str, Row]] = {}
    for where, row in rows:
        if "id" in row or "retracts" in row:
            key: tuple = (row["annotator"], row.get("id"), row.get("retracts", "")
                          if "id" not in row else "")
        else:
            key = (row["annotator"], row["source"], row["task"], item_of(row), models_of(row),
                   row.get("time"))
        before, first = seen.setdefault(key, (where, row))
        if first is not row and not (agrees(row, first) and agrees(first, row)):
            what = f"have the same id {shown(row['id'])}" if "id" in row else \
                "are the same annotator's word on the same text"
            raise UserError(f"{before} and {where.rpartition(', ')[2]} {what} and differ; keep "
                            "one of them, or give each an id of its own.")
        yield where, row, first is not row
