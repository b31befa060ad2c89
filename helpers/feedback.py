"""Ratings and choices by people (or by simulated people): stored, checked, turned into data.

The store is one file of JSON lines that only ever grows. A row is written under a lock and is on
the disk before `append` returns, so several people, or several processes, may share a store, and a
killed one loses nothing that it was told is saved. What a person takes back is taken back by a
further row, and what is corrected is superseded by one; no row is ever deleted. Where the file
system has no locks nothing is written, as two writers could overwrite each other there; reading a
store never writes, and needs no lock.

A row holds `id, time, annotator, source` ("human" or "simulated"), `task, prompt`, and either

* `response, model, ratings`: ratings maps each dimension to a whole number from 1 to 5, or
* `response_a, response_b, model_a, model_b, preference`: "a", "b" or "tie", as they were shown, or
* `retracts`: the id of an earlier row of the same annotator.

A row with `supersedes` stands in the place of the row of that id by the same annotator.
`engine/rating_rows.py` has the rules for values and for what makes two rows the same.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import uuid
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.engine import annotation_tools
from helpers.engine.rating_rows import (
    PREFERENCES,
    READ_AS_MISSING,
    SOURCES,
    TEXTS,
    Book,
    Row,
    agrees,
    flatten,
    item_of,
    shown,
    stable_id,
    unflatten,
    validate_row,
    without_doubles,
)
from helpers.engine.tables import read_rows
from helpers.engine.values import as_it_was, blank, no_formula
from helpers.errors import REASONS, UserError, error_number, no_saving

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["DIMENSIONS", "PREFERENCES", "SOURCES", "RatingStore", "Row", "agreement",
           "average_ratings", "bradley_terry", "comparisons_of", "preference_row",
           "preferences_to_pairs", "rating_matrix", "rating_row", "ratings_to_pairs",
           "validate_row"]
ESCAPED = "escaped"  # the column of `to_csv` that says in which rows a formula was made a text
DIMENSIONS = ("coherence", "creativity", "relevance", "fluency")


# ---------------------------------------------------------------------------------------- rows


def rating_row(
    prompt: str,
    response: str,
    ratings: Mapping[str, int],
    *,
    annotator: str,
    source: str = "human",
    model: str = "",
    task: str = "responses",
) -> Row:
    """A row that says how one response was rated, each dimension from 1 to 5."""
    return _stamp(annotator, source, task, prompt) | {
        "response": response, "model": model, "ratings": dict(ratings)}


def preference_row(
    prompt: str,
    response_a: str,
    response_b: str,
    preference: str,
    *,
    annotator: str,
    source: str = "human",
    model_a: str = "",
    model_b: str = "",
    task: str = "comparisons",
) -> Row:
    """A row that says which of two responses was preferred: "a", "b" or "tie"."""
    return _stamp(annotator, source, task, prompt) | {
        "response_a": response_a, "response_b": response_b,
        "model_a": model_a, "model_b": model_b, "preference": preference}


def _stamp(annotator: str, source: str, task: str, prompt: str) -> Row:
    return {"id": uuid.uuid4().hex, "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "annotator": annotator, "source": source, "task": task, "prompt": prompt}


# --------------------------------------------------------------------------------------- store


class RatingStore:
    """An append-only file of feedback rows, safe to share between people and processes.

    path: the JSON-lines file; made with its folder at the first `append`. dimensions: when given,
    every rating row must rate exactly these. `torn` lists the half-written lines found so far;
    they do not count, and the next writer moves their bytes to `<path>.torn`.

    Reading raises UserError that names file and row, or says why the file cannot be read. Writing
    raises one that names the path, why nothing can be saved there, and what to do.
    """

    def __init__(self, path: str | Path, dimensions: Sequence[str] | None = None) -> None:
        self.path = Path(path)
        self.dimensions = None if dimensions is None else tuple(dimensions)
        self.torn: list[bytes] = []

    # What is written.

    def check_writable(self) -> None:
        """Raise UserError where a rating could not be saved, before anybody has given one.

        Makes the store's folder and lock file, and no store.
        """
        with self._locked() as lock:
            lock.write(b".")  # a full disk refuses it
            os.fsync(lock.fileno())
            lock.truncate(0)
            if self.path.exists():
                open(self.path, "ab").close()

    def append(self, row: Row) -> str:
        """Write one row; when this returns its id, the row is on the disk.

        Raises UserError when the row does not fit the schema; then nothing is written.
        """
        row = validate_row(row, "new row", self.dimensions)
        row = {"id": uuid.uuid4().hex} | row
        with self._locked():
            self._write([row])
        return row["id"]

    def retract(self, row_id: str, annotator: str, source: str, task: str) -> str:
        """Take a row back: it stays in the file and no longer counts.

        With it goes what it superseded and what superseded it: the item is as if never rated. An
        annotator can take back rows of the same annotator only.
        """
        row = _stamp(annotator, source, task, "")
        return self.append(row | {"retracts": row_id})

    def extend(self, rows: Iterable[Row], where: str = "new rows") -> int:
        """Append rows that are not here yet; all are checked before any is written.

        A row whose id this annotator has here already is the same row: if it says the same, it is
        here; if its verdict, task, source, model or a further field differs, it is a correction
        and is appended as a new row that supersedes the old; another text under that id is an
        error. A row without an id is the same as one by the same annotator of the same texts,
        models, task and source, unless both have a time and the times differ; the rules are the
        same then. What was taken back stays so, and a row that a correction superseded does not
        come back. The same row twice among `rows` is stored once.

        Returns the number of rows appended, and prints a line if that is not all of them.
        """
        numbered = ((f"{where}, row {n}", row) for n, row in enumerate(rows, 1))
        return self._take_in(numbered, where, say_always=False)

    def _take_in(self, rows: Iterable[tuple[str, Row]], where: str, say_always: bool) -> int:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        checked = []
        for place, row in rows:
            undated = isinstance(row, Mapping) and row.get("time") is None
            row = {**row, "time": now} if undated else row
            row = validate_row(row, place, self.dimensions)
            if undated:
                del row["time"]
            checked.append((place, row))
        counts: Counter[str] = Counter()
        fresh = []
        marked = list(without_doubles(checked))
        with self._locked():
            book = Book(self._parse(self._content(locked=True)))
            for place, row, double in marked:
                kind, new = ("twice", row) if double else self._place(book, place, row, now)
                counts[kind] += 1
                if kind in ("new", "correction"):
                    fresh.append(new)
                    book.add(new)
            self._write(fresh)
        if say_always or len(fresh) < len(marked) or counts["correction"]:
            print(f"{where}: {_told(counts)}.")
        return len(fresh)

    def _place(self, book: Book, where: str, row: Row, now: str) -> tuple[str, Row]:
        """What a row is to the rows that are here, and as what it is to be written."""
        who = row["annotator"]
        if "supersedes" in row:
            row = {"id": stable_id(row, row["supersedes"])} | row
        dated = {"time": now} | row
        if "retracts" in row:
            known = book.named(who, row["id"]) if "id" in row else [
                r for r in book.rows if r["annotator"] == who and agrees(row, r)]
            return ("there" if known else "new"), {"id": stable_id(row)} | dated
        if "id" in row:
            here = [r for r in book.named(who, row["id"]) if "retracts" not in r]
            row |= {name: old[name] for old in here[:1] for name in TEXTS
                    if row.get(name) == "" and old.get(name) in READ_AS_MISSING}
            if here and not any(item_of(row) == item_of(r) for r in here):
                raise UserError(f"{where}: the id {shown(row['id'])} of {who!r} belongs to another "
                                f"text in {self.path}; give the row an id of its own, or none.")
            if not here and (here := book.named(who, row.get("supersedes", ""))):
                gone = book.retracted(who, here[0]["id"])
                return ("retracted" if gone else "correction"), dated
        else:
            here = sorted(reversed(book.alike(row)), key=lambda r: (
                book.retracted(who, r["id"]), not agrees(row, r)))
            if here and book.retracted(who, here[0]["id"]) and not agrees(row, here[0]):
                here = []
        if not here:
            return "new", {"id": stable_id(row)} | dated
        if book.retracted(who, here[0]["id"]):
            return "retracted", row
        standing = book.standing(who, here[0]["id"])
        family = [book.rows[n] for n in book.family(who, here[0]["id"])]
        if any(agrees(row, r) for r in standing):
            return "there", row
        if any(agrees(row, r) for r in family):
            return "outdated", row
        old = standing[-1]
        new = old | {k: v for k, v in row.items() if v != "" or k in TEXTS}
        if any(new["time"] == r["time"] for r in family):
            new["time"] = now  # the time of what it corrects, not its own
        new |= {"id": stable_id(row, old["id"]), "supersedes": old["id"]}
        return "correction", new

    def _lock_file(self) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return open(self.path.with_name(self.path.name + ".lock"), "ab", buffering=0)

    @contextmanager
    def _locked(self):
        """The store to one writer; what the file system refuses becomes a sentence."""
        import portalocker
        from portalocker.exceptions import BaseLockException

        try:
            with self._lock_file() as lock:
                portalocker.lock(lock, portalocker.LOCK_EX)
                try:
                    yield lock
                finally:
                    with suppress(OSError, BaseLockException):  # closing the file lets go as well
                        portalocker.unlock(lock)
        except (OSError, BaseLockException) as error:
            if error_number(error) is None:  # a lock's error without a cause
                error.args = (OSError(errno.ENOLCK, str(error)),)
            raise UserError(no_saving(self.path, error)) from error

    def _write(self, rows: Sequence[Row]) -> None:
        """Append rows, all or none; the store must be locked."""
        if not rows:
            return
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        rest = memoryview(lines.encode("utf-8"))
        with open(self.path, "ab", buffering=0) as file:
            self._set_torn_line_aside()
            size = file.seek(0, os.SEEK_END)
            try:
                while rest:
                    rest = rest[file.write(rest):]
                os.fsync(file.fileno())
            except BaseException:  # what is not acknowledged must not be there after all
                with suppress(OSError):
                    file.truncate(size)
                raise

    def _set_torn_line_aside(self) -> None:
        """Move what a killed writer left after the last line break to `<path>.torn`."""
        with open(self.path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            start, block = size, b""
            while start and b"\n" not in block:
                start = max(0, start - 65536)
                file.seek(start)
                block = file.read(size - start)
            tail = block.rsplit(b"\n", 1)[-1]
            if not tail:
                return
            if _is_whole(tail):  # an editor took the last line break away
                file.write(b"\n")
            else:
                with open(self.path.with_name(self.path.name + ".torn"), "ab") as aside:
                    aside.write(tail + b"\n")
                    aside.flush()
                    os.fsync(aside.fileno())
                file.truncate(size - len(tail))
                self._tell_torn(tail)
            file.flush()
            os.fsync(file.fileno())

    def _tell_torn(self, tail: bytes) -> None:
        if tail not in self.torn:
            self.torn.append(tail)
            warnings.warn(
                f"{self.path}: the last line was cut short by a writer that ended while writing; "
                f"its {len(tail)} bytes were never acknowledged and do not count (the next rating "
                f"that is saved moves them to {self.path.name}.torn).", stacklevel=4)

    # What is read.

    def rows(self, **equal: str) -> list[Row]:
        """All rows that count, in the order written; `equal` filters, e.g. task="responses".

        Raises UserError with file and row number at the first row that does not fit the schema.
        """
        return [row for row in Book(self.history()).counting()
                if all(row.get(key) == value for key, value in equal.items())]

    def history(self) -> list[Row]:
        """Every row of the file, with what was retracted or superseded, and the retractions."""
        return self._parse(self._content())

    def _parse(self, content: bytes) -> list[Row]:
        lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if lines[-1] and not _is_whole(lines[-1]):
            self._tell_torn(lines.pop())
        rows = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{self.path}, row {number}"
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not a JSON object in UTF-8 ({error}); mend the line, or "
                                "take it out.") from None
            row = validate_row(row, where, self.dimensions)
            rows.append(row if "id" in row else row | {"id": stable_id(row)})
        return rows

    def _content(self, locked: bool = False) -> bytes:
        """The bytes of the file, empty where there is none; between writers where locks exist."""
        import portalocker
        from portalocker.exceptions import BaseLockException

        with ExitStack() as stack:
            with suppress(OSError, BaseLockException, ImportError):
                if not locked:
                    lock = open(self.path.with_name(self.path.name + ".lock"), "rb")
                    stack.enter_context(lock)
                    portalocker.lock(lock, portalocker.LOCK_SH)
            try:
                return self.path.read_bytes()
            except FileNotFoundError:
                return b""
            except OSError as error:
                reason = "you may not read it" if error.errno in (errno.EACCES, errno.EPERM) else \
                    REASONS.get(error.errno or 0, error.strerror)
                raise UserError(f"{self.path}: the store cannot be read, as {reason}; give the "
                                "path of a file of JSON lines that you may read.") from error

    # Tables there and back.

    def to_csv(self, path: str | Path) -> int:
        """Write the rows that count to a CSV file, ratings as columns `rating.<dimension>`.

        The file may be edited and given to `add_csv` again. A text that a spreadsheet would take
        for a formula gets an apostrophe in front, which `add_csv` takes off again by the column
        `escaped` of its row, also from what another program made of the file. Prints a line where a
        text would not survive pandas' `read_csv` as it is called by default ("None", "NA" and the
        like).
        """
        flat = [{k: json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v
                 for k, v in flatten(row).items()} for row in self.rows()]
        harmless = [{no_formula(k): no_formula(v) for k, v in row.items()} for row in flat]
        harmless = [new if new == old else new | {ESCAPED: "yes"}
                    for old, new in zip(flat, harmless, strict=True)]
        columns = list(dict.fromkeys(key for row in harmless for key in row))
        try:
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(harmless)
        except OSError as error:
            raise UserError(no_saving(Path(path), error)) from error
        missing = [v for row in flat for k, v in row.items() if k in TEXTS and v in READ_AS_MISSING]
        if missing:
            print(f"{path}: {len(missing)} texts, such as {missing[0]!r}, are read as missing by "
                  "pandas.read_csv unless it is given keep_default_na=False.")
        return len(flat)

    def add_csv(self, path: str | Path, fields: Mapping[str, str] | None = None) -> int:
        """Append the rows of a table file, of any ending that `engine.tables.read_rows` knows.

        That is a table as `to_csv` writes it, the file of another store, or what Label Studio or
        Argilla exported (`engine.annotation_tools`; `fields` maps our names to the columns of
        such a file where they cannot be told). All rows are checked before any is written; what
        is the same as a row that is here, and what a correction, is said at `extend`. A row
        without `time` gets that of the import.

        Returns the number of rows appended and prints a line on the others. Raises UserError with
        file, row and reason; then nothing is written.
        """
        return self._add_table(read_rows(Path(path)), str(path), fields)

    def to_dataset(self) -> Dataset:
        """The rows that count as a `datasets.Dataset`, columns as in `to_csv`."""
        from datasets import Dataset

        flat = [flatten(row) for row in self.rows()]
        columns = list(dict.fromkeys(key for row in flat for key in row))
        return Dataset.from_dict({c: [row.get(c) for row in flat] for c in columns})

    def add_dataset(self, dataset: Dataset, fields: Mapping[str, str] | None = None) -> int:
        """Append the rows of a dataset, by the rules of `add_csv`."""
        return self._add_table(list(dataset), "dataset", fields)

    def _add_table(self, table: Sequence[Any], where: str, fields: Mapping[str, str] | None) -> int:
        if annotation_tools.recognise(table) or fields:
            found = [(f"{where}, row {n}", row)
                     for n, row in annotation_tools.numbered_rows(table, where, fields)]
        else:
            places = ((f"{where}, row {n}", _unescaped(flat)) for n, flat in enumerate(table, 1))
            found = [(place, row) for place, flat in places
                     if (row := unflatten(flat, place)) is not None]
        return self._take_in(found, where, say_always=True)


def _unescaped(flat: Any) -> Any:
    """A line of a table without what `to_csv` did to its formulas."""
    if not isinstance(flat, Mapping) or ESCAPED not in flat:
        return flat
    row = {key: value for key, value in flat.items() if key != ESCAPED}
    return row if blank(flat[ESCAPED]) else {
        as_it_was(key): as_it_was(value) for key, value in row.items()}


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode("utf-8")), dict)
    except (ValueError, RecursionError):
        return False


def _told(counts: Mapping[str, int]) -> str:
    say = {
        "new": "new",
        "correction": "corrected" + " (the old row stays in the history)" * bool(
            counts.get("correction")),
        "there": "already there",
        "twice": "twice among these",
        "outdated": "already there and corrected since (the correction stands)",
        "retracted": "taken back since and left out (a new id would add them again)",
    }
    return ", ".join(f"{counts.get(kind, 0)} {text}" for kind, text in say.items()
                     if kind in ("new", "correction", "there") or counts.get(kind))


# ------------------------------------------------------------------------------- what rows say


def average_ratings(
    rows: Iterable[Row], by: str | None = None, seed: int = 0
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Mean rating per dimension with a bootstrap 95 % interval over rated responses.

    Returns {group: {dimension: (mean, low, high)}}; `by` names the column that groups, such as
    "model" or "annotator", and without it there is one group, "all".
    """
    values: dict[str, dict[str, dict[tuple, list[int]]]] = {}
    for row in rows:
        for name, value in row.get("ratings", {}).items():
            group = values.setdefault("all" if by is None else str(row.get(by, "")), {})
            items = group.setdefault(name, {})
            items.setdefault((row["prompt"], row["response"]), []).append(value)
    return {group: {name: _bootstrap_mean([float(np.mean(v)) for v in items.values()], seed)
                    for name, items in names.items()} for group, names in values.items()}


