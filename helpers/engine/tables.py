"""A table file of any kind as rows: CSV, JSON, JSON lines or Parquet, plain or compressed.

The last ending says what a file is, whatever else stands in its name and in capitals or not; the
content says the rest: compression, characters, what stands between columns, one JSON list or one
object a line. Whatever had to be guessed is told once. Row numbers count rows that are not blank,
from 1, a header not among them.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from helpers.engine.kinds import Row
from helpers.errors import UserError, printable, sentence

FORMATS = {".parquet": "Parquet", ".jsonl": "JSON lines", ".ndjson": "JSON lines",
           ".json": "JSON", ".csv": "CSV", ".tsv": "CSV"}
ENDINGS = (*FORMATS, *(f"{ending}.gz" for ending in FORMATS))
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
UNPACKERS = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress}
MOST_PACKED = 3  # a file that is still packed then unpacks to itself
# What people get in place of a table, by how it begins.
FOREIGN = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; run `git lfs pull` "
                                "where it comes from",
    b"<!doctype html": "a web page (as comes where a download is refused); fetch the file again, "
                       "logged in where that is wanted",
    b"<html": "a web page (as comes where a download is refused); fetch the file again, logged in "
              "where that is wanted",
    b"pk\x03\x04": "a zip file or a spreadsheet; unpack it, or save it as CSV",
}
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\x00\x00", "utf-32"),
                    (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
                    (b"\xfe\xff", "utf-16"))
TOO_LONG = "holds a number of thousands of digits; write it shorter, or as text"


class _Fault(ValueError):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


@dataclass
class Table:
    """The rows of a file, and how they were read.

    `form`: Parquet, CSV, JSON or JSON lines. `details`: what was found out, such as the characters'
    encoding. `notes`: what a reader should know, each a sentence without its full stop.
    """

    rows: list[Row]
    form: str
    details: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file as dictionaries; what was guessed in reading it is told once.

    Raises:
        UserError: as `read_table`.
    """
    path = Path(path)
    table = read_table(path)
    for note in table.notes:
        tell(f"{path.name}: {note}.")
    return table.rows


