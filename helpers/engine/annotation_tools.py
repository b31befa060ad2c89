"""What Label Studio and Argilla export, as rows of feedback.

Formats (HumanSignal/label-studio-sdk, `converter/converter.py`; argilla-io/argilla,
`records/_io/_generic.py`, and the `FeedbackDataset` of its versions 1.x):

* Label Studio JSON: tasks of `data` and `annotations`, each of `completed_by`, times and a
  `result` of `{"from_name", "type", "value": {"rating": 4}}`; `number`, `choices` and `pairwise`
  (`{"selected": "left"}`) are read as well. JSON-MIN and CSV: a line an annotation, the data and
  the answers as columns, `annotator`, `annotation_id`, `created_at`, `updated_at`.
* Argilla 2: columns `<question>.responses`, `.responses.users` and `.responses.status`, or
  `fields` and `responses` of `{"value", "user_id"}`. Argilla 1: for each question a list of
  `{"value", "user_id", "status"}`, or the same as three lists.

An answer from 1 to 5 on one response is a rating, the question's name its dimension. An answer
that names one of two responses ("left", "A", "response 2", "tie") is a choice, and so is every two
places of a ranking.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from helpers.engine.kinds import Row
from helpers.engine.rating_rows import rating_value
from helpers.engine.values import blank, shown
from helpers.errors import UserError

LABEL_STUDIO, ARGILLA = "Label Studio", "Argilla"
PROMPTS = ("prompt", "instruction", "question", "input", "query", "context")
RESPONSES = ("response", "answer", "output", "completion", "generation", "reply", "text", "option")
ENDS = (("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second"))
TEXT_NAMES = ("prompt", "response", "response_a", "response_b", "model", "model_a", "model_b")
STEM = "(?:response|answer|output|completion|generation|reply|text|option|model)?"
SIDES = {"a": re.compile(f"{STEM}(?:a|1|left|first)(?:is)?(?:better)?"),
         "b": re.compile(f"{STEM}(?:b|2|right|second)(?:is)?(?:better)?"),
         "tie": re.compile("tie|tied|both|equal|same|neither|draw|both(?:good|bad)|equallygood")}
BOOKKEEPING = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time",
               "agreement", "history", "was_cancelled"}
JSON_BEGINS = ("[", "{")
LEFT_OUT = ("discarded", "a draft", "without a rating")


@dataclass
class Annotation:
    """One annotator's answers to the questions on one record."""

    number: int  # of the line or task in the file
    data: Mapping[str, Any]
    annotator: Any
    key: str
    answers: dict[str, Any] = field(default_factory=dict)
    time: Any = None
    loose: frozenset[str] = frozenset()  # columns that may hold an answer or the record's own data


def recognise(rows: Sequence[Any]) -> str | None:
    """The tool whose export these rows of a table or of a JSON list are, or None."""
    known: set[tuple[Any, ...]] = set()  # columns that were looked at
    for row in rows:
        if not isinstance(row, Mapping):
            continue
        if (columns := tuple(row)) not in known:
            known.add(columns)
            if tool := _by_columns(row):
                return tool
        if "responses" in row and isinstance(row.get("fields"), Mapping):
            return ARGILLA
        for value in row.values():
            if not (isinstance(value, str) and value[:1] not in JSON_BEGINS) and _is_answers(
                    _parsed(value)):
                return ARGILLA
    return None


def _by_columns(row: Mapping[Any, Any]) -> str | None:
    if "data" in row and ("annotations" in row or "completions" in row):
        return LABEL_STUDIO
    if "annotation_id" in row and "annotator" in row:
        return LABEL_STUDIO
    return ARGILLA if any(isinstance(k, str) and k.endswith(".responses") for k in row) else None


def feedback_rows(
    rows: Sequence[Any], name_of_file: str, fields: Mapping[str, str] | None = None,
) -> list[Row]:
    """The rows of feedback in an export of Label Studio or Argilla, source "human".

    One row for each annotator and record, or for each choice. `id` is made of the tool's ids and
    of what was judged; `time` is there where the tool gives one. Annotations that were discarded
    or are drafts are left out; a printed line counts them.

    fields: our name (`prompt`, `response`, `response_a`, `response_b`, `model`, `model_a`,
    `model_b`, or a dimension) to the name in the file, for what cannot be told from its names.
    With dimensions among them, only these are ratings.

    Raises UserError with file, row, reason and remedy.
    """
    return [row for _, row in numbered_rows(rows, name_of_file, fields)]


