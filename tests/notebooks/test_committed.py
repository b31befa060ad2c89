"""The notebooks as they are stored: clean, executed, true to the helpers. Nothing is run here."""

import re

import pytest

from helpers.course import execute, expected
from helpers.course.upkeep import lint, regress

NOTEBOOKS = list(execute.notebooks().values())


def test_the_course_is_all_there():
    numbers = [f"{number:02d}" for number in range(1, 10)]
    assert [path.stem[:2] for path in NOTEBOOKS[:9]] == numbers


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_stored_notebook_is_clean(path):
    assert lint.notebook_problems(path) == []
    assert regress.unexecuted(execute.read_notebook(path)) is None


@pytest.mark.parametrize("stem", list(expected.read()))
def test_bounds_name_notebooks_and_metrics_that_exist(stem):
    path = execute.find_notebook(stem)
    shown = "\n".join(
        text for cell in execute.read_notebook(path)["cells"] if cell["cell_type"] == "code"
        for text in lint.output_texts(cell))
    recorded = {m[1]: float(m[2]) for m in
                re.finditer(r"^(\w+) +(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?: +in \d+ stored runs.*)?$",
                            shown, re.M)}
    for bound in expected.read()[stem]["bounds"]:
        ok, detail = expected.check(bound, recorded)
        assert "not recorded" not in detail, f"{bound}: {detail}"
        assert ok, f"{bound}: {detail}"
