"""Exports of Label Studio and Argilla, written by hand after the tools' own writers."""

import csv
import json

import datasets
import pytest

from helpers import feedback as fb
from helpers.engine import annotation_tools as tools
from helpers.engine.rows import choices_of_tools
from helpers.errors import UserError

TEXT = {"prompt": "Why?", "response": "Because.", "model": "sft"}
PAIR = {"prompt": "Why?", "answer1": "Because.", "answer2": "No.", "model_1": "m", "model_2": "n"}


def result(name, kind, value, to="text"):
    return {"id": "aB3", "from_name": name, "to_name": to, "type": kind, "value": value,
            "origin": "manual"}


def annotation(number, who, *results, **more):
    return {"id": number, "completed_by": who, "result": list(results), "was_cancelled": False,
            "ground_truth": False, "created_at": "2026-03-09T22:16:08.728353Z",
            "updated_at": "2026-03-10T22:16:08.728378Z", "lead_time": 4.2, **more}


def task(number, data, *annotations, **more):
    return {"id": number, "data": data, "annotations": list(annotations), "predictions": [],
            "drafts": [], "project": 3, "created_at": "2026-03-09T21:52:49.513742Z", **more}


STARS = result("quality", "rating", {"rating": 4})
LABEL_STUDIO = [
    task(1, TEXT,
         annotation(11, 7, STARS, result("fluency", "choices", {"choices": ["5"]}),
                    result("depth", "number", {"number": 2}),
                    result("remark", "textarea", {"text": ["fine"]})),
         annotation(12, {"id": 8, "email": "bo@example.org"}, STARS),
         annotation(13, 9, STARS, was_cancelled=True), annotation(14, 9),
         drafts=[{"id": 1, "result": []}]),
    task(2, PAIR,
         annotation(21, 7, result("best", "pairwise", {"selected": "left"}, "answer1,answer2")),
         annotation(22, 8, result("best", "choices", {"choices": ["Response 2"]})),
         annotation(23, 9, result("best", "choices", {"choices": ["Tie"]}))),
]


def said(rows):
    """What was said by whom, without ids and times."""
    return [(row["annotator"], row.get("ratings", row.get("preference"))) for row in rows]


def test_label_studios_json(capsys):
    assert tools.recognise(LABEL_STUDIO) == "Label Studio"
    rows = tools.feedback_rows(LABEL_STUDIO, "export.json")
    assert said(rows) == [("7", {"quality": 4, "fluency": 5, "depth": 2}),
                          ("bo@example.org", {"quality": 4}), ("7", "a"), ("8", "b"), ("9", "tie")]
    assert rows[0] | TEXT == rows[0] and rows[0]["time"] == "2026-03-10T22:16:08.728378Z"
    assert (rows[2]["response_a"], rows[2]["model_b"]) == ("Because.", "n")
    assert {row["source"] for row in rows} == {"human"}
    assert len({row["id"] for row in rows}) == 5
    assert "5 rows by 4 annotators; left out: 1 discarded, 1 a draft, 1 without a rating." in \
        capsys.readouterr().out


MIN = {"annotator": 7, "annotation_id": 11, "created_at": "2026-03-09T22:16:08Z",
       "updated_at": "2026-03-10T22:16:08.728378Z", "lead_time": 4.2}
LABEL_STUDIO_MIN = [
    {**TEXT, "id": 1, "quality": [{"rating": 4}], "fluency": "5", "depth": [{"number": 2}],
     "remark": "fine", **MIN},
    {**PAIR, "id": 2, "best": [{"selected": "right"}], **MIN, "annotation_id": 21},
    {**PAIR, "id": 2, "best": "Tie", **MIN, "annotator": "bo@example.org", "annotation_id": 22},
]
MIN_SAID = [("7", {"quality": 4, "fluency": 5, "depth": 2}), ("7", "b"), ("bo@example.org", "tie")]


def test_label_studios_json_min_and_csv(tmp_path):
    assert said(tools.feedback_rows(LABEL_STUDIO_MIN, "min.json")) == MIN_SAID
    for line in LABEL_STUDIO_MIN[:1]:
        full, small = (tools.feedback_rows(rows, "x")[0] for rows in (LABEL_STUDIO, [line]))
        assert small == full, "the same annotation is the same row in both"
    columns = list(dict.fromkeys(key for line in LABEL_STUDIO_MIN for key in line))
    with open(tmp_path / "export.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in line.items()}
                         for line in LABEL_STUDIO_MIN)
    store = fb.RatingStore(tmp_path / "store.jsonl")
    assert store.add_csv(tmp_path / "export.csv") == 3 and said(store.rows()) == MIN_SAID
    (tmp_path / "min.json").write_text(json.dumps(LABEL_STUDIO_MIN))
    assert store.add_csv(tmp_path / "min.json") == 0