def _bootstrap_mean(
    values: Sequence[float], seed: int, draws: int = 1000
) -> tuple[float, float, float]:
    means = np.asarray(values, float)
    index = np.random.default_rng(seed).integers(0, len(means), (draws, len(means)))
    low, high = np.quantile(means[index].mean(axis=1), [0.025, 0.975])
    return float(means.mean()), float(low), float(high)


def rating_matrix(rows: Iterable[Row], dimension: str) -> np.ndarray:
    """Ratings of one dimension, (annotators, responses), NaN where an annotator gave none.

    Where an annotator rated a response twice, the later rating stands.
    """
    ratings: dict[str, dict[tuple, int]] = defaultdict(dict)
    items: dict[tuple, int] = {}
    for row in rows:
        if dimension in row.get("ratings", {}):
            item = (row["task"], row["prompt"], row["response"])
            items.setdefault(item, len(items))
            ratings[row["annotator"]][item] = row["ratings"][dimension]
    matrix = np.full((len(ratings), len(items)), np.nan)
    for i, given in enumerate(ratings.values()):
        for item, value in given.items():
            matrix[i, items[item]] = value
    return matrix


def agreement(
    rows: Iterable[Row], dimension: str, draws: int = 500, seed: int = 0
) -> tuple[float, float, float]:
    """Krippendorff's alpha for ordinal ratings, with a bootstrap 95 % interval over responses.

    1 is full agreement, 0 what chance gives, below 0 systematic disagreement (Krippendorff 2004,
    chapter 11). NaN when no response has two ratings. Returns (alpha, low, high).
    """
    matrix = rating_matrix(rows, dimension)
    matrix = matrix[:, (~np.isnan(matrix)).sum(axis=0) >= 2] if matrix.size else matrix
    if matrix.size == 0:
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(seed)
    draws_of_alpha = [_alpha(matrix[:, rng.integers(0, matrix.shape[1], matrix.shape[1])])
                      for _ in range(draws)]
    low, high = np.nanquantile(draws_of_alpha, [0.025, 0.975])
    return _alpha(matrix), float(low), float(high)


