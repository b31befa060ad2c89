"""Lint, sync, refresh and regress: what is stored in notebooks/ is clean, true and compared."""

import copy
import json

import pytest
import yaml

from helpers import profiles
from helpers.course import execute, runner
from helpers.course.upkeep import compare, lint, opening, refresh, regress, results, sync
from helpers.engine import rows
from helpers.errors import UserError
from helpers.paths import ROOT


def code(source, count=None, outputs=(), tags=()):
    return {"cell_type": "code", "id": f"c{abs(hash(source)) % 10**6}", "source": [source],
            "metadata": {"tags": list(tags)} if tags else {}, "execution_count": count,
            "outputs": list(outputs)}


NO_OPENING = "the first code cell is not tagged opening"  # the test's own notebooks have none


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": [text]}


def figure(alt=None, text="<Figure size 700x340 with 1 Axes>"):
    return {"output_type": "display_data", "metadata": {"image/png": {"alt": alt}} if alt else {},
            "data": {"image/png": "iVBORw0KGgo=", "text/plain": text}}


@pytest.fixture
def good():
    return {
        "nbformat": 4, "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3",
                                    "language": "python"}},
        "cells": [
            {"cell_type": "markdown", "id": "title", "metadata": {}, "source": ["# 01 · Test\n"]},
            code(opening.cell(opening.address()), 1, tags=["opening"]),
            code('profile = "embedded"\noverrides = {}\nseed = 0', 2, tags=["parameters"]),
            code("print(1)", 3, [stream("1\n")]),
        ],
    }


@pytest.fixture
def problems(tmp_path):
    def look(content):
        path = tmp_path / "01_test.ipynb"
        path.write_text(json.dumps(content))
        return lint.notebook_problems(path)
    return look


def test_a_good_notebook_passes(good, problems):
    assert problems(good) == []


def change(cell, **values):
    return lambda nb: nb["cells"][cell].update(values)


BREAKS = {
    "the first code cell is not tagged opening": change(1, metadata={}),
    "the first cell or the badge differs": change(1, source=["import sys"]),
    "tag 'parameter' is not one of ours": change(3, metadata={"tags": ["parameter"]}),
    "1 of 3 code cells are not executed": change(3, execution_count=None),
    "metadata compare is": change(3, metadata={"compare": {"numbers": "shapes"}}),
    "has execution count 5": change(3, execution_count=5),
    "code cell 3: 26 lines": change(3, source=["x = 1\n"] * 26),
    "ends in an error": change(3, outputs=[{"output_type": "error", "ename": "E", "evalue": "",
                                            "traceback": []}]),
    "a warning in the output": change(3, outputs=[stream("UserWarning: mind\n")]),
    "output on stderr": change(3, outputs=[stream("10%|", "stderr")]),
    "an absolute path in the output: /home/ann/x": change(3, outputs=[stream("in /home/ann/x\n")]),
    "an absolute path in the output: C:\\Users": change(3, outputs=[stream("in C:\\Users\\x\n")]),
    "0 cells are tagged parameters": change(2, metadata={}),
    "the parameters cell lacks overrides": change(2, source=["profile = 1\nseed = 0"]),
    "not the title `# 01 · …`": change(0, source=["# Test"]),
    "kernelspec is not python3": lambda nb: nb["metadata"]["kernelspec"].update(name="conda"),
    "widget metadata has no state": lambda nb: nb["metadata"].update(
        widgets={lint.WIDGETS: {"version_major": 2}}),
    "papermill's metadata": lambda nb: nb["metadata"].update(papermill={}),
    "differs from helper errors.UserError": change(
        3, metadata={"tags": ["source:errors.UserError"]}),
    "names nothing in helpers/errors.py": change(3, metadata={"tags": ["source:errors.Nobody"]}),
    "names no helper": change(3, metadata={"tags": ["source:nowhere.f"]}),
    "not a valid notebook": lambda nb: nb["cells"][3].pop("outputs") and None or
        nb["cells"][3].update(outputs=[{"output_type": "nonsense"}]),
    "a figure has no alternative text": change(3, outputs=[figure()]),
    "heading 'Deep' skips a level": change(0, source=["# 01 · Test\n\n### Deep\n"]),
    "2 headings of the first level": change(0, source=["# 01 · Test\n\n# Again\n"]),
    "sections are numbered 1, 3": change(0, source=["# 01 · Test\n\n## 1 · A\n\n## 3 · B\n"]),
    "the link nowhere.md leads to no file": change(0, source=["# 01 · Test\n\n[x](nowhere.md)"]),
    "the link ../../x leads to no file": change(0, source=["# 01 · Test\n\n[x](../../x)"]),
    "the link #gone leads to no heading": change(0, source=["# 01 · Test\n\n[x](#gone)"]),
    "the link ../README.md#gone leads to no heading": change(
        0, source=["# 01 · Test\n\n[x](../README.md#gone)"]),
    "the link https://nowhere is no address": change(
        0, source=["# 01 · Test\n\n[x](https://nowhere)"]),
    "there is no notebook 77": change(0, source=["# 01 · Test\n\nSee notebook\n77."]),
    "notebook 04 has no section 99": change(
        0, source=["# 01 · Test\n\nSee notebook 04,\nsection 99."]),
    "this text has no section 2": change(
        0, source=["# 01 · Test\n\n## 1 · A\n\nAs section 2 says."]),
    "71 % is typed into prose": change(0, source=["# 01 · Test\n\nPPO wins 71 % of them."]),
    "0.75 is typed into prose": change(0, source=["# 01 · Test\n\nIt comes to 0.75 in all."]),
    "a widget is shown whose state is not kept": change(
        3, outputs=[{"output_type": "display_data", "metadata": {},
                     "data": {"text/plain": "HBox()", compare.VIEW: {"model_id": "m"}}}]),
    "the widget state is not valid": lambda nb: nb["metadata"].update(
        widgets={lint.WIDGETS: {"state": {"m": {"model_name": "HBox"}}}}),
    "2.1 MB": change(3, outputs=[stream("x" * 2_100_000)]),
}


