"""Arbitrary files and rows keep the contract of `test_bad_inputs`, and what is written is read.

The examples are the same at every run. `RLHF_FUZZ=50` draws fifty times as many, other ones each
time.
"""

import csv
import gzip
import io
import json
import os

import pandas
import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install -r requirements.txt")

from bad_inputs import answer, gpt, hh, human, user
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers import feedback
from helpers.engine import forms, rows, tables
from helpers.engine.dialogues import ASSISTANT
from helpers.errors import UserError

TIMES = int(os.environ.get("RLHF_FUZZ", "0"))
CONVERTERS = {"reviews": [rows.as_review], "demonstrations": [rows.as_demonstration],
              "preferences": [rows.as_pair, rows.as_comparison], "dialogues": [rows.as_dialogue]}


def fuzz(examples):
    return settings(
        derandomize=not TIMES, deadline=None, max_examples=examples * max(1, TIMES), database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture,
                               HealthCheck.data_too_large, HealthCheck.filter_too_much])


# ------------------------------------------------------------------------------------- values

WORDS = st.sampled_from([
    "", " ", "\n", "Why?", "Human:", "\n\nHuman: Why?", "\n\nAssistant:", "\n\nSystem: x", "None",
    "Assistant : no", "nan", "NA", "1", "1.0", "true", "a", "model_b", "tie", "4", "[]", "{}", "[1",
    "<|endoftext|>", "=1+1", "a;b,c\td|e", 'so "so"', "\r\n", "\r", "\u2028", "\x85", "\0",
    "\ufeff", "Früh – 早い 🎈", "\ud83d", '[{"role": "user", "content": "x"}]', "<br />", "&nbsp;"])
TEXTS = st.one_of(WORDS, st.text(st.characters(), max_size=12), st.lists(
    WORDS, max_size=3).map(" ".join))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 6), st.integers(), st.just(10**400),
    st.floats(), st.sampled_from([0.0, 1.0, 4.5, 1e308]), TEXTS)
JSON = st.recursive(SCALARS, lambda inside: st.one_of(
    st.lists(inside, max_size=3), st.dictionaries(TEXTS, inside, max_size=3)), max_leaves=8)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "nobody", None, 3])
TURNS = st.lists(st.one_of(
    st.builds(lambda r, c: {"role": r, "content": c}, ROLES, JSON),
    st.builds(lambda r, c: {"from": r, "value": c}, ROLES, JSON),
    st.builds(user, TEXTS), st.builds(answer, TEXTS), st.builds(human, TEXTS),
    st.builds(gpt, TEXTS), JSON), max_size=4)
SCORED = st.lists(st.one_of(JSON, st.fixed_dictionaries(
    {"response": TEXTS, "overall_score": SCALARS})), max_size=3)
FIELDS = st.one_of(JSON, TURNS, SCORED, TURNS.map(lambda t: json.dumps(t, default=str)),
                   st.lists(TEXTS, max_size=3).map(lambda said: hh(*said) if said else ""),
                   st.lists(TEXTS, max_size=2).map(json.dumps))
MORE = ["probability", "score_chosen", "score_rejected", "score_gap", "topic", "source", "label"]


@st.composite
def rows_of_a_form(draw):
    """A kind, and a row with the columns of one of its forms, whatever is in them."""
    kind = draw(st.sampled_from(list(CONVERTERS)))
    form = draw(st.sampled_from(rows.FORMS[kind]))
    columns = [*form.columns, *draw(st.lists(st.sampled_from(MORE), max_size=2))]
    return kind, {column: draw(FIELDS) for column in columns}


def one_sentence(text):
    assert "\n" not in text and text.endswith(".") and "not what it must be" not in text, text


@fuzz(500)
@given(rows_of_a_form())
def test_a_row_is_read_set_aside_or_refused_with_a_reason(drawn):
    kind, row = drawn
    before = repr(row)
    for convert in CONVERTERS[kind]:
        found = rows.sorted_out([row], convert)
        assert len(found.good) + found.left_out + len(found.irregular) + len(found.faulty) == 1
        for _, reason in (*found.irregular, *found.faulty):
            one_sentence(reason + ".")
        for value in found.good:
            for text in value.values() if isinstance(value, dict) else [value]:
                assert text is None or isinstance(text, str | int | float)
                str(text).encode()  # no half characters
            if isinstance(value, dict) and "prompt" in value:
                assert value["prompt"].endswith(ASSISTANT)
                assert all(value[k].strip() == value[k] != "" for k in (
                    "chosen", "rejected", "response", "response_a", "response_b") if k in value)
    assert repr(row) == before


