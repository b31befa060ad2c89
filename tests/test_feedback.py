"""The rating store and what is made of it."""

import csv
import errno
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import krippendorff
import numpy as np
import pandas as pd
import portalocker
import pytest

from helpers import feedback as fb
from helpers.errors import UserError
from helpers.paths import ROOT

FOUR = dict.fromkeys(fb.DIMENSIONS, 3)


@pytest.fixture
def store(tmp_path):
    return fb.RatingStore(tmp_path / "ratings.jsonl")


def rated(prompt, response, value, annotator="ann", **more):
    ratings = value if isinstance(value, dict) else {"quality": value}
    return fb.rating_row(prompt, response, ratings, annotator=annotator, **more)


# -------------------------------------------------------------------------------------- store


def test_rows_come_back_in_order_and_as_given(store):
    first = rated("p", "r — ünï\n\u2028 two lines", 4, model="sft")
    ids = [store.append(first), store.append(
        fb.preference_row("p", "x", "y", "tie", annotator="bob", source="simulated"))]
    rows = store.rows()
    assert [row["id"] for row in rows] == ids
    assert rows[0]["response"] == "r — ünï\n\u2028 two lines"
    assert rows[0]["model"] == "sft" and rows[0]["source"] == "human"
    assert store.rows(annotator="bob")[0]["preference"] == "tie"
    assert store.path.read_bytes().count(b"\n") == 2


def test_nothing_is_made_before_the_first_row(store):
    assert store.rows() == [] and not store.path.exists()