def read_table(path: str | Path) -> Table:
    """The rows of a file, and how they were read.

    Raises:
        UserError: naming the file, the row where there is one, the reason and a remedy.
    """
    path = Path(path)
    form = form_of(path.name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check its name.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name a file in it.") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        why = getattr(error, "strerror", None) or sentence(error)
        raise UserError(f"{path} cannot be read ({why}); check that it is there and that you may "
                        "read it.") from None
    if form is None:
        hint = ("; save a spreadsheet as CSV" if path.suffix.lower() in (
            ".xlsx", ".xls", ".ods", ".numbers") else "")
        raise UserError(f"{path.name} has an unknown ending; use one of {', '.join(ENDINGS)}"
                        f"{hint}.")
    try:
        return _parsed(content, form, Path(path.name.lower()).suffix)
    except _Fault as error:
        raise UserError(f"{path.name}{error}.") from error
    except MemoryError:
        raise UserError(f"{path.name} does not fit into memory; split it into parts.") from None
    except Exception as error:  # every reader has its own family of errors for a broken file
        raise UserError(f"{path.name} cannot be read as {form} ({sentence(error)}); it may be "
                        "damaged or cut short, or have another ending than its content; save it "
                        "again.") from error


def form_of(name: str) -> str | None:
    """Parquet, CSV, JSON or JSON lines, by the last ending before `.gz`; None when it is none."""
    name = name.lower()
    for packed in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(packed)
    return FORMATS.get(Path(name).suffix)


@cache
def tell(text: str) -> None:
    """Say a thing once per process, however often a file is read."""
    print(printable(text), file=sys.stderr)


def _parsed(content: bytes, form: str, ending: str) -> Table:
    details = []
    for _ in range(MOST_PACKED):
        unpack = next((u for magic, u in UNPACKERS.items() if content.startswith(magic)), None)
        if unpack is None:
            break
        try:
            content = unpack(content)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise _Fault(" cannot be unpacked: it is damaged or was cut short "
                         f"({sentence(error)}); fetch or save it again") from None
        details = ["compressed"]
    start = content[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if foreign := next((what for magic, what in FOREIGN.items() if start.startswith(magic)), None):
        raise _Fault(f" is {foreign}")
    if content.startswith(b"PAR1") or form == "Parquet":
        return _parquet(content, details)
    text, encoding, notes = _decoded(content)
    table = _csv(text, "\t" if ".tsv" in ending else None) if form == "CSV" else _json(text)
    table.details[:0] = [*details, encoding]
    table.notes[:0] = notes
    return table


def _parquet(content: bytes, details: list[str]) -> Table:
    import pyarrow.parquet

    read = pyarrow.parquet.read_table(io.BytesIO(content))
    twice = [name for name, count in Counter(read.column_names).items() if count > 1]
    if twice:
        raise _Fault(f" has two columns called {twice[0]!r}; rename one")
    index = [name for name in read.column_names if name.startswith("__index_level_")]
    read = read.drop_columns(index)
    for place, column in enumerate(read.schema):
        if pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type):
            with suppress(pyarrow.ArrowInvalid):  # text that its writer did not mark as text
                read = read.set_column(place, column.name, read[place].cast(pyarrow.large_string()))
    return Table(read.to_pylist(), "Parquet", details)


def _decoded(content: bytes) -> tuple[str, str, list[str]]:
    """Text, the name of its encoding, and notes."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            try:
                return content[len(mark):].decode(encoding) if encoding == "utf-8" else \
                    content.decode(encoding), encoding.upper(), []
            except UnicodeDecodeError as error:
                raise _Fault(f" says that it is {encoding.upper()} and is not ({error.reason} at "
                             f"byte {error.start}); save it as UTF-8") from None
    sample = content[:2000]
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # of Latin letters half is zero
        if len(sample) > 8 and sample[start::2].count(0) > 0.6 * (len(sample) // 2):
            try:
                return content.decode(encoding), "UTF-16", ["it is read as UTF-16"]
            except UnicodeDecodeError as error:
                raise _Fault(f" is UTF-16 and not whole ({error.reason} at byte {error.start}); "
                             "fetch it again, or save it as UTF-8") from None
    try:
        return content.decode("utf-8"), "UTF-8", []
    except UnicodeDecodeError as error:
        return _not_utf8(content, error)


def _not_utf8(content: bytes, error: UnicodeDecodeError) -> tuple[str, str, list[str]]:
    line = content.count(b"\n", 0, error.start) + 1
    byte = f"the byte {content[error.start]:#04x} in line {line}"
    letters = [c for c in content.decode("utf-8", "surrogateescape") if ord(c) > 127]
    strange = sum(0xDC80 <= ord(c) <= 0xDCFF for c in letters)
    if strange < len(letters):  # most of it is UTF-8, so that cp1252 would spoil the rest
        if error.reason == "unexpected end of data":
            raise _Fault(f" ends inside a character, in line {line}; it was cut short, fetch it "
                         "again")
        raise _Fault(f" is UTF-8 except for {byte}; mend that place, or save the file as UTF-8")
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        raise _Fault(f" is neither UTF-8 nor Windows-1252 ({byte}); save it as UTF-8") from None
    first = letters and text[error.start]
    return text, "cp1252", [f"it is not UTF-8 and is read as Windows-1252 (cp1252); check that "
                            f"{first!r} in line {line} is right, or save it as UTF-8"]


# ---------------------------------------------------------------------------------------- CSV


def _csv(text: str, separator: str | None) -> Table:
    csv.field_size_limit(10**9)
    first, _, rest = text.partition("\n")
    if first.strip().strip('"').lower().startswith("sep=") and len(first.strip().strip('"')) == 5:
        separator, text = first.strip().strip('"')[4], rest  # Excel's way to say it
    if text[:1000].count("\0") > len(text[:1000]) / 10:
        raise _Fault(" is not text; save it as CSV")
    separator = separator or _separator(text)
    header, *records = _records(text, separator)
    names = [name.strip() for name in header]
    written = [name for name in names if name]
    if written and all(name[0].isupper() for name in written):  # as people write a spreadsheet's
        names = [re.sub(r"\s+", "_", name.lower()) for name in names]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise _Fault(f" has two columns called {twice[0]!r}; rename one")
    rows, unnamed = [], False
    for number, record in enumerate(records, 1):
        if len(record) > len(names) and not any(f.strip() for f in record[len(names):]):
            record = record[:len(names)]  # separators that a spreadsheet adds at the end
        if len(record) != len(names):
            raise _Fault(
                f", row {number}, has {len(record)} fields where the header has {len(names)}; a "
                f"text with {SEPARATORS.get(separator, repr(separator))} or line breaks in it "
                'must stand in "quotes"')
        row = dict(zip(names, record, strict=True))
        unnamed |= bool(row.pop("", "").strip())
        rows.append(row)
    table = Table(rows, "CSV")
    if separator != ",":
        between = SEPARATORS.get(separator, repr(separator))
        table.details.append(f"columns between {between}")
        table.notes.append(f"columns are read between {between}")
    if names != [name.strip() for name in header]:
        table.notes.append(f"its columns are read as {', '.join(name for name in names if name)}")
    if unnamed:
        table.notes.append("a column without a name is left out")
    return table


def _separator(text: str) -> str:
    """What parts the header into most columns; a comma when nothing does."""
    start = text.lstrip("\r\n")
    counts = {}
    for one in SEPARATORS:
        try:
            counts[one] = len(next(csv.reader(io.StringIO(start, newline=""), delimiter=one), []))
        except csv.Error:
            counts[one] = 0
    return max(counts, key=lambda one: counts[one])


def _records(text: str, separator: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    records: list[list[str]] = []
    try:
        for record in reader:
            if any(f.strip() for f in record):
                records.append(record)
    except csv.Error as error:
        place = f"row {len(records)}" if records else "the header"
        raise _Fault(
            f", {place}, is not valid CSV ({sentence(error)}); a quotation mark inside a text is "
            'written twice (""), and every quoted text must end') from None
    return records or [[]]


# --------------------------------------------------------------------------------------- JSON


def _json(text: str) -> Table:
    """One JSON list of objects, one object a line, or an object that holds one such list."""
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    opening = text.lstrip()[:1]
    if opening == "{":
        if len(lines) > 1 and _is_json(lines[0]):
            return Table(_lines(lines), "JSON lines")
    elif opening not in ("[", ""):
        return Table(_lines(lines), "JSON lines")
    if not opening:
        return Table([], "JSON lines")
    try:
        whole = json.loads(text)
    except RecursionError:
        raise _Fault(" is nested too deeply to be a table; write it as rows of fields") from None
    except json.JSONDecodeError as error:
        if opening == "[" or error.msg == "Extra data":
            place = f"line {error.lineno}"
            raise _Fault(f" is not valid JSON ({error.msg} in {place}); a .jsonl file holds one "
                         "object a line, a .json file one list of objects") from None
        return Table(_lines(lines), "JSON lines")
    except ValueError:
        raise _Fault(f" {TOO_LONG}") from None
    if isinstance(whole, dict):
        return _inside(whole)
    return Table([_object(row, n) for n, row in enumerate(whole, 1)], "JSON")


def _inside(whole: dict) -> Table:
    """The list of objects that an object holds, as `{"data": [...]}`, or the object as one row."""
    lists = {key: value for key, value in whole.items()
             if isinstance(value, list) and value and all(isinstance(v, dict) for v in value)}
    tables = {key: value for key, value in lists.items()
              if key in ("data", "rows", "train", "examples", "instances", "records", "items")}
    if len(tables) == 1:
        [(key, rows)] = tables.items()
        rows = [row["row"] if set(row) >= {"row", "row_idx"} else row for row in rows]
        return Table([_object(row, n) for n, row in enumerate(rows, 1)], "JSON",
                     notes=[f"its rows are those of {key!r}"])
    columns = [*whole.values()]
    if columns and all(isinstance(c, dict) for c in columns) and len({*map(tuple, columns)}) == 1:
        return Table([dict(zip(whole, values, strict=True))  # as pandas writes a table
                      for values in zip(*(c.values() for c in columns), strict=True)], "JSON",
                     notes=["it is read as a table of columns"])
    if columns and all(isinstance(c, list) and c and not isinstance(c[0], dict) for c in columns) \
            and len({*map(len, columns)}) == 1:
        return Table([dict(zip(whole, values, strict=True))
                      for values in zip(*columns, strict=True)], "JSON",
                     notes=["it is read as a table of columns"])
    return Table([whole], "JSON")


def _lines(lines: list[str]) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _Fault(f", row {number} is not valid JSON ({error.msg}); every line must "
                         "hold one whole object") from None
        except RecursionError:
            raise _Fault(f", row {number} is nested too deeply to be read; write it with "
                         "plain fields") from None
        except ValueError:  # Python reads no number of more than 4,300 digits
            raise _Fault(f", row {number} {TOO_LONG}") from None
        rows.append(_object(row, number))
    return rows


def _object(row: object, number: int) -> Row:
    if not isinstance(row, dict):
        raise _Fault(f", row {number} is not an object with named fields; write it as "
                     '{"field": value, …}')
    return row


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
