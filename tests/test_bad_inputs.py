"""Every odd or bad input through every door of its kind: the right rows, or one sentence."""

import functools
import json
import re

import pytest
from bad_inputs import FILES, KINDS, POINTER, ROWS, Bad
from support import answer_tokenizer

from helpers import data, feedback, models
from helpers.course import check as checking
from helpers.course import cli
from helpers.engine import tables
from helpers.errors import UserError
from helpers.profiles import load_profile
from helpers.reward import ties

LOADERS = {
    "reviews": (data.load_reviews,),
    "preferences": (data.load_pairs, data.load_comparisons, data.load_demonstrations,
                    data.load_dialogues),
    "demonstrations": (data.load_demonstrations,),
}
FAULTS = r"(wrong|set aside): (\d+ )?rows? "


SETTINGS = load_profile()
LOAD_ONCE = functools.cache(models.load_tokenizer)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Profile and tokenizer are loaded once for all calls of the command."""
    tables.tell.cache_clear()
    monkeypatch.setattr(models, "load_tokenizer", LOAD_ONCE)
    monkeypatch.setattr(checking, "load_profile", lambda name: SETTINGS)


def settings_with(section, **values):
    """The embedded profile with other values in a section."""
    changed = getattr(SETTINGS, section).model_copy(update=values)
    return SETTINGS.model_copy(update={section: changed})


def judged(call):
    """What a call gives, or the sentence that it raises in its place; all else goes through."""
    try:
        return call(), None
    except UserError as error:
        return None, str(error)


def one_sentence(text, name, words, row=None):
    """Whether it is one, with place, reason and remedy."""
    assert "\n" not in text and text.endswith(".") and len(text) < 700, text
    assert name in text, text
    assert re.search(words, text), text
    assert row is None or f"row {row}" in text, text
    assert re.search(r"; |must", text), f"no remedy: {text}"
    assert "not what it must be" not in text, f"nobody thought of this: {text}"


def command(capsys, *words):
    """Exit status, output and errors of `python -m helpers` with these words, in this process."""
    capsys.readouterr()
    status = cli.main([*map(str, words)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, said.out, said.err


def loaded(kind, path):
    """What each loader makes of a folder whose test split this file is."""
    settings = settings_with("data", **{kind: str(path.parent)})
    return {load.__name__: judged(lambda load=load: load(settings, "test"))
            for load in LOADERS[kind]}


def stored(path, rows=None):
    """What a store holds after a file, or these rows as a dataset, were given to it."""
    store = feedback.RatingStore(path.with_name("store.jsonl"))
    store.path.unlink(missing_ok=True)
    before = json.dumps(rows, default=str)
    found = judged(lambda: store.add_csv(path) if rows is None else store.add_dataset(rows))
    assert json.dumps(rows, default=str) == before
    if found[1]:
        assert not store.path.exists(), "something was written"
        return found
    return store.rows(), None


def plain(rows):
    """Rows in an order and without the id and time that a store adds."""
    keep = [{k: v for k, v in row.items() if k not in ("id", "time")} for row in rows]
    return sorted(keep, key=lambda row: json.dumps(row, sort_keys=True))


def by_loader(kind, rows):
    """What each loader must make of canonical rows."""
    if kind != "preferences":
        return {load.__name__: rows for load in LOADERS[kind]}
    return {
        "load_pairs": rows,
        "load_demonstrations": [
            {"prompt": r["prompt"], "response": r["chosen"], "topic": r["topic"]} for r in rows],
        "load_dialogues": [f"{r['prompt']} {r['chosen']}" for r in rows]}


def check(path, kind, good, words, row, capsys):
    """The command's door."""
    status, out, err = command(capsys, "check", path, "--kind", kind)
    if good is not None:
        assert status == 0, out + err
        assert re.search(rf"\b{len(good)} (good|rows of ratings; {len(good)} count)", out), out
    elif status == 1:
        assert re.search(FAULTS, out) and re.search(words, out), out
        assert row is None or f"row {row}: " in out, out
        assert "The course would not take" in out
    else:
        assert status == 2, out
        one_sentence(err.splitlines()[-1], path.name, words, row)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.name}{file.ending}")
def test_a_file_however_it_is_written(file, kind, tmp_path, capsys):
    rows, read = KINDS[kind]
    path = tmp_path / f"test{file.ending}"
    path.write_bytes(file.write(rows))
    if kind == "ratings":
        found, expected = {"store": stored(path)}, {"store": read}
        if "is empty" in (file.words or "") and "damaged" not in (found["store"][1] or ""):
            assert found.pop("store") == ([], None)  # a store may be empty, and its table is
    elif not file.ending or "unknown" in (file.words or ""):
        path = path.rename(tmp_path / f"mine{file.ending}")
        settings = settings_with("data", **{kind: str(path)})
        found = {load.__name__: judged(lambda load=load: load(settings, "train"))
                 for load in LOADERS[kind]}
    else:
        found, expected = loaded(kind, path), by_loader(kind, read)
    for door, (value, said) in found.items():
        if file.words:
            assert said, (door, value)
            one_sentence(said, path.name, file.words, file.row)
        elif door in expected:
            assert said is None, (door, said)
            value, wanted = (v if door == "load_dialogues" else plain(v)
                             for v in (value, expected[door]))
            assert sorted(value) == sorted(wanted) if door == "load_dialogues" else value == wanted
    check(path, kind, None if file.words else read, file.words, file.row, capsys)


@pytest.mark.parametrize(("kind", "name"), [
    (kind, name) for kind in ("reviews", "preferences", "demonstrations") for name in ROWS[kind]])