def test_an_acknowledged_row_is_synced_to_the_disk(store, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    store.append(rated("p", "r", 1))
    assert synced == [store.path.stat().st_size]


def test_a_row_taken_back_stays_in_the_file_and_no_longer_counts(store):
    keep, gone = store.append(rated("p", "r", 1)), store.append(rated("p", "s", 2))
    store.retract(gone, "ann", "human", "responses")
    assert [row["id"] for row in store.rows()] == [keep]
    assert len(store.history()) == 3


@pytest.mark.parametrize("change, message", [
    ({"ratings": {"quality": 6}}, "'quality' is rated 6.*1 to 5"),
    ({"ratings": {"quality": 2.5}}, "2.5"),
    ({"ratings": {"quality": True}}, "True"),
    ({"ratings": {}}, "'ratings' must map"),
    ({"ratings": [1, 2]}, "'ratings' must map"),
    ({"source": "robot"}, "'robot'.*'human' or 'simulated'"),
    ({"annotator": " "}, "'annotator' must be"),
    ({"response": None}, "'response' must be"),
])
def test_a_row_that_does_not_fit_is_refused_and_nothing_is_written(store, change, message):
    with pytest.raises(UserError, match=message):
        store.append(rated("p", "r", 1) | change)
    assert not store.path.exists()


def test_a_choice_must_be_a_b_or_tie(store):
    with pytest.raises(UserError, match="not 'c'"):
        store.append(fb.preference_row("p", "x", "y", "c", annotator="ann"))


def test_a_store_with_dimensions_wants_exactly_these(tmp_path):
    store = fb.RatingStore(tmp_path / "f.jsonl", dimensions=fb.DIMENSIONS)
    store.append(rated("p", "r", FOUR))
    with pytest.raises(UserError, match="wanted exactly coherence"):
        store.append(rated("p", "r", 3))


@pytest.mark.parametrize("line, message", [
    ("not json", "row 2: not a JSON object"),
    ("[1]", "row 2: a row must be"),
    (json.dumps({"time": "t", "annotator": "a", "source": "human", "task": "t", "prompt": "p",
                 "response": "r", "ratings": {"fluency": "V"}}), "row 2: 'fluency' is rated 'V'"),
    ('{"time": "\\ud8"}', "row 2"),
])
def test_a_wrong_line_is_named_by_file_and_row_and_nothing_is_lost(store, line, message):
    store.append(rated("p", "r", 1))
    with open(store.path, "a") as file:
        file.write(line + "\n")
    before = store.path.read_bytes()
    with pytest.raises(UserError, match=rf"ratings.jsonl, {message}"):
        store.rows()
    assert store.path.read_bytes() == before


def test_a_torn_last_line_is_told_and_reading_leaves_the_file_as_it_is(store):
    store.append(rated("p", "r", 1))
    whole = store.path.read_bytes()
    torn = b'{"id": "x", "time": "2026' + "é".encode()[:1]
    store.path.write_bytes(whole + torn)
    with pytest.warns(UserWarning, match="cut short.*26 bytes.*jsonl.torn"):
        assert len(store.rows()) == 1
    assert store.path.read_bytes() == whole + torn and store.torn == [torn]
    assert sorted(p.name for p in store.path.parent.iterdir()) == [
        "ratings.jsonl", "ratings.jsonl.lock"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.rows()
        store.append(rated("p", "s", 2))
    assert len(store.rows()) == 2 and store.path.read_bytes().startswith(whole + b'{"id"')
    assert store.path.with_name("ratings.jsonl.torn").read_bytes() == torn + b"\n"


@pytest.mark.parametrize("write", ["append", "extend"])
def test_a_writer_moves_a_torn_line_aside_even_one_longer_than_a_block(store, write):
    store.path.write_bytes(b"x" * 200_000)
    row = rated("p", "r", 1)
    with pytest.warns(UserWarning, match="200000 bytes"):
        store.append(row) if write == "append" else store.extend([row])
    assert [r["response"] for r in store.rows()] == ["r"]
    assert store.path.with_name("ratings.jsonl.torn").stat().st_size == 200_001


def test_a_last_row_that_lost_its_line_break_in_an_editor_still_counts(store):
    store.append(rated("p", "r", 1))
    store.path.write_bytes(b"\xef\xbb\xbf\r\n" + store.path.read_bytes().rstrip(b"\n"))
    assert len(store.rows()) == 1
    store.append(rated("p", "s", 1))
    assert [row["response"] for row in store.rows()] == ["r", "s"]


WORKER = """
import sys
from helpers.feedback import RatingStore, rating_row
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = RatingStore(path)
with open(f"{path}.{name}.acks", "w") as acks:
    for number in range(count):
        row = rating_row(f"prompt {number}", "response " * 20, {"quality": 1 + number % 5},
                         annotator=name)
        acks.write(store.append(row) + "\\n")
        acks.flush()
"""


def write_from_eight_processes(folder, count, kill_after):
    path = folder / "shared.jsonl"
    chosen = random.Random().randrange(8)
    endless = 10**9  # the victim is at work when it is killed, however slow this process is
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(path), f"w{n}",
                                 str(endless if n == chosen else count)],
                                cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
               for n in range(8)]
    victim, acks_of_victim = workers[chosen], Path(f"{path}.w{chosen}.acks")
    while victim.poll() is None and (
            not acks_of_victim.exists() or acks_of_victim.read_text().count("\n") < kill_after):
        time.sleep(0.001)
    os.kill(victim.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    codes = [worker.wait() for worker in workers]
    assert [n for n, code in enumerate(codes) if code != 0] == [chosen]
    acknowledged = [line for n in range(8)
                    for line in Path(f"{path}.w{n}.acks").read_text().split("\n")[:-1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = [row["id"] for row in fb.RatingStore(path).rows()]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    assert len(set(stored) - set(acknowledged)) <= 1  # written, killed before it could be told
    assert len(acknowledged) >= 7 * count + kill_after
    return len(acknowledged)


def test_eight_writers_of_a_thousand_ratings_one_killed(tmp_path):
    """Every acknowledged rating is there, once."""
    write_from_eight_processes(tmp_path, 1000, kill_after=random.Random().randrange(50, 900))


# ------------------------------------------------------------------- places without writing


def refusing(number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))
    return refuse


@pytest.mark.parametrize("number, why, what", [
    (errno.EROFS, "read-only", "local disk"), (errno.EACCES, "may not write", "local disk"),
    (errno.EIO, "Input/output error", "local disk"), (errno.ENOSPC, "disk is full", "free some")])
def test_a_store_that_cannot_be_written_says_so_before_and_can_be_read(
        store, monkeypatch, number, why, what):
    store.append(rated("p", "r", 1))
    monkeypatch.setattr(fb.RatingStore, "_lock_file", refusing(number))
    assert len(store.rows()) == 1
    for write in (store.check_writable, lambda: store.append(rated("p", "s", 1)),
                  lambda: store.extend([rated("p", "s", 1)])):
        with pytest.raises(UserError, match=f"^{store.path}: nothing can be saved.*{why}.*{what}"):
            write()
    assert len(store.rows()) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize("wrapped", [True, False])
def test_without_locks_nothing_is_written_and_reading_goes_on(store, monkeypatch, number, wrapped):
    store.append(rated("p", "r", 1))
    before = store.path.read_bytes()

    def lock(*_):
        error = OSError(number, os.strerror(number))
        raise portalocker.LockException(error, str(error)) if wrapped else error

    monkeypatch.setattr(portalocker, "lock", lock)
    assert len(store.rows()) == 1
    for write in (store.check_writable, lambda: store.append(rated("p", "s", 1))):
        with pytest.raises(UserError, match=r"jsonl: nothing can be saved here.*no locks.*local"):
            write()
    assert store.path.read_bytes() == before


def test_a_lock_error_without_a_cause_is_a_sentence_too(store, monkeypatch):
    def lock(*_):
        raise portalocker.LockException(1, "as Windows says it")

    monkeypatch.setattr(portalocker, "lock", lock)
    with pytest.raises(UserError, match="nothing can be saved here"):
        store.check_writable()


def test_reading_writes_nothing_at_all(store, monkeypatch):
    store.append(rated("p", "r", 1))
    store.path.with_name("ratings.jsonl.lock").unlink()
    real = open

    def only_reading(path, mode="r", *more, **options):
        assert not set(mode) & set("wax+"), (path, mode)
        return real(path, mode, *more, **options)

    monkeypatch.setattr("builtins.open", only_reading)
    assert len(store.rows()) == 1
    assert [p.name for p in store.path.parent.iterdir()] == ["ratings.jsonl"]


@pytest.mark.parametrize("make, why", [
    (lambda p: p.mkdir(), "it is a folder"),
    (lambda p: None, "a folder of its path is a file")])
def test_a_path_that_is_a_folder_or_stands_in_a_file(tmp_path, make, why):
    (tmp_path / "file").write_text("")
    path = tmp_path / ("ratings" if "it is" in why else "file/ratings.jsonl")
    make(path)
    store = fb.RatingStore(path)
    for use in (store.check_writable, lambda: store.append(rated("p", "r", 1)), store.rows):
        with pytest.raises(UserError, match=why):
            use()
    deep = fb.RatingStore(tmp_path / "file" / "more" / "ratings.jsonl")
    with pytest.raises(UserError, match="a folder of its path is a file"):
        deep.check_writable()


@pytest.mark.parametrize("write", ["append", "extend", "check_writable"])
def test_on_a_full_disk_no_part_of_a_row_stays(store, monkeypatch, write):
    store.append(rated("p", "r", 1))
    before = store.path.read_bytes()
    monkeypatch.setattr(os, "fsync", refusing(errno.ENOSPC))
    given = {"append": (rated("p", "s", 1),), "extend": ([rated("p", "s", 1)],)}.get(write, ())
    with pytest.raises(UserError, match="disk is full.*free some space"):
        getattr(store, write)(*given)
    assert store.path.read_bytes() == before


def test_the_check_makes_no_store(store):
    store.check_writable()
    assert not store.path.exists() and store.rows() == []


def test_a_store_that_may_not_be_read_is_named(store, monkeypatch):
    store.append(rated("p", "r", 1))
    monkeypatch.setattr(Path, "read_bytes", refusing(errno.EACCES))
    with pytest.raises(UserError, match=f"{store.path}: the store cannot be read.*may not read"):
        store.rows()


# -------------------------------------------------------------------------- export and import


@pytest.fixture
def mixed(store):
    store.append(rated("p, \"q\"\nnew line", "=1+1; 'x'", FOUR, model="sft"))
    store.append(rated("p", "r", {"quality": 5}, annotator="bob", source="simulated"))
    store.append(fb.preference_row("p", "x", "y", "b", annotator="bob", model_a="m", model_b="n"))
    store.retract(store.append(rated("p", "gone", 1)), "ann", "human", "responses")
    return store


def test_csv_there_and_back(mixed, tmp_path):
    assert mixed.to_csv(tmp_path / "out.csv") == 3
    other = fb.RatingStore(tmp_path / "other.jsonl")
    assert other.add_csv(tmp_path / "out.csv") == 3
    assert other.rows() == mixed.rows()
    assert other.add_csv(tmp_path / "out.csv") == 0, "rows that are there are not added again"


def test_dataset_there_and_back(mixed, tmp_path):
    dataset = mixed.to_dataset()
    assert dataset.num_rows == 3 and "rating.coherence" in dataset.column_names
    other = fb.RatingStore(tmp_path / "other.jsonl")
    assert other.add_dataset(dataset) == 3
    assert other.rows() == mixed.rows()


FORMULAS = ["=1+1", "+1", "-2", "@SUM(A1)", "\t=1", "\n\n -x", "'=1", "''=1", "' -", "＝1", "-"]
TEXTS_AS_THEY_ARE = ["'tis", "''", "a=1", "\n\nHuman: 1+1", "(=1)", "'", "5-3", "", "ann's"]


def test_a_csv_is_safe_to_open_and_loses_nothing(store, tmp_path):
    for text in (*FORMULAS, *TEXTS_AS_THEY_ARE):
        store.append(rated(f"{text} ", text, 4, annotator=text.strip() or "x",
                           model=text) | {"=note": text})
        store.append(fb.preference_row("p", text, "=b", "a", annotator="@ann"))
    store.to_csv(tmp_path / "out.csv")
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.strip()[:1] in tuple("=+-@＝＋－＠")]
    assert {"'=1", "'@SUM(A1)", "'=note", "'@ann"} <= set(cells)
    again = fb.RatingStore(tmp_path / "again.jsonl")
    again.add_csv(tmp_path / "out.csv")
    blank = lambda row: {k: v for k, v in row.items() if v != ""}  # noqa: E731
    assert [blank(r) for r in again.rows()] == [blank(r) for r in store.rows()]
    assert store.add_csv(tmp_path / "out.csv") == 0  # all there already


@pytest.mark.parametrize("value", FORMULAS)
def test_a_text_that_another_file_has_with_an_apostrophe_keeps_it(store, tmp_path, value):
    row = rated(f"'{value}", f"'{value}", 3)
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    pd.DataFrame([{**rated("p", f"'{value}", 4), "ratings": None, "rating.quality": 4}]).to_csv(
        tmp_path / "rows.csv", index=False)
    assert store.add_csv(tmp_path / "rows.jsonl") + store.add_csv(tmp_path / "rows.csv") == 2
    assert {row["response"] for row in store.rows()} == {f"'{value}"}


def test_a_csv_with_a_wrong_row_adds_nothing(mixed, tmp_path):
    mixed.to_csv(tmp_path / "out.csv")
    text = (tmp_path / "out.csv").read_text().replace(",5\n", ",six\n").replace(",5,", ",six,")
    (tmp_path / "out.csv").write_text(text)
    other = fb.RatingStore(tmp_path / "other.jsonl")
    with pytest.raises(UserError, match=r"out.csv, row 2: rating.quality is 'six'"):
        other.add_csv(tmp_path / "out.csv")
    assert not other.path.exists()
    with pytest.raises(UserError, match="none.csv does not exist"):
        other.add_csv(tmp_path / "none.csv")


@pytest.mark.parametrize("value", [4, 4.0, "4", "4.0", " 4 ", np.int64(4), np.float32(4), True,
                                   4.5, "4.5", 0, 6, np.nan, np.inf, "nan", "four", "5e0", [4],
                                   10**400, np.bool_(True)])
def test_a_rating_is_read_by_one_rule_at_every_door(store, tmp_path, value):
    good = not isinstance(value, bool | np.bool_ | list) and str(value).strip() in ("4", "4.0")
    row = rated("p", "r", 3)
    flat = {k: v for k, v in row.items() if k != "ratings"} | {"rating.quality": value}
    doors = [lambda: store.append(row | {"ratings": {"quality": value}}),
             lambda: store.extend([row | {"id": "2", "ratings": {"quality": value}}]),
             lambda: store.add_dataset([flat | {"id": "3"}])]
    if not isinstance(value, list):
        path = tmp_path / "in.csv"
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, flat)
            writer.writeheader()
            writer.writerow(flat | {"id": "4"})
        doors.append(lambda: store.add_csv(path))
    for door in doors:
        if good:
            door()
        else:
            with pytest.raises(UserError, match="quality.*whole number from 1 to 5; mend"):
                door()
    kept = [r["ratings"]["quality"] for r in store.rows()]
    assert kept == ([4] * len(doors) if good else []) and {type(k) for k in kept} <= {int}


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_a_blank_field_is_not_rated(store, nothing):
    flat = {k: v for k, v in rated("p", "r", 3).items() if k != "ratings"}
    store.add_dataset([flat | {"rating.a": nothing, "rating.b": "2"}])
    assert store.rows()[0]["ratings"] == {"b": 2}