ARGILLA = [
    {"id": "r1", "status": "completed", "_server_id": "s1", **TEXT,
     "quality.responses": [4, 2, 5], "quality.responses.users": ["u1", "u2", "u3"],
     "quality.responses.status": ["submitted", "submitted", "draft"],
     "fluency.responses": ["5", "1", None], "fluency.responses.users": ["u1", "u2", "u3"],
     "fluency.responses.status": ["submitted", "submitted", "discarded"],
     "quality.suggestion": 1, "quality.suggestion.score": None, "length": 120},
    {"id": "r2", "status": "pending", "_server_id": "s2", **TEXT, "response": "So.",
     "quality.responses": None, "quality.responses.users": None, "quality.responses.status": None,
     "fluency.responses": None, "fluency.responses.users": None, "length": 3},
]


def test_argilla_2_flat_and_nested(tmp_path, capsys):
    assert tools.recognise(ARGILLA) == "Argilla"
    rows = tools.feedback_rows(ARGILLA, "x")
    assert said(rows) == [("u1", {"quality": 4, "fluency": 5}),
                          ("u2", {"quality": 2, "fluency": 1})]
    assert "left out: 1 discarded." in capsys.readouterr().out
    nested = [{"id": "r1", "fields": TEXT, "metadata": {}, "suggestions": {}, "vectors": {},
               "status": "completed", "_server_id": "s1", "responses": {
                   "quality": [{"value": 4, "user_id": "u1"}, {"value": 2, "user_id": "u2"}],
                   "fluency": [{"value": "5", "user_id": "u1"}, {"value": "1", "user_id": "u2"}]}}]
    assert tools.feedback_rows(nested, "x") == rows
    store = fb.RatingStore(tmp_path / "store.jsonl")
    dataset = datasets.Dataset.from_list(ARGILLA)
    assert store.add_dataset(dataset) == 2 and said(store.rows()) == said(rows)
    dataset.to_parquet(tmp_path / "export.parquet")
    assert store.add_csv(tmp_path / "export.parquet") == 0


def answers(*given):
    return [{"user_id": user, "value": value, "status": status} for user, value, status in given]


def test_argilla_1(tmp_path):
    line = {**TEXT, "external_id": "e1", "metadata": "{}", "quality-suggestion": 3,
            "quality": answers(("u1", 4, "submitted"), ("u2", 1, "discarded"))}
    columns = {**line, "quality": {"user_id": ["u1", "u2"], "value": [4, 1],
                                   "status": ["submitted", "discarded"]}}
    for form in (line, columns):
        assert said(tools.feedback_rows([form], "x")) == [("u1", {"quality": 4})]
    empty = {**line, "quality": []}
    assert len(tools.feedback_rows([empty, line], "x")) == 1


@pytest.mark.parametrize("value, choice", [
    ("response_a", "a"), ("response-b", "b"), ("A", "a"), ("Response 2", "b"), ("left", "a"),
    ("tie", "tie"), ("Both good", "tie"), ("B is better", "b"),
    (["response_b", "response_a"], "b"),
    ([{"rank": 1, "value": "response-a"}, {"rank": 2, "value": "response-b"}], "a"),
    ([{"rank": 1, "value": "response_a"}, {"rank": 1, "value": "response_b"}], "tie"),
    ({"rank": [2, 1], "value": ["response_a", "response_b"]}, "b")])
def test_argillas_labels_and_rankings_are_choices(value, choice):
    data = {"instruction": "Why?", "response_a": "x", "response_b": "y", "model_a": "m"}
    two = {"id": "1", **data, "best.responses": [value], "best.responses.users": ["u"],
           "best.responses.status": ["submitted"]}
    one = {**data, "best": answers(("u", value, "submitted"))}
    for form in (two, one):
        [row] = tools.feedback_rows([form], "x")
        assert row["preference"] == choice
        assert (row["prompt"], row["response_a"], row["response_b"]) == ("Why?", "x", "y")
        assert (row["model_a"], row["model_b"]) == ("m", "")


def test_labels_that_count_from_zero_are_the_records_own_names():
    data = {"prompt": "p", "reply-0": "x", "reply-1": "y"}
    for value, choice in (("reply-1", "b"), ("reply-0", "a")):
        [row] = tools.feedback_rows([{**data, "best": answers(("u", value, "submitted"))}], "x")
        assert (row["response_a"], row["preference"]) == ("x", choice)


def test_a_ranking_of_three_is_three_choices():
    data = {"prompt": "p", "response-1": "x", "response-2": "y", "response-3": "z"}
    rows = tools.feedback_rows([{"id": "1", **data, "order": answers(
        ("u", ["response-3", "response-1", "response-2"], "submitted"))}], "x")
    assert [(r["response_a"], r["response_b"], r["preference"]) for r in rows] == [
        ("x", "y", "a"), ("x", "z", "b"), ("y", "z", "b")]
    assert len({r["id"] for r in rows}) == 3