def test_a_row_among_good_ones(kind, name, tmp_path, capsys):
    row, wanted = ROWS[kind][name]
    first, _, last = KINDS[kind].rows
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (first, row, last)))
    for door, (value, said) in loaded(kind, path).items():
        if isinstance(wanted, Bad):
            assert said, (door, value)
            one_sentence(said, path.name, wanted.words, 2)
        elif door != "load_comparisons":
            assert said is None, (door, said)
            expected = by_loader(kind, [wanted] * (wanted is not None))[door]
            assert len(value) == 2 + len(expected) and all(one in value for one in expected), value
    bad = isinstance(wanted, Bad)
    good = None if bad else [first, last] + [row] * (wanted is not None)
    check(path, kind, good, bad and wanted.words, 2, capsys)


@pytest.mark.parametrize("name", ROWS["ratings"])
def test_a_rating_among_good_ones(name, tmp_path, capsys):
    row, wanted = ROWS["ratings"][name]
    rows = [KINDS["ratings"].rows[1], row, KINDS["ratings"].rows[2]]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    for given, where in ((None, path.name), (rows, "dataset")):
        value, said = stored(path, given)
        if isinstance(wanted, Bad):
            assert said, value
            one_sentence(said, where, wanted.words, 2)
        else:
            assert said is None, said
            assert [feedback_of(one) for one in value].count(wanted) == 1
    bad = isinstance(wanted, Bad)
    check(path, "ratings", None if bad else rows, bad and wanted.words, 2, capsys)


def feedback_of(row):
    return row.get("ratings", row.get("preference"))


PLACES = {  # what people give for a model, and what the sentence must say
    "nothing there": ("none/here/at/all", "no such folder"),
    "a word": ("sft_model", "no such folder"),
    "a page": ("https://huggingface.co/owner/name", "no such folder|could not be loaded"),
    "a name with a space": ("owner/my name", "no such folder"),
    "an id with nothing behind @": ("owner/name@", "no such folder"),
    "an id that is not fetched": ("owner/name", "HF_HUB_OFFLINE"),
    "an id of another revision": ("owner/name@v1", "HF_HUB_OFFLINE"),
    "an id with a folder": ("owner/name/checkpoint-500", "no such folder"),
    "an id with a split": ("owner/name:train", "no such folder"),
    "very long": ("x" * 300, "no such folder"),
    "a very long id": (f"{'x' * 300}/name", "no such folder"),
    "a zero": ("a\0b", "could not be loaded|no such folder"),
    "spaces": ("  ", "no such folder|could not be loaded"),
    "an empty folder": (lambda at: at.mkdir(), "config.json|tokenizer"),
    "a file": (lambda at: at.write_text("x"), "it is a file"),
    "a configuration alone": (lambda at: (at.mkdir(), (at / "config.json").write_text("{}")),
                              "names no model_type|tokenizer"),
    "another's configuration": (lambda at: (at.mkdir(), (at / "config.json").write_text(
        '{"model_type": "mamba9"}')), "mamba9|tokenizer"),
    "a pointer of Git LFS": (lambda at: (at.mkdir(), (at / "config.json").write_text(POINTER)),
                             "pointer of Git LFS|tokenizer"),
    "GGUF": (lambda at: (at.mkdir(), (at / "model.gguf").write_bytes(b"GGUF")),
             "config.json|tokenizer"),
}
MODELS = {
    "load_causal": lambda place, _: models.load_causal(place, SETTINGS),
    "load_scorer": lambda place, _: models.load_scorer(place, SETTINGS),
    "load_tokenizer": lambda place, _: models.load_tokenizer(place),
    "load_base": lambda place, _: models.load_base(settings_with("models", base=place)),
    "load_imdb_policy": lambda place, _: models.load_imdb_policy(
        settings_with("models", imdb_policy=place)),
    "load_classifier": lambda place, _: models.load_classifier(
        settings_with("models", classifier=place)),
    "new_reward_model": lambda place, tokenizer: models.new_reward_model(
        place, tokenizer, SETTINGS),
    "new_comparison_model": lambda place, tokenizer: ties.new_comparison_model(
        place, tokenizer, SETTINGS),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_model_that_is_none(name, tmp_path, capsys):
    place, words = PLACES[name]
    if callable(place):
        place(tmp_path / "brought")
        place = str(tmp_path / "brought")
    shown = place.replace("\0", "")[:1]
    for door, load in MODELS.items():
        value, said = judged(lambda load=load: load(place, answer_tokenizer()))
        assert said, (door, value)
        one_sentence(said, shown, words)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(KINDS["reviews"].rows[0]) + "\n")
    if "\0" not in place:
        status, _, err = command(capsys, "check", path, "--tokenizer", place)
        assert status == 2
        one_sentence(err.splitlines()[-1], shown, words)


@pytest.mark.parametrize(("given", "words"), [
    ("no such file.csv", "no such file.csv does not exist"),
    ("pairs #1.jsonl", r"pairs #1.jsonl, row 2: 'chosen' is None")])
def test_the_command_that_runs_the_course(
        notebook_tree, given, words, tmp_path, monkeypatch, capsys):
    notebook_tree("01_first", "from helpers import data\n"
                              "from helpers.profiles import load_profile\n"
                              "data.load_pairs(load_profile(profile, overrides), 'train')")
    monkeypatch.chdir(tmp_path)
    good = KINDS["preferences"].rows
    (tmp_path / "pairs #1.jsonl").write_text("".join(
        json.dumps(row) + "\n" for row in (good[0], good[1] | {"chosen": None}, good[2])))
    status, out, err = command(capsys, "course", "--out", tmp_path / "out",
                               "--set", f"data.preferences={given}")
    assert status == 2, out + err
    one_sentence(err.strip().splitlines()[-1], given, words)