def choice_agreement(
    rows: Iterable[Row], draws: int = 500, seed: int = 0
) -> tuple[float, float, float]:
    """Krippendorff's alpha of choices between two responses, a bootstrap 95 % interval over pairs.

    Nominal: a, b and tie are three names (Krippendorff 2004, chapter 11). A pair counts from two
    raters on, whichever response each of them saw first; of one rater's choices the last stands.
    NaN where no pair has two. Returns (alpha, low, high).
    """
    said: dict[tuple, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if "preference" in row:
            first, second = row["response_a"], row["response_b"]
            choice = {"a": first, "b": second}.get(row["preference"])
            place = "tie" if choice is None else "a" if choice == min(first, second) else "b"
            said[row["prompt"], *sorted((first, second))][row["annotator"]] = place
    counts = np.array([[list(given.values()).count(p) for p in PREFERENCES]
                       for given in said.values() if len(given) > 1])
    if not len(counts):
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(seed)
    drawn = [_nominal_alpha(counts[rng.integers(0, len(counts), len(counts))])
             for _ in range(draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return _nominal_alpha(counts), float(low), float(high)


def _nominal_alpha(counts: np.ndarray) -> float:
    import krippendorff

    if (counts.sum(axis=0) > 0).sum() < 2:
        return 1.0
    return float(krippendorff.alpha(value_counts=counts, value_domain=list(PREFERENCES),
                                    level_of_measurement="nominal"))


def _alpha(matrix: np.ndarray) -> float:
    import krippendorff

    counts = np.stack([(matrix == value).sum(axis=0) for value in range(1, 6)], axis=1)
    if (counts.sum(axis=0) > 0).sum() < 2:
        return 1.0
    return float(krippendorff.alpha(value_counts=counts, value_domain=[1, 2, 3, 4, 5],
                                    level_of_measurement="ordinal"))


def ratings_to_pairs(
    rows: Iterable[Row],
    weights: Mapping[str, float] | None = None,
    min_gap: float = 0.5,
    ties: str = "drop",
) -> list[Row]:
    """Turn ratings into preference pairs: for each prompt, every two responses rated.

    A response's score is the mean over its annotators of the weighted mean of its dimensions
    (`weights`, equal by default). Two responses whose scores differ by less than `min_gap` are a
    tie: left out with ties="drop", kept with ties="keep" and `tie: True`. Returns rows of
    `prompt, chosen, rejected, rating_gap` (of their scores, in rating points), `tie, source`.
    """
    if ties not in ("drop", "keep"):
        raise UserError(f"ties is {ties!r}, must be 'drop' or 'keep'.")
    scores: dict[str, dict[str, list[float]]] = {}
    simulated: dict[tuple[str, str], bool] = {}
    for row in rows:
        if "ratings" not in row:
            continue
        names = list(weights or row["ratings"])
        if missing := [name for name in names if name not in row["ratings"]]:
            raise UserError(f"weights name {missing[0]!r}, which a row of {row['annotator']!r} "
                            f"does not rate; it rates {', '.join(row['ratings'])}.")
        value = np.average([row["ratings"][n] for n in names],
                           weights=[weights[n] for n in names] if weights else None)
        scores.setdefault(row["prompt"], {}).setdefault(row["response"], []).append(float(value))
        key = (row["prompt"], row["response"])
        simulated[key] = simulated.get(key, False) or row["source"] == "simulated"
    pairs = []
    for prompt, responses in scores.items():
        ranked = sorted(responses, key=lambda r: -np.mean(responses[r]))
        for i, chosen in enumerate(ranked):
            for rejected in ranked[i + 1:]:
                gap = float(np.mean(responses[chosen]) - np.mean(responses[rejected]))
                tie = gap < min_gap or gap == 0
                if tie and ties == "drop":
                    continue
                source = "simulated" if simulated[prompt, chosen] or simulated[prompt, rejected] \
                    else "human"
                pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected,
                              "rating_gap": gap, "tie": tie, "source": source})
    return pairs


def preferences_to_pairs(rows: Iterable[Row], ties: str = "drop") -> list[Row]:
    """Turn choices into rows of `prompt, chosen, rejected, tie, source`, one per choice.

    A choice says nothing of how much better; ties are left out unless ties="keep".
    """
    if ties not in ("drop", "keep"):
        raise UserError(f"ties is {ties!r}, must be 'drop' or 'keep'.")
    pairs = []
    for row in rows:
        if "preference" not in row or (row["preference"] == "tie" and ties == "drop"):
            continue
        chosen, rejected = row["response_a"], row["response_b"]
        if row["preference"] == "b":
            chosen, rejected = rejected, chosen
        tie = row["preference"] == "tie"
        pairs.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected,
                      "tie": tie, "source": row["source"]})
    return pairs


