"""Solutions told apart from the notebooks that fold them away."""

import json

import pytest

from helpers.course import execute, solutions
from helpers.errors import UserError

TEXTS = ["**1 · One.** Do it.", "<details><summary>Solution</summary>\n\n```python\nx = 1\n```\n"
         "</details>\n\n**2 · Two.** Then\nthis.", "<details>\n<summary>One of many solutions"
         "</summary>\nAnything.\n</details>", "<details><summary>Why</summary>Because.</details>"]


def notebook(folder, texts):
    cells = [{"cell_type": "markdown", "id": str(n), "metadata": {}, "source": [text]}
             for n, text in enumerate(texts)]
    path = folder / "03_small.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4,
                                "nbformat_minor": 5}), encoding="utf-8")
    return path


def test_each_solution_has_the_title_of_the_exercise_before_it(tmp_path):
    assert solutions.find(notebook(tmp_path, TEXTS)) == [
        solutions.Solution("1 · One", "```python\nx = 1\n```"),
        solutions.Solution("2 · Two", "Anything.")]


def test_a_copy_without_solutions_keeps_all_else(tmp_path, monkeypatch, capsys):
    path = notebook(tmp_path, TEXTS)
    monkeypatch.setenv("RLHF_NOTEBOOKS", str(tmp_path))
    copy = tmp_path / "handed out" / "03.ipynb"
    assert solutions.solutions("03", str(copy)) == 0
    left = ["".join(cell["source"]) for cell in json.loads(copy.read_text("utf-8"))["cells"]]
    assert left == ["**1 · One.** Do it.", "**2 · Two.** Then\nthis.", TEXTS[-1]]
    with pytest.raises(UserError, match="is there already"):
        solutions.solutions("03", str(copy))
    assert json.loads(path.read_text("utf-8"))["cells"][1]["source"] == [TEXTS[1]]
    assert solutions.solutions("3") == 0
    assert "## 03 · 2 · Two\n\nAnything." in capsys.readouterr().out


def test_a_notebook_without_solutions_says_so(tmp_path, monkeypatch):
    notebook(tmp_path, TEXTS[:1])
    monkeypatch.setenv("RLHF_NOTEBOOKS", str(tmp_path))
    with pytest.raises(UserError, match="holds no solutions"):
        solutions.solutions("03")


@pytest.mark.parametrize("number", execute.notebooks())
def test_every_exercise_of_the_course_has_its_solution(number):
    """A cell with an exercise is followed by a folded solution, which the command finds."""
    path = execute.find_notebook(number)
    found = solutions.find(path)
    cells = execute.read_notebook(path)["cells"]
    exercises = [n for n, cell in enumerate(cells)
                 if "exercise" in cell["metadata"].get("tags", [])]
    for here, after in zip(exercises, [*exercises[1:], len(cells)], strict=True):
        between = "".join("".join(cell["source"]) for cell in cells[here + 1:after])
        assert solutions.FOLDED.search(between), f"{path.name}, cell {here}"
    assert len(found) >= len(exercises) and all(one.exercise and one.text for one in found)