# -------------------------------------------------------------------------------------- files

ENDINGS = st.sampled_from(tables.ENDINGS)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
ROWS = st.lists(st.dictionaries(TEXTS, FIELDS, max_size=4), max_size=4)


@st.composite
def contents(draw):
    """Bytes of a file: a table in some form, perhaps damaged, or nothing of the kind."""
    made = draw(st.sampled_from(["bytes", "lines", "list", "csv", "json"]))
    if made == "bytes":
        content = draw(st.binary(max_size=60))
    else:
        found = draw(ROWS)
        text = {"lines": lambda: "\n".join(json.dumps(row, ensure_ascii=draw(st.booleans()))
                                           for row in found),
                "list": lambda: json.dumps(found),
                "json": lambda: json.dumps(draw(JSON)),
                "csv": lambda: as_csv([[*row] for row in found] + [
                    [*map(str, row.values())] for row in found], draw(st.sampled_from(",;\t|")))
                }[made]()
        content = text.encode(draw(ENCODINGS), "replace")
    if draw(st.booleans()):
        content = gzip.compress(content)
    if content and draw(st.booleans()):
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + draw(st.binary(max_size=3)) + content[
            place + draw(st.integers(0, 3)):]
    return content


def as_csv(records, separator):
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(records)
    return text.getvalue()


@fuzz(300)
@given(ENDINGS, contents())
def test_a_file_is_a_table_or_one_sentence(tmp_path, ending, content):
    path = tmp_path / f"mine{ending}"
    path.write_bytes(content)
    try:
        table = tables.read_table(path)
    except UserError as error:
        one_sentence(str(error))
        assert str(error).startswith(path.name)
        return
    assert all(isinstance(row, dict) and all(isinstance(k, str) for k in row) for row in table.rows)
    for kind, converters in CONVERTERS.items():
        for convert in converters:
            try:
                rows.convert_rows([("", table.rows)], convert, kind, path.name)
            except UserError as error:
                one_sentence(str(error))


COLUMNS = ["annotator", "source", "task", "prompt", "response", "response_a", "response_b", "model",
           "preference", "rating.fluency", "ratings", "id", "time", "supersedes", "retracts",
           "data", "annotations", "fields", "responses", "q.responses", "note"]
RATED = {"annotator": "Zoë", "source": "human", "task": "t", "prompt": "Why?", "response": "So.",
         "rating.fluency": 4}


@fuzz(200)
@given(st.lists(st.one_of(
    st.dictionaries(st.sampled_from(COLUMNS), FIELDS, max_size=9),
    st.dictionaries(st.sampled_from(COLUMNS), FIELDS, max_size=2).map(lambda more: RATED | more)),
    min_size=1, max_size=3))
def test_rows_of_feedback_are_taken_or_refused_and_nothing_is_written(tmp_path, given_rows):
    store = feedback.RatingStore(tmp_path / "store.jsonl")
    store.path.unlink(missing_ok=True)
    try:
        count = store.add_dataset(given_rows)
    except UserError as error:
        one_sentence(str(error))
        assert not store.path.exists()
        return
    assert len(store.history()) == count
    assert store.add_dataset(given_rows) == 0


# -------------------------------------------------------------------------------- round trips

SPOKEN = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.lists(WORDS, min_size=1, max_size=3).map(" ".join)).filter(
        lambda text: text.strip() and "\ud83d" not in text and text.lstrip()[0] not in "[{")
MARKED = ("Human", "Assistant", "System", "Tool")
PLAIN = SPOKEN.filter(lambda text: not any(f"{m}:" in text or f"{m} :" in text for m in MARKED))


@st.composite
def prompts(draw):
    turns = draw(st.lists(PLAIN, min_size=1, max_size=3).filter(lambda t: len(t) % 2))
    listed = [(user, answer)[i % 2](text) for i, text in enumerate(turns)]
    if draw(st.booleans()):
        listed.insert(0, {"role": "system", "content": draw(PLAIN)})
    return rows.render_prompt(listed)