def bradley_terry(
    comparisons: Iterable[tuple[str, str, float]],
    prior: float = 0.1,
    draws: int = 300,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A leaderboard from comparisons (model_a, model_b, outcome): 1 a won, 0 b won, 0.5 a tie.

    Bradley and Terry 1952: P(a beats b) = sigmoid(strength a - strength b). Strengths (in nats)
    sum to zero; `prior` is a small Gaussian precision that keeps a model that never lost finite.
    Returns `model, strength, low, high, games`, best first, with a bootstrap 95 % interval over
    comparisons.
    """
    comparisons = list(comparisons)
    if not comparisons:
        raise UserError("A leaderboard needs at least one comparison; there are none.")
    names = sorted({name for a, b, _ in comparisons for name in (a, b)})
    index = {name: i for i, name in enumerate(names)}
    first = np.array([index[a] for a, _, _ in comparisons])
    second = np.array([index[b] for _, b, _ in comparisons])
    outcome = np.array([o for _, _, o in comparisons], float)
    rng = np.random.default_rng(seed)
    strengths = _strengths(first, second, outcome, len(names), prior)
    resampled = []
    for _ in range(draws):
        pick = rng.integers(0, len(outcome), len(outcome))
        resampled.append(_strengths(first[pick], second[pick], outcome[pick], len(names), prior))
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    games = np.bincount(first, minlength=len(names)) + np.bincount(second, minlength=len(names))
    board = [{"model": name, "strength": float(strengths[i]), "low": float(low[i]),
              "high": float(high[i]), "games": int(games[i])} for name, i in index.items()]
    return sorted(board, key=lambda entry: -entry["strength"])


def _strengths(first, second, outcome, count: int, prior: float) -> np.ndarray:
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(strength):
        logit = strength[first] - strength[second]
        gap = expit(logit) - outcome
        slope = np.bincount(first, gap, count) - np.bincount(second, gap, count)
        value = (np.logaddexp(0, logit) - outcome * logit).sum()
        return value + prior / 2 * strength @ strength, slope + prior * strength

    found = minimize(loss, np.zeros(count), jac=True, method="L-BFGS-B").x
    return found - found.mean()


def comparisons_of(rows: Iterable[Row]) -> list[tuple[str, str, float]]:
    """The choices among rows as comparisons of models, ready for `bradley_terry`."""
    outcome = {"a": 1.0, "b": 0.0, "tie": 0.5}
    return [(row["model_a"], row["model_b"], outcome[row["preference"]])
            for row in rows if "preference" in row]
