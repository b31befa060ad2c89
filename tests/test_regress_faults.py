"""The faults of `tests/regress_faults.py`: each can reach its notebook, and a verdict is one."""

import ast
import json

import pytest

import tests.regress_faults as asked
from benchmarks.shared import store
from helpers.course import execute
from helpers.engine import artifacts
from helpers.profiles import load_profile
from tests.faults import LINKED, ROOT, copy, keep, sowing, sown
from tests.regress_faults import FAULTS, Verdict

# What nbval prints of a red cell, with its colours.
RED = """..F..
=================================== FAILURES ===================================
__________________________ notebooks/01_x.ipynb::Cell 7 __________________________
\x1b[91mNotebook cell execution failed\x1b[0m
\x1b[94mCell 7: Cell outputs differ

Input:
\x1b[0mprint("Cell 1:", mean)

\x1b[94mTraceback:\x1b[0m
0.41 before, 0.43 now (at most 0.01 apart) in 'mean 0.43'
0.2 before, 0.9 now (at most 0.1 apart) in 'low 0.9'

__________________________ notebooks/01_x.ipynb::Cell 9 __________________________
\x1b[94mTraceback:\x1b[0m
another
"""

GREEN = Verdict(False)


def cells(number):
    return execute.sources(execute.read_notebook(execute.find_notebook(number)))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_sown_and_reaches_its_notebook(fault):
    good = (ROOT / "helpers" / fault.file).read_text(encoding="utf-8")
    tree = ast.parse(good)
    assert ast.dump(ast.parse(sown(fault))) != ast.dump(tree)
    module = fault.file.removesuffix(".py").replace("/", ".")
    for stage in asked.needs(fault.notebook):  # or the stage would be made anew
        assert module not in artifacts.MADE_BY[stage]
    line = good[: good.index(fault.old)].count("\n") + 1
    around = [node.name for node in tree.body
              if hasattr(node, "name") and node.lineno <= line <= node.end_lineno]
    assert len(around) == 1
    shown = [cell for cell in cells(fault.notebook) if f"def {around[0]}(" in cell]
    assert not shown, f"the notebook defines {around[0]} itself"


def test_there_are_enough_faults_and_no_two_of_one_name():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 12
    assert {fault.notebook for fault in FAULTS} >= {"01", "09", "10"}


def test_what_a_notebook_needs_is_read_from_its_cells():
    assert asked.needs("01") == []
    assert asked.needs("09") == ["sft", "reward_model"]
    assert set(asked.needs("10")) == {s for s, (made_in, _) in artifacts.MAKERS.items() if made_in}


def test_without_stages_and_elsewhere_a_sentence_says_what_to_run_first(tmp_path, monkeypatch):
    stored = execute.read_notebook(execute.find_notebook("01"))["metadata"]["course"]["machine"]
    monkeypatch.setattr(asked.provenance, "machine", lambda: stored)
    assert asked.not_ready("01") is None
    monkeypatch.setattr(asked.provenance, "machine", lambda: "another")
    assert "run `python -m helpers refresh 01` first" in asked.not_ready("01")
    monkeypatch.setattr(asked, "load_profile",
                        lambda name: load_profile(name, {"out": str(tmp_path)}))
    assert asked.not_ready("09") == ("Notebook 09 builds on the stage sft, which does not exist "
                                     "yet: run `make course` first.")
    monkeypatch.setattr(artifacts, "stale", lambda *_: None)
    monkeypatch.setattr(artifacts, "aged", lambda *_: "was made by other code")
    assert "which was made by other code" in asked.not_ready("09")


def test_the_copy_has_notebooks_of_its_own(tmp_path):
    copy(tmp_path, asked.OWN, [name for name in LINKED if name not in asked.OWN])
    for name in ("helpers", "notebooks", "benchmarks"):
        assert (tmp_path / name).is_dir() and not (tmp_path / name).is_symlink()
    assert (tmp_path / "data").is_symlink()


def test_the_first_red_cell_and_its_first_difference_are_read():
    assert asked.first_of(RED) == (
        "Cell 7", "0.41 before, 0.43 now (at most 0.01 apart) in 'mean 0.43'")
    with pytest.raises(RuntimeError, match="names no cell"):
        asked.first_of("ERROR: file not found")


@pytest.fixture
def says(tmp_path, monkeypatch):
    """A function: what `run` and `regress` answer in a copy that is only a folder."""
    def answer(run=(0, ""), regress=(0, ""), error=None):
        def command(folder, *words):
            if words[0] == "run":
                runs = folder / "runs" / "embedded"
                runs.mkdir(parents=True)
                stem = execute.find_notebook(words[2]).stem
                if error:
                    summary = {"notebooks": {stem: {"status": "failed", "error": error}}}
                    (runs / "summary.json").write_text(json.dumps(summary))
            return run if words[0] == "run" else regress
        monkeypatch.setattr(asked, "command", command)
        return asked.ask("01", tmp_path)
    return answer


def test_a_verdict_is_what_regress_said_of_this_run(says):
    assert says() == GREEN
    assert says(regress=(1, RED)).cell == "Cell 7"
    for regress in ((0, "The notebooks are run anew (code or data have changed)."), (2, "no")):
        with pytest.raises(RuntimeError, match="compared nothing"):
            says(regress=regress)


