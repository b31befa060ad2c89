"""Files of rows as people have them: every encoding, separator, ending and packing."""

import bz2
import gzip
import json
import lzma

import pandas
import pytest

from helpers.engine import tables
from helpers.errors import UserError

ROWS = [{"text": "Ein schöner Film – „gut“; wirklich, sehr", "label": "1"},
        {"text": "Two\nlines | and a \"word\"\u2028here", "label": "0"}]


def csv_of(separator=",", rows=ROWS):
    return pandas.DataFrame(rows).to_csv(index=False, sep=separator)


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CP1252 = "text,label\nschön – „gut“,1\n".encode("cp1252")


@pytest.mark.parametrize(("name", "content"), [
    ("a.csv", csv_of().encode()),
    ("a.CSV", csv_of().encode("utf-8-sig")),
    ("a.csv", csv_of(";").encode()),
    ("a.csv", csv_of("|").encode()),
    ("a.csv", csv_of("\t").encode("utf-16")),
    ("a.csv", csv_of("\t").encode("utf-16-le")),
    ("a.csv", csv_of().encode("utf-16-be")),
    ("a.csv", csv_of().encode("utf-32")),
    ("a.tsv", csv_of("\t").encode()),
    ("a.csv", b"sep=;\r\n" + csv_of(";").replace("\r", "").encode()),
    ("a.csv", (csv_of() + ",\n  ,\n\n").encode()),  # blank rows at the end
    ("a.csv.gz", gzip.compress(csv_of().encode())),
    ("a.Csv.GZ", gzip.compress(csv_of().encode())),
    ("a.csv.bz2", bz2.compress(csv_of().encode())),
    ("a.csv.xz", lzma.compress(csv_of().encode())),
    ("a.csv", gzip.compress(csv_of().encode())),  # packed, and not named so
    ("a.csv.gz", csv_of().encode()),  # unpacked by a browser, and not renamed
    ("a.tsv.gz", gzip.compress(csv_of("\t").encode("utf-8-sig"))),
    ("labels.csv-export.jsonl", LINES.encode()),
    ("a.parquet.jsonl.gz", gzip.compress(LINES.encode())),
    ("a.ndjson", LINES.encode()),
    ("a.jsonl", ("\ufeff" + LINES.replace("\n", "\r\n\r\n")).encode()),
    ("a.json", LINES.encode()),  # JSON lines whatever the name
    ("a.jsonl", json.dumps(ROWS, indent=2).encode()),  # and a list
    ("a.json", json.dumps(ROWS).encode("utf-16")),
    ("a.json", json.dumps({"version": 1, "data": ROWS}).encode()),
    ("a.json", json.dumps({"rows": [
        {"row_idx": i, "row": row} for i, row in enumerate(ROWS)]}).encode()),
    ("a.json", pandas.DataFrame(ROWS).to_json().encode()),  # columns of numbered values
    ("a.json", json.dumps({"text": [r["text"] for r in ROWS], "label": ["1", "0"]}).encode()),
])
def test_a_table_is_read_whatever_it_is_written_in(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert tables.read_rows(path) == ROWS
    assert tables.read_rows(str(path)) == ROWS


def test_parquet_by_content_without_the_index_pandas_adds(tmp_path):
    frame = pandas.DataFrame(ROWS, index=[7, 9])
    frame.to_parquet(tmp_path / "a.parquet")
    assert tables.read_rows(tmp_path / "a.parquet") == ROWS
    packed = gzip.compress((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "b.parquet.gz").write_bytes(packed)
    (tmp_path / "c.csv").write_bytes((tmp_path / "a.parquet").read_bytes())
    assert tables.read_rows(tmp_path / "b.parquet.gz") == ROWS
    assert tables.read_rows(tmp_path / "c.csv") == ROWS


def test_what_was_guessed_is_told_once(tmp_path, capsys):
    tables.tell.cache_clear()
    path = tmp_path / "old.csv"
    path.write_bytes(CP1252.replace(b",", b";"))
    for _ in range(2):
        assert tables.read_rows(path) == [{"text": "schön – „gut“", "label": "1"}]
    said = capsys.readouterr().err
    assert said.count("old.csv: it is not UTF-8 and is read as Windows-1252") == 1
    assert "check that 'ö' in line 2 is right" in said
    assert said.count("old.csv: columns are read between semicolons.") == 1


def test_plain_files_say_nothing(tmp_path, capsys):
    for name, content in (("a.csv", csv_of()), ("a.jsonl", LINES)):
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        tables.read_rows(tmp_path / name)
    assert capsys.readouterr().err == ""


def test_a_column_without_a_name_is_left_out_and_told(tmp_path):
    (tmp_path / "a.csv").write_text(",text,label\n0,Good.,1\n1,Bad.,0\n")
    table = tables.read_table(tmp_path / "a.csv")
    assert table.rows == [{"text": "Good.", "label": "1"}, {"text": "Bad.", "label": "0"}]
    assert table.notes == ["a column without a name is left out"]


def test_a_very_long_field_is_read_whole(tmp_path):
    text = "word " * 100_000
    (tmp_path / "a.csv").write_text(f'text,label\n"{text}",1\n')
    assert tables.read_rows(tmp_path / "a.csv")[0]["text"] == text


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.csv", b"text,label\nGood, but long,1\n", "row 1, has 3 fields where the header has 2"),
    ("a.csv", b"text,label\nGood,1\nshort\n", "row 2, has 1 fields where the header has 2"),
    ("a.csv", b'text,label\n"Good,1\nBad,0\n', "row 1, is not valid CSV"),
    ("a.csv", b'text,label\nGood,1\n"Bad" film,0\n', "row 2, is not valid CSV"),
    ("a.csv", b"text,text,label\na,b,1\n", "two columns called 'text'"),
    ("a.csv", b"caf\xc3\xa9,label\nna\xefve \xc3\xa9,1\n", "is UTF-8 except for the byte 0xef"),
    ("a.csv", b"text,label\n\x81\x8d,1\n", "neither UTF-8 nor Windows-1252"),
    ("a.csv", b"PK\x03\x04\x14\0\6\0", "is a zip file"),
    ("a.csv", b"\xff\xfea", "UTF-16 and is not"),
    ("a.xlsx", b"PK\x03\x04", "unknown ending; use one of .*; save a spreadsheet as CSV"),
    ("a.txt", b"text", "unknown ending"),
    ("a", b"text", "unknown ending"),
    ("a.jsonl", b'{"a": 1}\n[1, 2]\n', "row 2 is not an object"),
    ("a.jsonl", b'{"a": 1}\n\n{"a": \n', "row 2 is not valid JSON"),
    ("a.jsonl", b"text,label\n", "row 1 is not valid JSON"),
    ("a.json", b"[1, 2, 3]", "row 1 is not an object"),
    ("a.json", b'[{"a": 1}, null]', "row 2 is not an object"),
    ("a.json", b'[{"a": 1}', "is not valid JSON .* in line 1"),
    ("a.json", b'"text"', "row 1 is not an object"),
    ("a.json", b"3", "row 1 is not an object"),
    ("a.json", b"null", "row 1 is not an object"),
    ("a.json", b"[" * 100_000, "nested too deeply"),
    ("a.jsonl", b'{"a": ' + b"[" * 100_000, "nested too deeply|not valid JSON"),
    ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-20], "damaged or was cut short"),
    ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:40] + b"x" * 50,
     "damaged or was cut short"),
    ("a.csv.bz2", bz2.compress(b"text" * 99)[:-9], "damaged or was cut short"),
    ("a.csv.xz", lzma.compress(b"text" * 99)[:-9], "damaged or was cut short"),
    ("a.parquet", b"not parquet", "cannot be read as Parquet"),
    ("a.parquet", b"PAR1" + b"\0" * 50, "cannot be read as Parquet"),
    ("a.parquet", b"", "cannot be read as Parquet"),
])
def test_a_file_that_cannot_be_meant_is_one_sentence(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        tables.read_table(path)
    said = str(caught.value)
    assert said.startswith(name) and said.endswith(".") and "\n" not in said


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(UserError, match="none.csv does not exist"):
        tables.read_table(tmp_path / "none.csv")
    with pytest.raises(UserError, match="is a folder"):
        tables.read_table(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        tables.read_table(tmp_path / "a\0.csv")
    with pytest.raises(UserError, match="cannot be read"):
        tables.read_table(tmp_path / ("a" * 300 + ".csv"))


def test_an_empty_file_has_no_rows(tmp_path):
    for name, content in (("a.csv", b""), ("a.csv", b"\n\n"), ("a.csv", b"text,label\n"),
                          ("a.jsonl", b""), ("a.json", b"  "), ("a.json", b"[]"),
                          ("a.csv.gz", gzip.compress(b""))):
        (tmp_path / name).write_bytes(content)
        assert tables.read_rows(tmp_path / name) == []