def write_table(path, rows, **options):
    """A CSV file of these rows; columns as the rows have them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, columns, restval="", **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def as_excel_does(rows, path):
    """Semicolons, a byte order mark, other columns and rows, whole numbers with a point."""
    columns = sorted(rows[0], reverse=True)
    out = [{"": "", **{c: f"{row[c]}.0" if c.startswith("rating.") and row[c] else row[c]
                       for c in columns}, "Column1": ""} for row in rows]
    blank_rows = [dict.fromkeys(out[0], "")] * 3
    return write_table(path, out + blank_rows, encoding="utf-8-sig", delimiter=";")


def as_pandas_does(rows, path, **options):
    write_table(path, rows)
    pd.read_csv(path, **options).to_csv(path, index=False)
    return path


def as_pandas_keeps(rows, path):
    return as_pandas_does(rows, path, keep_default_na=False)


def as_gzip(rows, path):
    write_table(path, rows)
    packed = path.with_name("OUT.CSV.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def as_utf16(rows, path):
    return write_table(path, rows, encoding="utf-16", delimiter="\t")


def as_json_lines(rows, path):
    write_table(path, rows)
    out = path.with_name("out.csv-export.jsonl")
    pd.read_csv(path, keep_default_na=False).to_json(out, orient="records", lines=True)
    return out


REWRITERS = [as_excel_does, as_pandas_does, as_pandas_keeps, as_gzip, as_utf16, as_json_lines]


@pytest.fixture
def varied(store):
    """Rows with what tables are known to spoil."""
    texts = ["=1+1", "-2 points", "@home", "line\nbreak", "CR\r\nLF", 'say "no"; or, so',
             "ünï \u2028", "'quoted'", "\ttab", "x" * 200_000, "007", "1.0", " spaces ", ""]
    for number, text in enumerate(texts):
        store.append(rated("What? " + text, text or "r", {"quality": 1 + number % 5},
                           annotator="ann" if number % 2 else "bob", model="sft"))
    store.append(rated("p", "r", {"quality": 4, "other": 2}))
    store.append(fb.preference_row("p", "x", "y", "b", annotator="bob", model_a="m"))
    store.append(fb.preference_row("p", "", "y", "tie", annotator="bob", source="simulated"))
    return store


@pytest.mark.parametrize("rewrite", REWRITERS)
def test_a_table_that_another_program_wrote_again_loses_and_doubles_nothing(
        varied, tmp_path, rewrite):
    varied.to_csv(tmp_path / "out.csv")
    path = rewrite(read_table(tmp_path / "out.csv"), tmp_path / "again.csv")
    before = varied.path.read_bytes()
    assert varied.add_csv(path) == 0 and varied.path.read_bytes() == before
    other = fb.RatingStore(tmp_path / "other.jsonl")
    assert other.add_csv(path) == len(varied.rows())
    assert other.rows() == varied.rows()
    assert other.add_csv(path) == 0


@pytest.mark.parametrize("missing", ["column", "blank", "id and time"])
@pytest.mark.parametrize("rewrite", REWRITERS)
def test_without_ids_a_file_is_taken_in_once(varied, tmp_path, missing, rewrite):
    varied.to_csv(tmp_path / "out.csv")
    rows = read_table(tmp_path / "out.csv")
    for row in rows:
        row["id"] = ""
        if missing == "column":
            del row["id"]
        elif missing == "id and time":
            del row["time"]
    path = rewrite(rows, tmp_path / "again.csv")
    assert varied.add_csv(path) == 0, "they are here, with ids"
    other = fb.RatingStore(tmp_path / "other.jsonl")
    assert other.add_csv(path) == len(rows)

    def content(store):
        return [{k: v for k, v in row.items() if k not in ("id", "time")} for row in store.rows()]

    assert content(other) == content(varied)
    assert all(row["id"] and row["time"] for row in other.rows())
    assert other.add_csv(path) == 0
    assert other.add_csv(tmp_path / "out.csv") == len(rows), "other ids are other ratings"


def test_two_files_with_blank_ids_both_load(store, tmp_path):
    for number in range(2):
        rows = [{"id": "", "annotator": "ann", "source": "human", "task": "t", "rating.q": n,
                 "prompt": f"{number}", "response": f"{n}"} for n in range(1, 4)]
        assert store.add_csv(write_table(tmp_path / f"{number}.csv", rows)) == 3
    assert len(store.rows()) == 6 and len({row["id"] for row in store.rows()}) == 6


@pytest.mark.parametrize("rewrite", REWRITERS)
@pytest.mark.parametrize("ids", ["kept", "blank"])
def test_a_corrected_rating_supersedes_and_the_old_row_stays(
        varied, tmp_path, capsys, rewrite, ids):
    varied.to_csv(tmp_path / "out.csv")
    before = varied.rows()
    rows = read_table(tmp_path / "out.csv")
    rows[3]["rating.quality"] = "1"
    rows[-2]["preference"] = "a"
    for row in rows:
        row["id"] = row["id"] if ids == "kept" else ""
    path = rewrite(rows, tmp_path / "again.csv")
    assert varied.add_csv(path) == 2
    assert "0 new, 2 corrected" in capsys.readouterr().out
    after = varied.rows()
    assert len(after) == len(before) and len(varied.history()) == len(before) + 2
    new = {row["supersedes"]: row for row in after[-2:]}
    assert set(new) == {before[3]["id"], before[-2]["id"]}
    one, choice = new[before[3]["id"]], new[before[-2]["id"]]
    assert one["ratings"] == {"quality": 1} and choice["preference"] == "a"
    assert one["response"] == before[3]["response"] and choice["model_a"] == "m"
    assert one["time"] > before[3]["time"]
    assert varied.add_csv(path) == 0 and varied.rows() == after, "the same correction again"
    assert varied.add_csv(tmp_path / "out.csv") == 0 and varied.rows() == after
    assert "2 already there and corrected since" in capsys.readouterr().out

    varied.to_csv(tmp_path / "out.csv")
    rows = read_table(tmp_path / "out.csv")
    rows[-2]["rating.quality"] = "5"
    assert varied.add_csv(rewrite(rows, tmp_path / "third.csv")) == 1
    assert [row["ratings"] for row in varied.rows() if row.get("prompt") == one["prompt"]] == [
        {"quality": 5}]
    other = fb.RatingStore(tmp_path / "other.jsonl")
    assert other.extend(varied.history()) == len(varied.history())
    assert other.rows() == varied.rows() and other.add_csv(varied.path) == 0


def test_a_correction_that_is_taken_back_takes_the_whole_line_with_it(store, tmp_path):
    first = store.append(rated("p", "r", 2))
    store.extend([{**rated("p", "r", 4), "id": first}])
    [correction] = store.rows()
    store.retract(correction["id"], "ann", "human", "responses")
    assert store.rows() == [] and len(store.history()) == 3
    again = fb.RatingStore(tmp_path / "again.jsonl")
    first = again.append(rated("p", "r", 2))
    again.extend([{**rated("p", "r", 4), "id": first}])
    again.retract(first, "ann", "human", "responses")  # as a panel does that knows the old id
    assert again.rows() == []


def test_what_was_taken_back_does_not_come_back_with_a_file(store, tmp_path, capsys):
    store.append(rated("p", "kept", 1))
    gone = store.append(rated("p", "gone", 2))
    store.to_csv(tmp_path / "out.csv")
    store.retract(gone, "ann", "human", "responses")
    rows = read_table(tmp_path / "out.csv")
    edited = [row | {"rating.quality": "5"} if row["id"] == gone else row for row in rows]
    unnamed = [row | {"id": ""} for row in rows]
    for table in (rows, edited, unnamed):
        assert store.add_csv(write_table(tmp_path / "in.csv", table)) == 0
        assert "1 taken back since and left out (a new id" in capsys.readouterr().out
    assert [row["response"] for row in store.rows()] == ["kept"]
    assert store.add_csv(write_table(tmp_path / "in.csv", [rows[1] | {"id": "mine"}])) == 1
    assert [row["response"] for row in store.rows()] == ["kept", "gone"]


def test_only_the_annotators_own_retraction_counts(store):
    mine = store.append(rated("p", "r", 1, "ann"))
    yours = store.append(rated("p", "s", 1, "ann"))
    store.retract(yours, "bob", "human", "responses")
    assert len(store.rows()) == 2
    store.extend([{**rated("p", "r", 5, "bob"), "id": "x", "supersedes": mine}])
    assert [row["annotator"] for row in store.rows()] == ["ann", "ann", "bob"]


def test_one_id_twice_in_a_file(store, tmp_path, capsys):
    row = {"id": "1", "annotator": "ann", "source": "human", "task": "t", "prompt": "p",
           "response": "r", "rating.q": "3"}
    for first in (row, row | {"id": ""}):
        other = fb.RatingStore(tmp_path / f"{first['id']}.jsonl")
        assert other.add_csv(write_table(tmp_path / "in.csv", [first, first])) == 1
        assert "1 new, 0 corrected" in (said := capsys.readouterr().out) and "1 twice" in said
        changes = [{"rating.q": "4"}, {"response": "s"}] if first["id"] else [{"rating.q": "4"}]
        for change in changes:
            table = [row | {"id": "0", "prompt": "q"}, first, first | change]
            with pytest.raises(UserError, match=r"in.csv, row 2 and row 3 .*differ; keep"):
                store.add_csv(write_table(tmp_path / "in.csv", table))
    assert not store.path.exists()
    two = [row, row | {"annotator": "bob", "rating.q": "5"}]
    assert store.add_csv(write_table(tmp_path / "in.csv", two)) == 2, "two people, one number"
    assert store.add_csv(tmp_path / "in.csv") == 0


def test_an_id_that_names_another_text_here_is_told(store, tmp_path):
    row = {"id": "1", "annotator": "ann", "source": "human", "task": "t", "prompt": "p",
           "response": "r", "rating.q": "3"}
    store.add_csv(write_table(tmp_path / "in.csv", [row]))
    with pytest.raises(UserError, match=r"in.csv, row 1: the id '1' of 'ann' belongs to another"):
        store.add_csv(write_table(tmp_path / "in.csv", [row | {"response": "other"}]))
    assert len(store.rows()) == 1


def test_times_tell_two_ratings_of_one_answer_apart(store, tmp_path):
    row = {"annotator": "ann", "source": "human", "task": "t", "prompt": "p", "response": "r"}
    table = [row | {"time": "2026-01-01", "rating.q": "3"},
             row | {"time": "2026-02-01", "rating.q": "5"}]
    assert store.add_csv(write_table(tmp_path / "in.csv", table)) == 2
    assert store.add_csv(tmp_path / "in.csv") == 0 and len(store.rows()) == 2


def test_old_stores_with_the_same_id_twice_lose_nothing(store):
    row = rated("p", "r", 1) | {"id": "1"}
    for one in (row, row, row | {"response": "s"}):
        store.append(one)
    assert [r["response"] for r in store.rows()] == ["r", "s"]


def test_a_further_column_is_kept_and_compared_by_value(store, tmp_path):
    store.append(rated("p", "r", 1) | {"batch": 1, "note": "so", "flag": True, "more": [1]})
    store.to_csv(tmp_path / "out.csv")
    assert store.add_csv(tmp_path / "out.csv") == 0
    rows = read_table(tmp_path / "out.csv")
    rows[0] |= {"batch": "1.0", "flag": ""}
    assert store.add_csv(write_table(tmp_path / "in.csv", rows)) == 0
    rows[0]["note"] = "other"
    assert store.add_csv(write_table(tmp_path / "in.csv", rows)) == 1
    assert store.rows()[0]["note"] == "other" and store.rows()[0]["flag"] is True


def test_texts_that_pandas_takes_for_missing_are_told_and_found_again(store, tmp_path, capsys):
    store.append(rated("p", "None", 1))
    store.append(fb.preference_row("NA", "x", "nan", "a", annotator="ann"))
    before = store.rows()
    store.to_csv(tmp_path / "out.csv")
    assert "3 texts, such as 'None'" in capsys.readouterr().out
    path = as_pandas_does(read_table(tmp_path / "out.csv"), tmp_path / "again.csv")
    assert store.add_csv(path) == 0 and store.rows() == before


def test_another_stores_file_is_taken_in_with_all_that_was_taken_back(mixed, tmp_path):
    other = fb.RatingStore(tmp_path / "other.jsonl")
    assert other.add_csv(mixed.path) == len(mixed.history())
    assert other.rows() == mixed.rows() and other.history() == mixed.history()
    assert other.add_csv(mixed.path) == 0


def test_two_imports_at_once_store_each_row_once(varied, tmp_path):
    varied.to_csv(tmp_path / "out.csv")
    code = ("import sys; from helpers.feedback import RatingStore; "
            "RatingStore(sys.argv[1]).add_csv(sys.argv[2])")
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "o.jsonl"),
                              str(tmp_path / "out.csv")], cwd=ROOT) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    assert len(fb.RatingStore(tmp_path / "o.jsonl").history()) == len(varied.rows())


# --------------------------------------------------------------------------- malformed rows

GOOD = {"id": "1", "time": "t", "annotator": "ann", "source": "human", "task": "t", "prompt": "p",
        "response": "r", "model": "", "ratings": {"q": 3}}
CHOICE = {**{k: v for k, v in GOOD.items() if k not in ("response", "model", "ratings")},
          "response_a": "x", "response_b": "y", "preference": "a"}
DEEP: list = []
for _ in range(50):
    DEEP = [DEEP]
MALFORMED = [
    *({**GOOD, name: value} for name in ("annotator", "source", "task", "time")
      for value in (7, ["x"], {}, True)),
    *({**GOOD, name: value} for name in ("prompt", "response")
      for value in (None, 5, 2.5, ["x"], {"text": "x"}, "hi \ud83d")),
    *({**CHOICE, "response_b": value} for value in (None, 5, ["x"], "\udc00")),
    *({**GOOD, "id": value} for value in (["x"], {"a": 1}, 5, True)),
    *({**GOOD, "ratings": value} for value in (
        [], {}, [3], "3", 3, {"q": None}, {"q": [3]}, {"q": {"rating": 3}}, {"": 3}, {"q": 3.5},
        {"q": "three"}, {"q": True}, {"q": 10**400}, {"\ud83d": 3}, {"q": "\ud83d"})),
    *({**CHOICE, "preference": value} for value in ("c", 1, ["a"], None, True, {"a": 1}, "A wins")),
    {**GOOD, "preference": "a"}, {**GOOD, "response_a": "x"}, {**CHOICE, "response": "x"},
    {**GOOD, "rating.q": 9}, {**GOOD, "source": "robot"}, {**GOOD, "annotator": " "},
    {**GOOD, "model": 5}, {**GOOD, "supersedes": ["x"]}, {**GOOD, "retracts": "2"},
    {**GOOD, "note \ud83d": "x"}, {**GOOD, "note": "\ud83d"}, {**GOOD, "note": DEEP},
    {k: v for k, v in GOOD.items() if k != "annotator"},
    {k: v for k, v in GOOD.items() if k != "ratings"}, {"retracts": "1"}, {"text": "hello"},
    {**{k: v for k, v in CHOICE.items() if k != "preference"}, "retracts": ["x"]},
]


def sentence_or_good(door, store):
    """The door takes the row, or says in one sentence what is wrong and where."""
    try:
        door()
    except UserError as error:
        text = str(error)
        assert "\n" not in text and text.endswith(".") and len(text) < 600, text
        assert "row 1" in text and text[0] != "'", text
        text.encode("utf-8")
        return text
    for row in store.rows():  # what was taken is of the right types
        fb.validate_row(row)
        assert all(isinstance(row[name], str) for name in row if name in (
            "id", "annotator", "prompt", "response", "response_a", "response_b"))
    return None


@pytest.mark.parametrize("row", MALFORMED, ids=[f"{n}" for n in range(len(MALFORMED))])
def test_a_malformed_row_is_one_sentence_at_every_door(tmp_path, row):
    line = json.dumps(row) + "\n"
    (tmp_path / "in.jsonl").write_text(line)
    (tmp_path / "store.jsonl").write_text(line)
    flat = {k: v for k, v in row.items() if k != "ratings"} | (
        {f"rating.{k}": v for k, v in row["ratings"].items()}
        if isinstance(row.get("ratings"), dict) else {"ratings": row["ratings"]}
        if "ratings" in row else {})
    said = []
    for name, act in (("store", lambda s: s.rows()),
                      ("a", lambda s: s.add_csv(tmp_path / "in.jsonl")),
                      ("b", lambda s: s.add_dataset([row])),
                      ("c", lambda s: s.add_dataset([flat]))):
        store = fb.RatingStore(tmp_path / f"{name}.jsonl")
        said.append(sentence_or_good(lambda act=act, store=store: act(store), store))
        assert name == "store" or (said[-1] is None) == store.path.exists()
    assert said[0] or row in ({**GOOD, "note": DEEP},), "a store holds good rows only"


def test_a_correction_without_an_id_and_a_nan_are_taken_in_once(store, tmp_path):
    row = {k: v for k, v in GOOD.items() if k not in ("id", "time")}
    lines = [row | {"supersedes": "4", "loss": float("nan")}]
    (tmp_path / "in.json").write_text(json.dumps(lines))
    assert store.add_csv(tmp_path / "in.json") == 1 and store.add_csv(tmp_path / "in.json") == 0
    assert "loss" not in store.rows()[0]


LINES = ["null", "[]", "[1, 2, 3]", "7", '"text"', "true", "{", "}", "not json", "[" * 100_000,
         '{"a": ' * 100_000, '{"id": "1" "x": 2}', "NaN", '{"time": "\\ud8"}', "\0\0",
         '{"n": ' + "9" * 5000 + "}"]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_malformed_line_is_one_sentence_in_a_store_and_in_a_file(tmp_path, line):
    for name, act in (("s.jsonl", lambda s, p: s.rows()), ("in.jsonl", lambda s, p: s.add_csv(p)),
                      ("in.json", lambda s, p: s.add_csv(p))):
        path = tmp_path / name
        path.write_text(line + "\n")
        store = fb.RatingStore(path if name == "s.jsonl" else tmp_path / "out.jsonl")
        try:
            taken = act(store, path)
        except UserError as error:
            assert "\n" not in str(error) and name in str(error) and len(str(error)) < 600
        else:
            assert not taken, "an empty list has no rows"
        assert path.read_text() == line + "\n"


def test_a_file_that_ends_in_half_a_row_or_is_no_table_is_a_sentence(store, tmp_path):
    head = "id,annotator,source,task,prompt,response,rating.q\n"
    for text in (head + "1,ann,human,t,p,r,3,4\n", head + "1,ann,human,t\n",
                 head + '1,ann,human,t,p,"r,3\n', head + "1,ann,human,t,p,r,\n",
                 head + "1,,human,t,p,r,3\n", head + "1,ann,,t,p,r,3\n",
                 "prompt;response\np;r\n", head.replace("rating.q", "id") + "1,a,human,t,p,r,3\n"):
        (tmp_path / "in.csv").write_text(text)
        with pytest.raises(UserError, match=r"in\.csv.*\.$") as caught:
            store.add_csv(tmp_path / "in.csv")
        assert "\n" not in str(caught.value)
    assert not store.path.exists()


def test_half_a_character_is_refused_and_named(store):
    with pytest.raises(UserError, match=r"new row: 'response' holds half of a character .*ud83d"):
        store.append(rated("p", "hi \ud83d", 3))
    assert not store.path.exists()


# ---------------------------------------------------------------------------- what rows say


def test_averages_count_a_response_once_and_carry_intervals():
    rows = [rated("p", "a", 5), rated("p", "a", 3, "bob"), rated("p", "b", 1),
            fb.preference_row("p", "a", "b", "a", annotator="ann")]
    mean, low, high = fb.average_ratings(rows)["all"]["quality"]
    assert mean == 2.5 and low == 1 and high == 4
    assert set(fb.average_ratings(rows, by="annotator")) == {"ann", "bob"}
    assert fb.average_ratings([]) == {}


def test_agreement_is_krippendorffs_own_example():
    """Krippendorff 2004's data of four observers and twelve units: alpha ordinal is .815."""
    _ = np.nan
    data = [[1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
            [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _]]
    rows = [rated("p", f"unit {u}", int(v), f"observer {o}") for o, line in enumerate(data)
            for u, v in enumerate(line) if not np.isnan(v)]
    alpha, low, high = fb.agreement(rows, "quality")
    assert alpha == pytest.approx(0.815, abs=0.001)
    assert alpha == pytest.approx(krippendorff.alpha(data, level_of_measurement="ordinal"))
    assert low < alpha < high <= 1


def test_agreement_of_twins_strangers_and_nobody():
    rng = np.random.default_rng(0)
    values = rng.integers(1, 6, (2, 300))
    twins = [rated("p", str(i), int(values[0, i]), a) for i in range(300) for a in ("ann", "bob")]
    strangers = [rated("p", str(i), int(values[k, i]), a)
                 for i in range(300) for k, a in enumerate(("ann", "bob"))]
    assert fb.agreement(twins, "quality")[0] == 1
    alpha, low, high = fb.agreement(strangers, "quality", draws=200)
    assert low < 0 < high and abs(alpha) < 0.15
    assert np.isnan(fb.agreement(twins[::2], "quality")[0]), "one annotator alone"
    assert fb.agreement([rated("p", "r", 3, a) for a in "ab"], "quality")[0] == 1


def test_a_second_rating_by_the_same_annotator_replaces_the_first():
    rows = [rated("p", "r", 1), rated("p", "r", 4), rated("p", "s", 2)]
    assert fb.rating_matrix(rows, "quality").tolist() == [[4, 2]]


def test_ratings_become_pairs_with_their_gap_and_ties():
    rows = [rated("p", "good", 5), rated("p", "good", 4, "bob"), rated("p", "fair", 4),
            rated("p", "bad", 1, source="simulated"), rated("q", "alone", 5)]
    pairs = fb.ratings_to_pairs(rows, min_gap=0.6)
    assert [(p["chosen"], p["rejected"], p["rating_gap"]) for p in pairs] == [
        ("good", "bad", 3.5), ("fair", "bad", 3.0)]
    assert {p["source"] for p in pairs} == {"simulated"}
    kept = fb.ratings_to_pairs(rows, min_gap=0.6, ties="keep")
    assert [(p["chosen"], p["rejected"]) for p in kept if p["tie"]] == [("good", "fair")]
    assert [p["source"] for p in kept if p["tie"]] == ["human"]


def test_weights_say_which_dimension_counts():
    rows = [rated("p", "dull and right", {"creativity": 1, "relevance": 5}),
            rated("p", "bright and wrong", {"creativity": 5, "relevance": 2})]
    assert fb.ratings_to_pairs(rows, {"relevance": 1})[0]["chosen"] == "dull and right"
    assert fb.ratings_to_pairs(rows, {"creativity": 1})[0]["chosen"] == "bright and wrong"
    with pytest.raises(UserError, match="'charm'"):
        fb.ratings_to_pairs(rows, {"charm": 1})
    with pytest.raises(UserError, match="ties"):
        fb.ratings_to_pairs(rows, ties="maybe")


def test_choices_become_pairs():
    rows = [fb.preference_row("p", "x", "y", choice, annotator="ann")
            for choice in ("a", "b", "tie")]
    pairs = fb.preferences_to_pairs(rows)
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("x", "y"), ("y", "x")]
    assert [p["tie"] for p in fb.preferences_to_pairs(rows, ties="keep")] == [False, False, True]