def numbered_rows(
    rows: Sequence[Any], name: str, fields: Mapping[str, str] | None = None,
) -> list[tuple[int, Row]]:
    """As `feedback_rows`, each row with the number of the record in the file, from 1."""
    tool = recognise(rows)
    if tool is None:
        raise UserError(f"{name}: is no export of Label Studio or Argilla that could be told from "
                        "its fields; leave `fields` away for a table of the course's own columns.")
    left: Counter[str] = Counter()
    read = _label_studio if tool == LABEL_STUDIO else _argilla
    found = []
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: a record must be a JSON object, not {shown(row)}; export "
                            "the project again, or take the record out.")
        for annotation in read(number, row, where, left):
            made = _judged(annotation, where, dict(fields or {}), tool)
            left["without a rating"] += not made
            found += [(number, one) for one in made]
    skipped = ", ".join(f"{left[kind]} {kind}" for kind in LEFT_OUT if left[kind]) or "none"
    if not found:
        raise UserError(f"{name}: this export of {tool} holds no rating and no choice (left out: "
                        f"{skipped}); name the file's own fields with "
                        "fields={'prompt': …, 'response': …}, or finish the annotations.")
    people = len({row["annotator"] for _, row in found})
    print(f"{name}: an export of {tool}, {len(found)} rows by {people} annotators; left out: "
          f"{skipped}.")
    return found


# ----------------------------------------------------------------------------------- the formats


def _label_studio(
    number: int, row: Mapping[str, Any], where: str, left: Counter[str],
) -> Iterator[Annotation]:
    if "data" not in row or not ("annotations" in row or "completions" in row):
        if row.get("was_cancelled") in (True, "true", "True"):
            left["discarded"] += 1
            return
        answers = {k: v for k, v in row.items() if k not in BOOKKEEPING}
        yield Annotation(
            number, row, row.get("annotator"), str(row.get("annotation_id")), answers,
            row.get("updated_at") or row.get("created_at"),
            frozenset(k for k, v in answers.items() if not isinstance(_parsed(v), list | Mapping)))
        return
    data = row["data"]
    if not isinstance(data, Mapping):
        raise UserError(f"{where}: 'data' is {shown(data)}; it must be an object of named texts.")
    left["a draft"] += len(row["drafts"]) if isinstance(row.get("drafts"), list) else 0
    for one in _list(row.get("annotations", row.get("completions")), "'annotations'", where):
        if not isinstance(one, Mapping):
            raise UserError(f"{where}: an annotation is {shown(one)}; it must be an object.")
        if one.get("was_cancelled") or one.get("skipped"):
            left["discarded"] += 1
            continue
        who = one.get("completed_by")
        if isinstance(who, Mapping):
            who = who.get("email") or who.get("username") or who.get("id")
        answers: dict[str, Any] = {}
        for result in _list(one.get("result"), "a 'result'", where):
            if not isinstance(result, Mapping):
                raise UserError(f"{where}: a result is {shown(result)}; it must be an object.")
            question, value = result.get("from_name"), result.get("value")
            if isinstance(question, str):  # relations and the like have none
                if question in answers:
                    raise UserError(f"{where}: {question!r} is answered twice in one annotation; "
                                    "rate whole texts, not regions of them.")
                answers[question] = value
        yield Annotation(number, data, who, str(one.get("id")), answers,
                         one.get("updated_at") or one.get("created_at"))


def _argilla(
    number: int, row: Mapping[str, Any], where: str, left: Counter[str],
) -> Iterator[Annotation]:
    data: Mapping[str, Any] = row
    given: dict[str, Any] = {}
    if isinstance(row.get("fields"), Mapping) and "responses" in row:
        data, responses = {**_object(row.get("metadata")), **row["fields"]}, row["responses"]
        if not isinstance(responses, Mapping | None):
            raise UserError(f"{where}: 'responses' is {shown(responses)}; it must map each "
                            "question to its answers.")
        given = dict(responses or {})
    for name, value in row.items():
        if isinstance(name, str) and name.endswith(".responses"):
            question = name.removesuffix(".responses")
            given[question] = {"value": value, "user_id": row.get(f"{name}.users"),
                               "status": row.get(f"{name}.status")}
        elif _is_answers(_parsed(value)):
            given[name] = value
    ids = (row.get(name) for name in ("id", "external_id", "_server_id", "server_id"))
    record = next((str(one) for one in ids if not blank(one)), "")
    annotations: dict[Any, Annotation] = {}
    discarded, drafts = set(), set()
    for question, value in given.items():
        for one in _answers(value, question, where):
            status = str(one.get("status") or "submitted").rpartition(".")[2]
            who = one.get("user_id")
            if not isinstance(who, str | int) or isinstance(who, bool):
                raise UserError(f"{where}: an answer to {question!r} has no user who gave it "
                                f"(its user is {shown(who)}); export the answers with their users.")
            if status != "submitted":
                (discarded if status == "discarded" else drafts).add(who)
                continue
            annotation = annotations.setdefault(who, Annotation(
                number, data, who, f"{record}-{who}",
                time=one.get("updated_at") or one.get("inserted_at")))
            annotation.answers[question] = one.get("value")
    left["discarded"] += len(discarded)
    left["a draft"] += len(drafts - discarded)
    yield from annotations.values()


