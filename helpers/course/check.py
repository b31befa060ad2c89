"""`python -m helpers check FILE`: what a file of rows is, before anything is trained on it.

It is read as the loaders read it, and every row is looked at: how many are good, which are set
aside and why, which would stop the loading, how long the texts are, and the first three as the
course will read them.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from helpers import data, feedback, models
from helpers.engine import annotation_tools, forms
from helpers.engine.kinds import Row
from helpers.engine.rows import (
    FORMS,
    IRREGULAR_SHARE,
    LEFT_OUT,
    Converted,
    as_comparison,
    as_demonstration,
    as_pair,
    as_review,
    choices_of_tools,
    form_of_row,
    sorted_out,
    wanted_columns,
)
from helpers.engine.sources import SPLITS, split_files
from helpers.engine.tables import Table, read_table
from helpers.engine.tokens import text_ids
from helpers.engine.values import columns_of, no_formula
from helpers.errors import UserError, printable
from helpers.profiles import load_profile

CONVERTERS = {"preferences": as_pair, "reviews": as_review, "demonstrations": as_demonstration}
TEXTS = {"preferences": ("prompt", "chosen", "rejected"), "reviews": ("text",),
         "demonstrations": ("prompt", "response")}
SHOWN_ROWS, SHOWN_REASONS = 3, 5


def check(
    source: str, kind: str | None = None, tokenizer: str | None = None,
    write: str | None = None, form: str | None = None,
) -> int:
    """Print what a file, or each file of a folder, is; 0 when the course would load it, else 1.

    Args:
        source: a file, or a folder with train, validation or test files.
        kind: preferences, reviews, demonstrations or ratings; by the columns when it is not given.
        tokenizer: whose tokens to count, a folder or hub id; the embedded base model's by default.
        write: where to write the good rows.
        form: one of `forms.WRITERS` of its kind, in which to write them; the first by default.

    Raises:
        UserError: a file that cannot be read, columns of no kind, a place that cannot be written.
    """
    source = str(Path(source).expanduser())
    paths = _files(Path(source))
    if write and len(paths) > 1:
        raise UserError("--write takes the rows of one file; name one of "
                        f"{', '.join(str(path) for path in paths)}.")
    fine = True
    for number, path in enumerate(paths):
        if number:
            _say()
        fine &= _check_file(path, kind, tokenizer, write, form, whole=path == Path(source))
    return 0 if fine else 1


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [file for split in SPLITS for file in split_files(path, split, str(path))]
    if not found:
        raise UserError(f"{path} holds no train, validation or test file; name a file in it.")
    return found


def _check_file(path: Path, kind: str | None, tokenizer: str | None, write: str | None,
                form: str | None, whole: bool) -> bool:
    table = read_table(path)
    if not table.rows:
        raise UserError(f"{path.name} is empty; it must hold at least one row.")
    if kind == "ratings" or kind is None and _are_ratings(table.rows):
        return _check_ratings(path, table)
    _say(f"{path.name}: {table.form}{''.join(f', {d}' for d in table.details)}")
    for note in table.notes:
        _say(f"  note: {note}")
    if kind in (None, "preferences"):
        table.rows = choices_of_tools(table.rows, path.name)
    kind = kind or _kind(path, table)
    manner = form_of_row(table.rows[0], kind)
    if manner is None:
        raise UserError(f"{kind}: {path.name} has the columns {columns_of(table.rows[0])}; it "
                        f"must have {wanted_columns(kind)}.")
    _say(f"  {len(table.rows):,} rows of {kind}, as in {manner.name} "
          f"(columns {', '.join(manner.columns)})")
    found = sorted_out(table.rows, CONVERTERS[kind])
    fine = _counts(found, kind)
    if found.good:
        _splits(found.good, whole)
        _lengths(found.good, kind, tokenizer)
        _first_rows(found.good)
    if write:
        _say(f"\n  {_write(table, found, kind, write, form):,} rows written to {write}")
    if fine and whole:
        _say(f"\nThe course takes it: --set data.{kind}={path}")
    elif not fine:
        _say(f"\nThe course would not take {path.name}; mend what stands above.")
    return fine


def _are_ratings(rows: list[Row]) -> bool:
    """Whether rows are those of a rating store, or ratings that an annotation tool exports."""
    if any("ratings" in row or any(str(c).startswith("rating.") for c in row) for row in rows[:1]):
        return True
    try:
        return annotation_tools.recognise(rows) is not None and not any(
            "preference" in row for row in annotation_tools.feedback_rows(rows, ""))
    except UserError:  # the loaders will say it, with its place
        return False


def _check_ratings(path: Path, table: Table) -> bool:
    """The same of a file of ratings: who rated how much, and what; it is taken in for a trial."""
    _say(f"{path.name}: {table.form}{''.join(f', {d}' for d in table.details)}")
    if not table.rows:
        raise UserError(f"ratings: {path.name} is empty; it must hold at least one row.")
    with tempfile.TemporaryDirectory() as folder:
        store = feedback.RatingStore(Path(folder) / "trial.jsonl")
        store.add_csv(path)
        rows = store.rows()
    if not rows:
        raise UserError(f"ratings: {path.name} holds no rating that counts; give rows with an "
                        "annotator, the texts, and a rating or a preference.")
    _say(f"  {len(table.rows):,} rows of ratings; {len(rows):,} count")
    for annotator, number in Counter(row["annotator"] for row in rows).most_common():
        _say(f"    {annotator}: {number:,}")
    dimensions = Counter(name for row in rows for name in row.get("ratings", ()))
    for name, number in dimensions.items():
        mean = sum(row["ratings"].get(name, 0) for row in rows if "ratings" in row) / number
        _say(f"    {name}: {number:,} ratings, {mean:.2f} on average")
    choices = Counter(row["preference"] for row in rows if "preference" in row)
    if choices:
        _say("    choices: " + ", ".join(f"{n:,} {name}" for name, n in sorted(choices.items())))
    _first_rows([{**row, "ratings": ", ".join(
        f"{k} {v}" for k, v in row.get("ratings", {}).items())} for row in rows])
    _say(f"\nThe course takes it: feedback.RatingStore(STORE).add_csv({str(path)!r})")
    return True


def _kind(path: Path, table: Table) -> str:
    first = table.rows[0] if table.rows else {}
    kinds = [kind for kind in CONVERTERS if form_of_row(first, kind)]
    if not kinds:
        wanted = ", ".join(f"{', '.join(FORMS[kind][0].columns)} ({kind})" for kind in CONVERTERS)
        raise UserError(f"{path.name} has {columns_of(first) or 'no columns'}, which is none of "
                        f"the course's kinds; they have such columns as {wanted}, and --kind KIND "
                        "names all.")
    return kinds[0]


def _counts(found: Converted, kind: str) -> bool:
    """Say how many rows are good and why others are not; whether the loaders would go on."""
    parts = [f"{len(found.good):,} good"]
    if found.left_out:
        rows, what, _ = LEFT_OUT[kind]
        parts.append(f"{found.left_out:,} left out of {rows}: {what}")
    parts.append(f"{len(found.irregular):,} set aside")
    if found.faulty:
        parts.append(f"{len(found.faulty):,} that stop the loading")
    _say(f"  {', '.join(parts)}")
    for title, rows in (("set aside", found.irregular), ("wrong", found.faulty)):
        reasons: dict[str, list[int]] = {}
        for number, reason in rows:
            reasons.setdefault(reason, []).append(number)
        for reason, numbers in sorted(reasons.items(), key=lambda item: -len(item[1]))[
                :SHOWN_REASONS]:
            _say(f"    {title}: {_numbered(numbers)}: {reason}")
        if len(reasons) > SHOWN_REASONS:
            _say(f"    {title}: and {len(reasons) - SHOWN_REASONS} reasons more")
    if len(found.irregular) > IRREGULAR_SHARE * found.count:
        _say(f"    more than {IRREGULAR_SHARE:.0%} of the rows would be set aside, which the "
              "loaders refuse")
        return False
    return bool(found.good) and not found.faulty


def _numbered(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    first = ", ".join(map(str, numbers[:3]))
    return f"{len(numbers):,} rows ({first}{', …' if len(numbers) > 3 else ''})"


def _splits(rows: list[Any], whole: bool) -> None:
    keys = [row.get("prompt") or row["text"] for row in rows]
    same = len(rows) - len({tuple(sorted((k, v) for k, v in row.items() if isinstance(v, str)))
                            for row in rows})
    _say(f"  {len(set(keys)):,} different {'prompts' if 'prompt' in rows[0] else 'texts'}"
          + (f"; {same:,} rows have the texts of an earlier one" if same else ""))
    if whole:
        counts = Counter(data.carved_split(row, ()) for row in rows)
        parts = [f"{counts[split]:,} {split}" for split in SPLITS]
        few = [split for split in SPLITS if not counts[split]]
        _say(f"  alone it is cut into {', '.join(parts)}"
              + (f"; none for {few[0]}, so give that split a file of its own" if few else ""))


def _lengths(rows: list[Any], kind: str, tokenizer: str | None) -> None:
    count, name = _counter(tokenizer)
    title = f"tokens ({name})"
    _say(f"  {title:32} {'median':>8} {'90 %':>8} {'longest':>8}   characters, longest")
    for field in TEXTS[kind]:
        texts = [row[field] for row in rows]
        lengths = count(texts)
        middle, high = _middle_and_high(lengths)
        _say(f"    {field:30} {middle:8,.0f} {high:8,.0f} {max(lengths):8,}   "
              f"{max(map(len, texts)):,}")
    if kind == "preferences":
        longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in rows)
        _say(f"  the chosen response has more characters in {longer / len(rows):.0%} of the pairs")
    if kind == "reviews":
        _say(f"  {sum(row['label'] for row in rows) / len(rows):.0%} of the labels are positive")


def _middle_and_high(lengths: list[int]) -> tuple[float, float]:
    if len(lengths) == 1:
        return lengths[0], lengths[0]
    tenths = quantiles(lengths, n=10, method="inclusive")
    return tenths[4], tenths[8]


def _counter(tokenizer: str | None) -> tuple[Callable[[list[str]], list[int]], str]:
    source = tokenizer or models.base_source(load_profile("embedded"))
    loaded = models.load_tokenizer(source)
    return (lambda texts: [*map(len, text_ids(loaded, texts))]), (
        Path(source).name if tokenizer else "embedded")


def _first_rows(rows: list[Any]) -> None:
    for number, row in enumerate(rows[:SHOWN_ROWS], 1):
        _say(f"\n  {'as the course reads it, ' if number == 1 else ''}good row {number}")
        for field, value in row.items():
            if value not in (None, ""):
                text = str(value).strip("\n").replace("\n", " \N{RETURN SYMBOL} ")
                text = "".join(c if c.isprintable() else "?" for c in text)
                _say(textwrap.fill(text, 100, max_lines=4, placeholder=" …",
                                    initial_indent=f"    {field:12}", subsequent_indent=" " * 16))


def _write(table: Table, found: Converted, kind: str, write: str, form: str | None) -> int:
    writers = forms.WRITERS[kind]
    form = form or next(iter(writers))
    if form not in writers:
        raise UserError(f"--form {form} is not known for {kind}; choose one of "
                        f"{', '.join(writers)}.")
    rows = found.good
    if kind == "preferences" and form in forms.COMPARISONS:  # with their ties
        rows = sorted_out(table.rows, as_comparison).good
    written = [writers[form](row) for row in rows]
    formulas = sum(no_formula(value) != value for row in written for value in row.values())
    if forms.form_of(write) == "CSV" and formulas:
        _say(f"\n  {formulas:,} texts begin as a formula does; they are written as they are, so "
             "read the file with a program and open it in no spreadsheet")
    return forms.write_table(write, written)


def _say(text: str = "") -> None:
    print(printable(text))  # a file's own words must not steer the terminal