def test_a_leaderboard_finds_the_strengths_that_made_the_games():
    strengths = {"strong": 1.0, "middle": 0.0, "weak": -1.0}
    rng = np.random.default_rng(0)
    names, games = list(strengths), []
    for _ in range(3000):
        a, b = rng.choice(names, 2, replace=False)
        win = rng.random() < 1 / (1 + np.exp(strengths[b] - strengths[a]))
        games.append((str(a), str(b), float(win)))
    board = fb.bradley_terry(games, draws=60)
    assert [entry["model"] for entry in board] == names
    for entry in board:
        assert entry["strength"] == pytest.approx(strengths[entry["model"]], abs=0.12)
        assert entry["low"] < strengths[entry["model"]] < entry["high"]
    assert sum(entry["strength"] for entry in board) == pytest.approx(0, abs=1e-9)


def test_two_models_have_a_closed_form_and_ties_count_half():
    games = [("m", "n", 1.0)] * 6 + [("m", "n", 0.0)] * 2 + [("n", "m", 0.5)] * 2
    first, second = fb.bradley_terry(games, prior=1e-9, draws=20)
    assert first["strength"] - second["strength"] == pytest.approx(np.log(7 / 3), abs=1e-3)
    assert first["games"] == 10


def test_a_model_that_never_lost_stays_finite_and_no_games_are_an_error():
    board = fb.bradley_terry([("m", "n", 1.0)] * 5, draws=20)
    assert board[0]["model"] == "m" and board[0]["strength"] < 10
    with pytest.raises(UserError, match="at least one comparison"):
        fb.bradley_terry([])


def test_choices_in_rows_are_comparisons_of_models():
    rows = [fb.preference_row("p", "x", "y", "b", annotator="ann", model_a="m", model_b="n"),
            rated("p", "r", 3)]
    assert fb.comparisons_of(rows) == [("m", "n", 0.0)]


def test_agreement_of_choices_does_not_mind_the_side_and_counts_shared_pairs_only():
    def row(n, first, second, preference, who):
        return fb.preference_row(f"Q{n}", first, second, preference, annotator=who)

    same = [r for n in range(6) for r in (
        row(n, "x", "y", "ab"[n % 2], "one"), row(n, "y", "x", "ba"[n % 2], "two"))]
    assert fb.choice_agreement(same) == (1.0, 1.0, 1.0)
    other = [r for n in range(6) for r in (
        row(n, "x", "y", "ab"[n % 2], "one"), row(n, "y", "x", "ab"[n % 2], "two"))]
    alpha, low, high = fb.choice_agreement(other)
    assert alpha < 0 and low <= alpha <= high
    alone = fb.choice_agreement([*same, row(9, "x", "y", "a", "one")])
    assert alone[0] == 1.0
    assert np.isnan(fb.choice_agreement([row(0, "x", "y", "a", "one")])[0])