def test_fields_say_what_cannot_be_told():
    data = {"q": "Why?", "said": "Because."}
    export = [task(1, data, annotation(1, 7, result("stars", "rating", {"rating": 4}),
                                       result("years", "number", {"number": 90})))]
    with pytest.raises(UserError, match=r"e.json, row 1: .*years.*whole number|holds no rating"):
        tools.feedback_rows(export, "e.json")
    [row] = tools.feedback_rows(export, "e.json", {
        "prompt": "q", "response": "said", "coherence": "stars"})
    assert row["ratings"] == {"coherence": 4} and row["response"] == "Because."
    with pytest.raises(UserError, match=r"row 1: has no field 'nix'.*there are q, said"):
        tools.feedback_rows(export, "e.json", {"prompt": "nix"})


def test_a_corrected_annotation_supersedes_and_the_same_export_adds_nothing(tmp_path):
    store = fb.RatingStore(tmp_path / "store.jsonl")
    path = tmp_path / "export.json"
    path.write_text(json.dumps(LABEL_STUDIO))
    assert store.add_csv(path) == 5 and store.add_csv(path) == 0
    changed = json.loads(path.read_text())
    changed[0]["annotations"][0] |= {"updated_at": "2026-04-01T00:00:00Z"}
    changed[0]["annotations"][0]["result"][0]["value"]["rating"] = 1
    path.write_text(json.dumps(changed))
    assert store.add_csv(path) == 1 and len(store.rows()) == 5
    newest = store.rows()[-1]
    assert newest["ratings"]["quality"] == 1 and newest["time"] == "2026-04-01T00:00:00Z"


def test_tables_of_the_courses_own_are_no_exports():
    row = fb.rating_row("p", "r", {"q": 3}, annotator="ann")
    for rows in ([], [row], [fb.flatten(row)], [{"text": "a", "label": 1}], ["x"], [None],
                 [{"prompt": "p", "chosen": [{"role": "user", "content": "x"}]}]):
        assert tools.recognise(rows) is None
    with pytest.raises(UserError, match="no export of Label Studio or Argilla"):
        tools.feedback_rows([row], "x.csv")


def broken():
    """Exports that no tool writes."""
    one = annotation(1, 7, STARS)
    for data in (None, [], "text", {"prompt": "p"}, {**TEXT, "prompt": None},
                 {**TEXT, "response": ["x"]}, {**TEXT, "prompt": "hi \ud83d"}):
        yield [task(1, data, one)]
    for notes in ("x", {"a": 1}, [None], ["x"], [[]], 7):
        yield [task(1, TEXT) | {"annotations": notes}]
    for results in ("x", {"a": 1}, [None], ["x"], 7):
        yield [task(1, TEXT, one | {"result": results})]
    for who in (None, "", [], {}, {"id": None}, 2.5):
        yield [task(1, TEXT, one | {"completed_by": who})]
    for value in (7, 0, 4.5, True, [4, 5], "nine", None, {"a": 1}):
        yield [task(1, TEXT, annotation(1, 7, result("quality", "rating", {"rating": value})))]
    for value in (None, [], "x", 9, {"stars": 4}):
        yield [task(1, TEXT, annotation(1, 7, result("quality", "rating", value)))]
    yield [task(1, TEXT, annotation(1, 7, STARS, STARS))]
    yield [task(1, TEXT, one), "text"]
    yield [task(1, TEXT, one), None, [1]]
    yield [task(1, TEXT)]
    flat = ARGILLA[0]
    for key, value in (("quality.responses", 4), ("quality.responses", "four"),
                       ("quality.responses", [4]), ("quality.responses", [4, 9, 5]),
                       ("quality.responses.users", None), ("quality.responses.users", ["u1"]),
                       ("quality.responses.users", [None, "u2", "u3"]),
                       ("quality.responses.status", "submitted"), ("prompt", 5)):
        yield [{**flat, key: value}]
    yield [{"fields": TEXT, "responses": "x"}]
    yield [{"fields": TEXT, "responses": {"q": [4]}}]
    yield [{"fields": TEXT, "responses": {"q": 4}}]
    yield [{"fields": {}, "responses": {"q": [{"value": 4, "user_id": "u"}]}}]
    yield [{**TEXT, "q": answers((None, 4, "submitted"))}]
    yield [{**TEXT, "q": answers(("u", 4, 5))}]
    yield [{**TEXT, "q": {"user_id": "u", "value": [4]}}]


@pytest.mark.parametrize("export", broken(), ids=lambda _: "")
def test_a_broken_export_is_one_sentence(tmp_path, export):
    store = fb.RatingStore(tmp_path / "store.jsonl")
    path = tmp_path / "export.json"
    path.write_text(json.dumps(export))
    with pytest.raises(UserError) as caught:
        store.add_csv(path)
    text = str(caught.value)
    assert "export.json" in text and "\n" not in text and text.endswith(".") and len(text) < 600
    assert not store.path.exists()


def test_an_export_is_recognised_however_late_its_first_answer_stands():
    asked = {"prompt": "Why?", "response_a": "So.", "response_b": "No.", "better": []}
    said = asked | {"better": [{"value": "response_b", "user_id": "u", "status": "submitted"}]}
    [choice] = choices_of_tools([asked] * 60 + [said], "export.json")
    assert choice["preference"] == "b"
