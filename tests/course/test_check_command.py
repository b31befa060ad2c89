"""`python -m helpers check`: a file is looked at as the loaders will read it."""

import json

import pytest

from helpers import data, feedback
from helpers.course import check
from helpers.errors import UserError
from helpers.profiles import load_profile

PAIRS = [{"prompt": f"Question {i}?", "chosen": f"A good answer, {i}.", "rejected": "No."}
         for i in range(60)]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_good_file_is_described_and_taken(tmp_path, capsys):
    path = written(tmp_path / "mine.jsonl", PAIRS)
    assert check.check(str(path)) == 0
    said = capsys.readouterr().out
    settings = load_profile("embedded", {"data.preferences": str(path)})
    counts = {split: len(data.load_pairs(settings, split)) for split in data.SPLITS}
    assert "60 rows of preferences, as in TRL, prompt apart" in said
    assert "alone it is cut into " + ", ".join(f"{n} {s}" for s, n in counts.items()) in said
    assert "more characters in 100% of the pairs" in said
    assert "chosen      A good answer, 2." in said and "good row 4" not in said
    assert f"--set data.preferences={path}" in said


def test_what_the_loaders_refuse_is_not_taken_and_every_fault_is_named(tmp_path, capsys):
    rows = [dict(row) for row in PAIRS]
    rows[3]["chosen"] = None
    rows[9]["chosen"] = 7
    rows[11]["rejected"] = rows[11]["chosen"]
    path = written(tmp_path / "mine.jsonl", rows)
    assert check.check(str(path)) == 1
    said = capsys.readouterr().out
    assert "57 good, 1 set aside, 2 that stop the loading" in said
    assert "wrong: row 4: 'chosen' is None" in said and "wrong: row 10: 'chosen' is 7" in said
    assert "set aside: row 12: the two responses are equal" in said
    with pytest.raises(UserError, match="row 4"):
        data.load_pairs(load_profile("embedded", {"data.preferences": str(path)}), "train")


@pytest.mark.parametrize("form", ["hh", "sharegpt", "messages", "arena"])
def test_good_rows_are_written_in_another_form_and_are_the_same_again(tmp_path, form, capsys):
    path, out = written(tmp_path / "mine.jsonl", PAIRS), tmp_path / "out.csv"
    assert check.check(str(path), write=str(out), form=form) == 0
    first, again = (data.load_pairs(load_profile("embedded", {"data.preferences": str(p)}), "train")
                    for p in (path, out))
    assert first == again


def test_a_file_of_no_kind_says_which_kinds_there_are(tmp_path):
    with pytest.raises(UserError, match="a, b, which is none of the course's kinds"):
        check.check(str(written(tmp_path / "mine.jsonl", [{"a": 1, "b": 2}])))
    with pytest.raises(UserError, match="does not exist"):
        check.check(str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="choose one of trl"):
        check.check(str(written(tmp_path / "mine.jsonl", PAIRS)), write="x.csv", form="other")


def test_the_words_of_a_file_do_not_steer_the_terminal(tmp_path, capsys):
    steer = "\x1b[31m\x1b]0;mine\x07\u202e"
    bad = tmp_path / "bad.csv"
    bad.write_text(f"{steer}prompt,other\nA,b\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        check.check(str(bad))
    good = written(tmp_path / "good.jsonl", [
        {"prompt": steer + str(i), "chosen": steer, "rejected": "b", steer: 1} for i in range(60)])
    check.check(str(good))
    ratings = written(tmp_path / "ratings.jsonl", [feedback.rating_row(
        "p", steer, {f"quality{steer}": 3}, annotator=f"ann{steer}")])
    check.check(str(ratings))
    shown = capsys.readouterr()
    for text in (str(caught.value), shown.out, shown.err):
        assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert r"ann\x1b[31m" in shown.out


def test_formulas_in_a_csv_for_other_programs_are_named_and_kept(tmp_path, capsys):
    rows = [{**row, "chosen": f"=1+{n}" if n < 3 else f"{n} is good"}
            for n, row in enumerate(PAIRS)]
    path, out = written(tmp_path / "mine.jsonl", rows), tmp_path / "out.csv"
    check.check(str(path), write=str(out), form="trl")
    assert "3 texts begin as a formula does" in capsys.readouterr().out
    assert "=1+2" in out.read_text() and "'=1" not in out.read_text()
    check.check(str(path), write=str(tmp_path / "out.jsonl"), form="trl")
    assert "as a formula does" not in capsys.readouterr().out