@pytest.mark.parametrize("words", BREAKS)
def test_each_fault_is_named(good, problems, words):
    BREAKS[words](good)
    assert any(words in text for text in problems(good)), problems(good)


RIGHT = """# 01 · Test

## 1 · A walk

See [the notes](../CONTRIBUTING.md#measurements), [here](#1--a-walk), [data](../data/README.md) and
https://arxiv.org/abs/1707.06347. Notebook 04, section 2, has more, and section 1 is above; Ziegler
et al. 2019, section 9, proves it. With $\\beta = 0.05$ and `kl_coef=0.04` the 95 % interval of
section 1 holds; **01.2** is an exercise, and this takes about two minutes.

```
# no heading, 12.5 and [no](link)
```

### Deeper
"""


def test_what_is_right_is_not_found_wrong(good, problems):
    good["cells"][0]["source"] = [RIGHT]
    good["cells"][3]["outputs"] = [figure("Two lines that rise."), figure(text="01 → [02] → 03")]
    assert problems(good) == []
    good["cells"][0]["source"] = ["# 01 · Test\n\nThe paper has 0.75."]
    good["cells"][0]["metadata"] = {"typed": "a published figure"}
    assert problems(good) == []


def test_a_name_that_no_cell_defines_is_found(good, tmp_path, capfd):
    path = tmp_path / "01_test.ipynb"
    path.write_text(json.dumps(good))
    assert not lint.unknown_names([path])
    good["cells"][3]["source"] = ["print(nowhere)"]
    path.write_text(json.dumps(good))
    assert lint.unknown_names([path])
    assert "nowhere" in capfd.readouterr().out


def test_a_refresh_gives_figures_the_words_of_their_cell():
    done = {"cells": [code("plot()", 1, [figure(), stream("x\n")])]}
    source = {"metadata": {}, "cells": [code("plot()")]}
    source["cells"][0]["metadata"] = {"alt": "Two lines that rise."}
    first, second = refresh.merge(source, done)["cells"][0]["outputs"]
    assert first["metadata"]["image/png"] == {"alt": "Two lines that rise."}
    assert second == stream("x\n")


def test_paths_of_the_web_and_fractions_are_no_absolute_paths(good, problems):
    text = "https://example.org/home/x and 1/2 or data/work/x, either/or ~/x ratio: a/b\n"
    good["cells"][3]["outputs"] = [stream(text)]
    assert problems(good) == []


def test_source_is_read_with_decorators_and_from_classes(tmp_path):
    (tmp_path / "toy.py").write_text(
        "import functools\n\n@functools.cache\ndef f(x):\n    '''Doc.'''\n    return x  # why\n\n\n"
        "class A:\n    def g(self):\n        return 1\n")
    assert sync.helper_source("toy.f", tmp_path) == (
        "@functools.cache\ndef f(x):\n    '''Doc.'''\n    return x  # why")
    assert sync.helper_source("toy.A.g", tmp_path) == "def g(self):\n    return 1"
    (tmp_path / "face").mkdir()
    (tmp_path / "face" / "__init__.py").write_text("from toy_face.part import g\n")
    (tmp_path / "face" / "part.py").write_text("def g():\n    return 2\n")
    assert sync.helper_source("face.g", tmp_path) == "def g():\n    return 2"
    for name in ("toy", "toy.h", "toy.A.h", "none.f", "face.h"):
        with pytest.raises(UserError):
            sync.helper_source(name, tmp_path)