def test_a_notebook_that_fails_is_red_and_a_run_that_never_began_is_no_verdict(says):
    error = {"cell": 4, "line": "1 / 0", "kind": "ZeroDivisionError", "message": "by zero"}
    assert says(run=(1, ""), error=error) == Verdict(
        True, "code cell 4 failed", "ZeroDivisionError: by zero")
    with pytest.raises(RuntimeError, match="ended with 2"):
        says(run=(2, "no such notebook"))


@pytest.fixture
def looked(tmp_path, monkeypatch):
    """A function: the row of a fault whose notebook printed one text before and one now."""
    def look(before, now, verdict=GREEN):
        fault, name = FAULTS[0], execute.find_notebook(FAULTS[0].notebook).name
        file = tmp_path / "helpers" / fault.file
        file.parent.mkdir(exist_ok=True)
        file.write_text(fault.old)
        for folder, text in (("good", before), ("runs/embedded", now)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            cell = {"cell_type": "code", "metadata": {}, "source": [], "outputs": [
                {"output_type": "stream", "name": "stdout", "text": [text]}]}
            (tmp_path / folder / name).write_text(json.dumps({"cells": [cell]}))

        def ask(number, folder):
            assert file.read_text() == fault.new
            return verdict
        monkeypatch.setattr(asked, "ask", ask)
        row = asked.look_for(fault, tmp_path)
        assert file.read_text() == fault.old
        return row
    return look


def test_what_regress_missed_is_told_from_what_changed_no_result(looked):
    assert looked("a 0.50 in 3 s", "a 0.50 in 4 s")["result"] == "changes no result"
    row = looked("a 0.50 in 3 s", "a 0.51 in 3 s")  # one unit, which regress forgives
    assert row["result"] == "missed" and not row["caught"]
    row = looked("a 0.50", "a 0.70", Verdict(True, "Cell 0", "0.50 before"))
    assert (row["result"], row["caught"], row["cell"]) == ("caught", True, "Cell 0")


def test_a_fault_is_taken_out_again_when_something_breaks(tmp_path):
    file = tmp_path / "helpers" / FAULTS[0].file
    file.parent.mkdir()
    file.write_text(FAULTS[0].old)
    with pytest.raises(KeyError), sowing(FAULTS[0], tmp_path):
        raise KeyError
    assert file.read_text() == FAULTS[0].old


@pytest.fixture
def asking(monkeypatch):
    """`main` on notebook 01 with nothing run: verdicts by turn; what was stored, and the status."""
    def go(first, *others):
        turns, kept = iter([first, *others]), []
        monkeypatch.setattr(asked, "not_ready", lambda number: None)
        monkeypatch.setattr(asked, "copy", lambda folder, *_: (folder / "runs/embedded").mkdir(
            parents=True))
        monkeypatch.setattr(asked.shutil, "copy2", lambda *_: None)
        monkeypatch.setattr(asked, "ask", lambda *_: next(turns))
        monkeypatch.setattr(asked, "look_for", lambda fault, _: {
            "fault": fault.name, "seconds": 1, **next(turns)})
        monkeypatch.setattr(asked, "keep", lambda name, faults, rows: kept.append(
            [row["fault"] for row in rows]) or ROOT / f"{name}.json")
        names = [fault.name for fault in FAULTS[: len(others)]]
        return asked.main(["--only", *(names or [FAULTS[0].name])]), kept
    return go


def test_nothing_is_sown_before_a_green_run_and_all_must_be_caught(asking, capsys):
    caught = {"result": "caught", "caught": True, "cell": "Cell 1"}
    idle = {"result": "changes no result", "caught": False, "cell": None}
    assert asking(Verdict(True, "Cell 3", "0.1 before")) == (1, [])
    assert "red without any fault: Cell 3" in capsys.readouterr().err
    status, kept = asking(GREEN, caught, caught)
    assert status == 0 and [len(rows) for rows in kept] == [1, 2]
    assert asking(GREEN, caught, idle)[0] == 1
    assert "1 of 2 faults were caught; 1 changed no result" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        asked.main(["--only", "no such fault"])


def test_rows_of_other_faults_stay_and_stand_in_the_order_of_the_list(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    a, b, c = FAULTS[:3]
    for fault, caught in ((c, True), (a, False), (b, True), (a, True)):
        keep("some", FAULTS, [{"fault": fault.name, "caught": caught}])
    stored = store.load("some")
    assert [row["fault"] for row in stored["rows"]] == [a.name, b.name, c.name]
    assert stored["caught"] == 3


def test_of_each_notebook_that_was_asked_nine_of_ten_stored_faults_were_caught():
    stored = store.load("regress_faults")
    assert stored is not None
    rows = {row["fault"]: row for row in stored["rows"]}
    numbers = {row["notebook"] for row in rows.values()}
    assert list(rows) == [fault.name for fault in FAULTS if fault.notebook in numbers]
    assert not [row for row in rows.values() if row["result"] == asked.NO_RESULT]
    assert sum(row["caught"] for row in rows.values()) >= 0.9 * len(rows) > 0
    assert all(row["cell"] for row in rows.values() if row["caught"])
    assert stored["date"] and stored["machine"]