@st.composite
def canonical(draw, kind):
    """Rows as a converter of the kind gives them."""
    if kind == "reviews":
        made = [{"text": draw(SPOKEN), "label": draw(st.integers(0, 1))}]
    elif kind == "demonstrations":
        made = [{"prompt": draw(prompts()), "completion": draw(PLAIN)}]
    else:
        made = [{"prompt": draw(prompts()), "chosen": draw(PLAIN), "rejected": draw(PLAIN)}]
        made[0] |= draw(st.sampled_from([
            {}, {"probability": 0.25, "topic": "x, y"}, {"score_gap": -1.5, "source": "me"}]))
    found = rows.sorted_out(made, CONVERTERS[kind][0])
    assume(found.good)
    return found.good[0]


WAYS = [(kind, form) for kind, writers in forms.WRITERS.items() for form in writers]


@pytest.mark.parametrize(("kind", "form"), WAYS)
@fuzz(20)
@given(data=st.data())
def test_rows_written_in_a_form_are_read_as_they_were(tmp_path, kind, form, data):
    made = data.draw(st.lists(canonical(kind), min_size=1, max_size=3))
    assume(form != "hh" or not any("\r" in str(text) for row in made for text in row.values()))
    convert = CONVERTERS[kind][form in forms.COMPARISONS]
    if form in forms.COMPARISONS:
        made = [rows.as_comparison(row) | {"winner": data.draw(st.sampled_from(["a", "b", "tie"]))}
                for row in made]
        for row in made:
            row.pop("score_gap")
            assume(form != "arena" or "\n\nSystem:" not in row["prompt"])  # it has none
    path = tmp_path / f"rows{data.draw(ENDINGS)}"
    assert forms.write_table(path, map(forms.WRITERS[kind][form], made)) == len(made)
    assert [convert(row) for row in tables.read_rows(path)] == made


REWRITINGS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "semicolons, a mark, an index": lambda frame, path: frame.to_csv(
        path, sep=";", encoding="utf-8-sig"),
    "all quoted, UTF-16": lambda frame, path: frame.to_csv(
        path, index=False, quoting=csv.QUOTE_ALL, encoding="utf-16", lineterminator="\r\n"),
    "lines": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "list": lambda frame, path: frame.to_json(path, orient="records", indent=1),
    "parquet": lambda frame, path: frame.to_parquet(path),
}
ENDING = {"lines": ".jsonl", "list": ".json", "parquet": ".parquet"}


@st.composite
def ratings(draw):
    said = [draw(SPOKEN) for _ in range(3)]
    who = {"annotator": draw(st.sampled_from(["Zoë", "bob"])), "source": "human"}
    if draw(st.booleans()):
        return feedback.rating_row(*said[:2], draw(st.dictionaries(
            st.sampled_from(feedback.DIMENSIONS), st.integers(1, 5), min_size=1)), **who)
    return feedback.preference_row(*said, draw(st.sampled_from(feedback.PREFERENCES)), **who)


def item(row):
    """What tells two rows apart that have no id and may have been made at the same time."""
    names = ("annotator", "prompt", "response", "response_a", "response_b")
    return tuple(row.get(name) for name in names)


@pytest.mark.parametrize("way", REWRITINGS)
@fuzz(20)
@given(st.lists(ratings(), min_size=1, max_size=4, unique_by=item), st.booleans())
def test_ratings_rewritten_by_pandas_lose_nothing_and_double_nothing(tmp_path, way, made, with_id):
    # A lone \r stands bare in what pandas writes as CSV, and ends a row there, which is refused.
    assume(way in ENDING or "\\r" not in json.dumps(made))
    stores = [feedback.RatingStore(tmp_path / f"{name}.jsonl") for name in ("mine", "other")]
    for store in stores:
        store.path.unlink(missing_ok=True)
    for row in made:
        stores[0].append(row)
    out, path = tmp_path / "out.csv", tmp_path / f"again{ENDING.get(way, '.csv')}"
    stores[0].to_csv(out)
    frame = pandas.read_csv(out, dtype=str, keep_default_na=False, na_values=[""])
    REWRITINGS[way](frame if with_id else frame.drop(columns="id"), path)
    assert stores[0].add_csv(path) == 0
    assert stores[1].add_csv(path) == len(made)
    assert [without_id(row) for row in stores[1].rows()] == [
        without_id(row) for row in stores[0].rows()]
    assert stores[1].add_csv(path) == 0


def without_id(row):
    return {key: value for key, value in row.items() if key != "id"}