def test_sync_writes_the_helper_into_tagged_cells(good, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_NOTEBOOKS", str(tmp_path))
    good["cells"][3]["metadata"] = {"tags": ["source:errors.UserError"]}
    path = tmp_path / "01_test.ipynb"
    path.write_text(json.dumps(good))
    sync.sync()
    cell = execute.read_notebook(path)["cells"][3]
    assert "".join(cell["source"]) == sync.helper_source("errors.UserError")
    assert "source:errors.UserError brought up to date" in capsys.readouterr().out
    before = path.stat().st_mtime_ns
    sync.sync()
    assert path.stat().st_mtime_ns == before
    assert "All shown sources" in capsys.readouterr().out


def test_a_refresh_keeps_results_and_drops_the_run(notebook_tree, capsys):
    path = notebook_tree(
        "01_x",
        "import sys, pathlib\nprint('a')\nprint('bar: 10%|', file=sys.stderr)\nprint('b')",
        f"print({str(ROOT)!r} + '/data/x and', pathlib.Path({str(ROOT)!r}) / 'runs')",
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass\n1 + 1")
    assert refresh.refresh(["01"]) == 0
    content = execute.read_notebook(path)
    cells = [c for c in content["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == [1, 2, 3, 4]
    assert lint.output_texts(cells[1]) == ["a\nb\n"]
    assert lint.output_texts(cells[2]) == ["data/x and runs\n"]
    assert lint.output_texts(cells[3])[-1] == "2"
    text = path.read_text()
    assert all(word not in text for word in ('papermill', '"stderr"', 'widget-view'))
    assert lint.notebook_problems(path) == [NO_OPENING]
    assert cells[0]["metadata"] == {"tags": ["parameters"]}


def test_marks_of_an_earlier_run_are_dropped(good):
    good["metadata"]["papermill"] = good["cells"][3]["metadata"]["papermill"] = {"duration": 1}
    merged = refresh.merge(good, copy.deepcopy(good))
    assert "papermill" not in json.dumps(merged)


def test_outputs_of_the_last_run_can_be_stored(notebook_tree, tmp_path, monkeypatch):
    first = notebook_tree("01_x", "print(1)")
    second = notebook_tree("02_x", "print(2)")
    here = profiles.load_profile("embedded", {"out": str(tmp_path)})
    for module in (refresh, results):
        monkeypatch.setattr(module, "load_profile", lambda name: here)
    with pytest.raises(UserError, match="run make course first"):
        refresh.refresh([], stored=True)
    runner.run([first], overrides={"out": str(tmp_path)}, seed=1)
    with pytest.raises(UserError, match="another seed"):
        refresh.refresh(["01"], stored=True)
    runner.run([first], overrides={"out": str(tmp_path)})
    assert refresh.refresh(["01"], stored=True) == 0
    assert lint.notebook_problems(first) == [NO_OPENING]
    assert lint.output_texts(execute.read_notebook(first)["cells"][2]) == ["1\n"]
    with pytest.raises(UserError, match="02_x.ipynb has not been run"):
        refresh.refresh(["02"], stored=True)
    second.rename(first)
    with pytest.raises(UserError, match="has changed since it was run"):
        refresh.refresh(["01"], stored=True)


def test_the_readme_shows_the_last_run():
    rows = {"04_reward_modelling": {"seconds": 61.2, "peak_memory_mb": 900.4,
                                    "metrics": {"accuracy": 0.7812, "ece": None}}}
    table = results.render(rows)
    assert "| 04 | 61 | 900 | accuracy 0.781 | held-out pairs |" in table
    assert "All notebooks: 1.0 minutes" in table and "| 05 |" not in table


def test_a_refresh_that_fails_changes_nothing(notebook_tree, capsys):
    path = notebook_tree("01_x", "1 / 0")
    before = path.read_bytes()
    assert refresh.refresh([]) == 1
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_nothing_to_compare_is_an_error(good, notebook_tree):
    assert regress.unexecuted(good) is None
    good["cells"][3]["execution_count"] = None
    assert "1 of 3 code cells were never executed" in regress.unexecuted(good)
    good["cells"][3].update(execution_count=3, outputs=[])
    assert "no cell has an output" in regress.unexecuted(good)
    notebook_tree("01_x", "print(1)")
    with pytest.raises(UserError, match="never executed"):
        regress.regress()


@pytest.fixture
def at(tmp_path, monkeypatch):
    """The course's runs in a folder of the test's own."""
    loaded = profiles.load_profile

    def here(name, overrides=None, seed=0):
        return loaded(name, {"out": str(tmp_path), **(overrides or {})}, seed)
    for module in (refresh, results, regress):
        monkeypatch.setattr(module, "load_profile", here)
    return tmp_path


def test_regress_takes_the_last_run_and_forgives_times(notebook_tree, at, capfd):
    path = notebook_tree("01_x", "import time\nprint('took', time.time() % 100, 's')",
                         "print('mean', 1.25, 'of', 7)", "print(0.5)")
    assert refresh.refresh([]) == 0
    assert regress.regress() == 0 and "run anew" in capfd.readouterr().out
    runner.run([path], overrides={"out": str(at)})
    assert regress.regress() == 0
    said = capfd.readouterr().out
    assert "run anew" not in said and "numbers" in said
    report = json.loads((at / "runs" / "regress" / "summary.json").read_text())
    row = {"cells_with_output": 3, "compared": 3, "by_shape": 0, "ignored": 0, "images_only": 0,
           "numbers": 3}
    assert report == {"notebooks": {"01_x": row}, **row}
    content = execute.read_notebook(path)
    content["cells"][3]["outputs"][0]["text"] = ["mean 1.27 of 7\n"]
    sync.write_notebook(path, content)
    assert regress.regress() == 1
    assert "1.27 before, 1.25 now (at most 0.01 apart)" in capfd.readouterr().out


def test_regress_runs_anew_what_is_no_longer_what_ran(notebook_tree, at, monkeypatch):
    path = notebook_tree("01_x", "print(1)")
    runner.run([path], overrides={"out": str(at)})
    assert regress.outdated([path]) is None
    with monkeypatch.context() as other:
        other.setattr(regress.provenance, "code", lambda: "other")
        assert "code or data have changed" in regress.outdated([path])
    notebook_tree("01_x", "print(2)")
    assert regress.outdated([path]) == "01_x has changed since it was run"
    notebook_tree("02_x", "print(2)")
    assert regress.outdated([path.with_name("02_x.ipynb")]) == "02_x has not been run"


GOOD_WORKFLOW = "on: push\njobs:\n  one:\n    runs-on: ubuntu-latest\n    steps:\n      - run: ls\n"


def test_workflows_are_held_against_githubs_schema(tmp_path, capfd):
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema: make setup")
    (tmp_path / "good.yml").write_text(GOOD_WORKFLOW)
    assert lint.workflow_problems(tmp_path) == []
    (tmp_path / "bad.yml").write_text(GOOD_WORKFLOW.replace("steps:", "step:"))
    assert len(lint.workflow_problems(tmp_path)) == 1
    assert "bad.yml" in "".join(capfd.readouterr())


def test_lint_says_what_to_install_where_workflows_cannot_be_checked(
        tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lint.importlib.util, "find_spec", lambda name: None)
    assert len(lint.workflow_problems(tmp_path)) == 1
    assert "pip install check-jsonschema" in capsys.readouterr().out


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def test_both_workflows_run_weekly_and_by_hand():
    for name in ("cpu.yml", "gpu.yml"):
        events = workflow(name)[True]  # YAML 1.1 reads the key `on` so
        assert "workflow_dispatch" in events
        minute, hour, day, month, weekday = events["schedule"][0]["cron"].split()
        assert day == month == "*" and weekday != "*"


def test_the_course_on_a_gpu_needs_a_runner_and_leaves_what_it_made():
    jobs = workflow("gpu.yml")["jobs"]
    assert jobs["course"]["if"] == "vars.GPU_RUNNER != ''"
    assert any(step.get("if") == "vars.GPU_RUNNER == ''" for step in jobs["runner"]["steps"])
    steps = jobs["course"]["steps"]
    kept = [step["if"] for step in steps if "upload-artifact" in step.get("uses", "")]
    assert kept == ["always()"]
    commands = " ".join(step.get("run", "") for step in steps)
    assert 'doctor --profile "$PROFILE"' in commands
    assert 'make course PROFILE="$PROFILE"' in commands
    options = workflow("gpu.yml")[True]["workflow_dispatch"]["inputs"]["profile"]["options"]
    assert set(options) == set(profiles.profile_names()) - {*profiles.MINUTES}


def test_the_readme_shows_the_forms_that_rows_may_have():
    assert (ROOT / "README.md").read_text("utf-8").count(sync.forms_table()) == 1
    for kind in sync.SHOWN_KINDS:
        for form in rows.FORMS[kind]:
            assert f"| {form.name} | `{'`, `'.join(form.columns)}` |" in sync.forms_table()


def test_sync_brings_a_stale_table_of_forms_up_to_date():
    stale = f"Before.\n\n{sync.FORMS_HEAD}\n|---|\n| old | x |\n\nBehind.\n"
    assert sync.with_forms(stale) == f"Before.\n\n{sync.forms_table()}\n\nBehind.\n"
    assert sync.with_forms("| setting | other |\n") == "| setting | other |\n"
