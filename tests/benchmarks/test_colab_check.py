"""`make colab-check` without pip's index: its ways in, and what it finds wrong."""

import json
import sys

import pytest

from benchmarks import colab_check
from helpers.course.upkeep import opening
from helpers.errors import UserError


@pytest.fixture
def place(tmp_path):
    """This test's own Python, taken for Colab's."""
    found = colab_check.Place(tmp_path)
    found.python = type(found.python)(sys.executable)
    return found


@pytest.fixture
def small(notebook_tree):
    """A first notebook that says where it found the course."""
    return notebook_tree("01_first", opening.cell(""),
                         "(Path.cwd() / 'found.txt').write_text(str(course_folder()))")


@pytest.mark.parametrize("way, where", [("zip", "rlhf"), ("address", "rlhf-course")])
def test_a_notebook_alone_finds_the_course_by_both_ways(place, small, tmp_path, way, where):
    row = colab_check.open_alone(place, way, tmp_path / "content")
    assert row["status"] == "ok" and not row["restarted"] and row["installed"] == {}
    assert (tmp_path / "content" / "found.txt").read_text() == str(tmp_path / "content" / where)
    assert {path.name for path in (tmp_path / "content").glob("*.zip")} == (
        {"rlhf-course.zip"} if way == "zip" else set())


def test_a_notebook_that_fails_is_a_row_that_says_so(place, notebook_tree, tmp_path):
    notebook_tree("01_first", opening.cell(""), "raise SystemExit('no such film')")
    row = colab_check.open_alone(place, "zip", tmp_path / "content")
    assert "no such film" in row["status"]
    assert colab_check.wrong([row], {}) == [f"zip, 01_first: {row['status']}"]


def test_a_restart_that_is_asked_for_is_made_and_told(place, notebook_tree, tmp_path):
    notebook_tree("01_first", opening.cell(""),
                  "seen = Path('seen')\nif not seen.exists():\n    seen.touch()\n"
                  f"    raise SystemExit('{colab_check.AGAIN}')")
    row = colab_check.open_alone(place, "zip", tmp_path / "content")
    assert row["status"] == "ok" and row["restarted"]


def test_the_address_stands_in_the_first_cell_and_nothing_else_changes(small, tmp_path):
    plain = json.loads(colab_check.upload(tmp_path / "a").read_text())["cells"]
    given = json.loads(colab_check.upload(tmp_path / "b", "file:///x").read_text())["cells"]
    changed = [(was, now) for was, now in zip(plain, given, strict=True) if was != now]
    assert len(changed) == 1
    before, after = ("".join(cell["source"]) for cell in changed[0])
    assert after == before.replace('repository = ""', 'repository = "file:///x"') != before


def test_a_notebook_without_the_line_is_refused(notebook_tree, tmp_path):
    notebook_tree("01_first", "print(1)")
    with pytest.raises(UserError, match="no line repository"):
        colab_check.upload(tmp_path / "a", "file:///x")


def test_a_package_of_the_image_may_gain_a_build_and_no_other_version():
    there = {**colab_check.IMAGE, "torch": colab_check.IMAGE["torch"] + "+cpu"}
    assert colab_check.replaced(there) == {}
    assert colab_check.replaced({**there, "numpy": "2.4.6"}) == {"numpy": "2.4.6"}
    del there["datasets"]
    assert colab_check.replaced(there) == {"datasets": "gone"}


def test_what_was_installed_is_what_is_new_or_changed():
    assert colab_check.installed({"a": "1", "b": "1"}, {"a": "1", "b": "2", "c": "3"}) == {
        "b": "2", "c": "3"}


def test_an_environment_that_gained_packages_is_made_anew(place, tmp_path, monkeypatch):
    """Else what a first cell installs would be there before it."""
    monkeypatch.setattr(place, "versions", lambda: {"numpy": "2.1.3"})
    (tmp_path / "made.json").write_text(json.dumps({"numpy": "2.1.3"}))
    place.make("no-such-python")  # as it was made: nothing is called
    monkeypatch.setattr(place, "versions", lambda: {"numpy": "2.1.3", "trl": "1.12.0"})
    with pytest.raises((UserError, FileNotFoundError), match="no-such-python"):
        place.make("no-such-python")


def test_a_broken_bound_and_a_replaced_package_are_wrong():
    row = {"way": "course", "notebook": "04_x", "status": "ok", "broken": ["ece <= 0.03 (0.04)"]}
    # datasets 4.0 is older than what TRL takes: it has to go
    assert colab_check.wrong([row], {"numpy": "2.4.6", "datasets": "5.2.0"}) == [
        "the session's numpy was replaced: 2.4.6",
        "course, 04_x: ece <= 0.03 (0.04) does not hold"]


def test_a_python_that_is_not_there_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["colab_check", "--python", "no-such-python"])
    assert colab_check.main() == 2
    assert "no-such-python does not run here" in capsys.readouterr().err