def _answers(value: Any, question: str, where: str) -> list[Mapping[str, Any]]:
    """A question's answers one by one, from a list of them or from three lists."""
    value = _parsed(value)
    if isinstance(value, Mapping):
        columns = {k: _list(_parsed(v), f"{question!r} ({k})", where)
                   for k, v in value.items() if v is not None}
        if not columns.get("value"):
            return []
        if len({len(column) for column in columns.values()}) != 1:
            raise UserError(f"{where}: {question!r} has {len(columns['value'])} answers, and "
                            "another number of users or statuses; export it again.")
        return [{k: column[i] for k, column in columns.items()}
                for i in range(len(columns["value"]))]
    answers = _list(value, f"{question!r}", where)
    if not all(isinstance(one, Mapping) for one in answers):
        raise UserError(f"{where}: an answer to {question!r} is no object of value and user_id, "
                        f"but {shown(answers)}; export it again.")
    return answers


def _is_answers(value: Any) -> bool:
    """Whether a field holds the answers to a question as Argilla 1 writes them."""
    if isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, Mapping) and {"value", "user_id"} <= set(value)


def _list(value: Any, what: str, where: str) -> list[Any]:
    if value is None or isinstance(value, list):
        return value or []
    raise UserError(f"{where}: {what} is {shown(value)}; it must be a list, as the tool writes it.")


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parsed(value: Any) -> Any:
    """A list or object that a CSV file holds as JSON text; all else as it is."""
    if isinstance(value, str) and value[:1] in JSON_BEGINS:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


# --------------------------------------------------------------------------------- what was said


def _judged(one: Annotation, where: str, fields: dict[str, str], tool: str) -> list[Row]:
    """The rows of feedback in an annotation."""
    names = _names(one, where, fields)
    wanted = {column: dimension for dimension, column in fields.items()
              if dimension not in TEXT_NAMES}
    used = set(names.values())
    ratings: dict[str, int] = {}
    choices: list[tuple[str, str, str, str]] = []
    for question, raw in one.answers.items():
        if question in used or (wanted and question not in wanted):
            continue
        value = _scalar(raw)
        if blank(value):
            continue
        ranking = _ranking(value, one.data) if tool == ARGILLA else []
        side = _side(value, names) if "response_a" in names else None
        if question in one.loose and re.fullmatch(r"\s*\d+\s*", str(value)):
            side = None  # a number beside two responses is the record's own
        if ranking:
            choices += [(question, *pair) for pair in ranking]
        elif side:
            choices.append((question, names["response_a"], names["response_b"], side))
        elif "response" in names and _may_rate(value, question in one.loose, question in wanted):
            name = wanted.get(question, question)
            ratings[name] = rating_value(value, f"{where}: {question!r} is")
    rows = []
    if ratings:
        rows.append({"response": _text(one, names, "response", where),
                     "model": _model(one, names, "model"), "ratings": ratings})
    several = len({question for question, *_ in choices}) > 1
    for question, first, second, side in choices:
        models = {first: "model_a", second: "model_b"} \
            if (first, second) == (names.get("response_a"), names.get("response_b")) else {}
        rows.append({
            "response_a": _words(one, first, where), "response_b": _words(one, second, where),
            "model_a": _model(one, names, models.get(first, "")),
            "model_b": _model(one, names, models.get(second, "")), "preference": side,
            "task": f"comparisons: {question}" if several else "comparisons"})
    return [_row(one, row, names, where, tool) for row in rows]


def _row(one: Annotation, said: Row, names: Mapping[str, str], where: str, tool: str) -> Row:
    if blank(one.annotator) or not isinstance(one.annotator, str | int):
        raise UserError(f"{where}: the annotator is {shown(one.annotator)}; export the annotations "
                        "with the person who made them.")
    row = {"annotator": str(one.annotator), "source": "human", "task": "responses",
           "prompt": _text(one, names, "prompt", where)} | said
    texts = [row[name] for name in ("task", "prompt", "response", "response_a", "response_b")
             if name in row]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]
    row["id"] = f"{tool.lower().replace(' ', '-')}-{one.key}-{digest}"
    if isinstance(one.time, str) and one.time.strip():
        row["time"] = one.time
    return row


def _names(one: Annotation, where: str, fields: Mapping[str, str]) -> dict[str, str]:
    """Our names of texts and models to those of the record."""
    names = {}
    for ours, theirs in fields.items():
        if theirs not in one.data and theirs not in one.answers and ours in TEXT_NAMES:
            raise UserError(f"{where}: has no field {theirs!r}, which `fields` names as {ours!r}; "
                            f"there are {', '.join(map(str, one.data))}.")
        if ours in TEXT_NAMES:
            names[ours] = theirs
    by_plain = {_plain(key): key for key in one.data if isinstance(key, str)}
    for ours, guesses in (("prompt", PROMPTS), ("response", RESPONSES), ("model", ("model",)),
                          ("model_a", ("modela",)), ("model_b", ("modelb",))):
        key = next((by_plain[g] for g in guesses if g in by_plain), None)
        if ours not in names and key is not None:
            names[ours] = key
    for stem in (*RESPONSES, "model"):
        for ends in ENDS:
            keys = [by_plain.get(stem + end) for end in ends]
            ours = ("model_a", "model_b") if stem == "model" else ("response_a", "response_b")
            if None not in keys and not set(ours) & set(names):
                names |= dict(zip(ours, keys, strict=True))
    return names


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _scalar(value: Any) -> Any:
    """The one value of an answer, out of what a tool wraps it in."""
    value = _parsed(value)
    if isinstance(value, list) and len(value) == 1:
        return _scalar(value[0])
    if isinstance(value, Mapping) and not {"rank", "value"} <= set(value):
        inside = [value[k] for k in ("rating", "number", "selected", "choices") if k in value]
        return _scalar(inside[0]) if inside else None
    return value


def _may_rate(value: Any, loose: bool, wanted: bool) -> bool:
    """Whether an answer is meant as a rating; then one that is none is an error, not a comment."""
    if wanted:
        return True
    if loose:  # a choice is a bare text in Label Studio's tables, and so is the record's own data
        return isinstance(value, str) and re.fullmatch(r"\s*[1-5](\.0*)?\s*", value) is not None
    return not isinstance(value, str | list | Mapping) or \
        re.fullmatch(r"\s*[-+]?[\d.]+\s*", value if isinstance(value, str) else "") is not None


def _side(value: Any, names: Mapping[str, str]) -> str | None:
    """Which of two responses an answer prefers, or that it is a tie; None if it says neither."""
    if not isinstance(value, str):
        return None
    for side, ours in (("a", "response_a"), ("b", "response_b")):
        if _plain(value) == _plain(names[ours]):
            return side
    return next((side for side, said in SIDES.items() if said.fullmatch(_plain(value))), None)


def _ranking(value: Any, data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """A ranking of the record's fields as (field, field, preference) for every two; else empty."""
    if isinstance(value, Mapping) and {"rank", "value"} <= set(value):
        value = [{"rank": r, "value": v} for r, v in zip(
            *(x if isinstance(x, list) else [x] for x in (value["rank"], value["value"])),
            strict=False)]
    if not isinstance(value, list) or len(value) < 2:
        return []
    by_plain = {_plain(key): key for key in data if isinstance(key, str)}
    places = {}
    for place, one in enumerate(value):
        if isinstance(one, Mapping):
            place, one = one.get("rank"), one.get("value")
        key = by_plain.get(_plain(one)) if isinstance(one, str) else None
        if key is None or not isinstance(place, int):
            return []
        places[key] = place
    order = list(data)
    return [(first, second, "tie" if places[first] == places[second]
             else "a" if places[first] < places[second] else "b")
            for first, second in combinations(sorted(places, key=order.index), 2)]


def _text(one: Annotation, names: Mapping[str, str], ours: str, where: str) -> str:
    if ours not in names:
        raise UserError(
            f"{where}: cannot tell which of {', '.join(map(str, one.data))} is the {ours}; say it "
            f"with fields={{{ours!r}: …}}.")
    return _words(one, names[ours], where)


def _words(one: Annotation, key: str, where: str) -> str:
    value = one.data.get(key)
    if not isinstance(value, str):
        raise UserError(f"{where}: {key!r} must be a string, not {shown(value)}.")
    return value


def _model(one: Annotation, names: Mapping[str, str], ours: str) -> Any:
    value = one.data.get(names.get(ours, ""))
    return "" if blank(value) else value
