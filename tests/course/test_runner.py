"""The runner: notebooks in order, results gathered, failures told plainly."""

import io
import json
import os
import re
import subprocess
import sys

import pytest

from helpers import profiles
from helpers.course import execute, expected, runner
from helpers.errors import UserError
from helpers.paths import ROOT

RECORD = "from helpers import course\ncourse.record(accuracy=0.8, length_accuracy=0.5)"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out {braces}"


def summary_of(out):
    return json.loads((out / "runs" / "embedded" / "summary.json").read_text())


def start(notebooks, out, **more):
    numbers = ",".join(notebooks) if notebooks else None
    overrides = {"out": str(out), **more.pop("overrides", {})}
    return runner.run(runner.choose(None, numbers), overrides=overrides, **more)


def test_metrics_time_memory_and_bounds_are_gathered(notebook_tree, out, capsys):
    notebook_tree("01_first", "import os\nassert os.getcwd().endswith('notebooks')", RECORD)
    child = "blob = bytearray(300_000_000); import time; time.sleep(3)"
    notebook_tree("02_second", "import subprocess, sys\n"
                  f"subprocess.run([sys.executable, '-c', {child!r}], check=True)")
    (notebook_tree.folder / "expected.yaml").write_text(
        "01_first: {seconds: 3, bounds: [accuracy > length_accuracy, accuracy >= 0.9]}\n")
    assert start([], out) == 0  # without enforcement a missed bound is only shown
    entries = summary_of(out)["notebooks"]
    assert list(entries) == ["01_first", "02_second"]
    assert entries["01_first"]["status"] == "ok"
    assert entries["01_first"]["metrics"] == {"accuracy": 0.8, "length_accuracy": 0.5}
    assert [b["ok"] for b in entries["01_first"]["bounds"]] == [True, False]
    assert entries["02_second"]["seconds"] >= 3
    grown = entries["02_second"]["peak_memory_mb"] - entries["01_first"]["peak_memory_mb"]
    assert grown > 200
    printed = capsys.readouterr().out
    assert "MISSED (0.8 >= 0.9)" in printed and "ok (0.8 > 0.5)" in printed
    executed = json.loads((out / "runs" / "embedded" / "01_first.ipynb").read_text())
    assert executed["cells"][-1]["execution_count"]


def test_an_enforced_bound_fails_the_run(notebook_tree, out, capsys):
    notebook_tree("01_first", RECORD)
    (notebook_tree.folder / "expected.yaml").write_text("01_first: {bounds: [recall > 0]}\n")
    assert start([], out, enforce=True) == 1
    assert "recall not recorded" in capsys.readouterr().err
    # with any override the numbers are another experiment's, and nothing is enforced
    assert start([], out, enforce=True, overrides={"ppo.kl_coef": 0.1}) == 0


def test_a_failing_cell_stops_the_run_and_is_shown(notebook_tree, out, capsys):
    notebook_tree("01_first", "x = 1", "\n# divide\ny = x / 0", "print('never')")
    notebook_tree("02_second", RECORD)
    assert start([], out) == 1
    error = capsys.readouterr().err
    assert "01_first failed in code cell 3" in error
    assert "# divide" in error and "ZeroDivisionError: division by zero" in error
    assert "Traceback" not in error
    assert list(summary_of(out)["notebooks"]) == ["01_first"]
    assert summary_of(out)["notebooks"]["01_first"]["status"] == "failed"


def test_bad_input_met_in_a_notebook_is_one_sentence(notebook_tree, out, capsys):
    notebook_tree("01_first", "from helpers.errors import UserError\nraise UserError('row 3: no.')")
    assert start([], out) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "row 3: no."


def test_a_dead_kernel_is_reported(notebook_tree, out, capsys):
    notebook_tree("01_first", "import os; os._exit(1)")
    assert start([], out) == 1
    assert "the kernel died" in capsys.readouterr().err


def test_overrides_seed_and_own_parameters_arrive(notebook_tree, out):
    own = 'profile = "embedded"\noverrides = {}\nseed = 0\nraters = 1'
    check = "from helpers import course\n" \
            "course.record(seed=seed, raters=raters, kl=overrides['ppo.kl_coef'])"
    notebook_tree("01_first", check, parameters=own)
    notebook_tree("02_second", "assert 'raters' not in globals()")
    values = runner.parse_assignments(["raters=7"])
    assert start([], out, seed=3, overrides={"ppo.kl_coef": 0.5}, parameters=values) == 0
    metrics = summary_of(out)["notebooks"]["01_first"]["metrics"]
    assert metrics == {"seed": 3, "raters": 7, "kl": 0.5}


@pytest.mark.parametrize("bad, words", [
    ({"parameters": {"rater": 1}}, "no chosen notebook has a parameter 'rater'"),
    ({"parameters": {"seed": 1}}, "use the option --seed"),
    ({"overrides": {"ppo.kl_coeff": 1}}, "unknown key 'ppo.kl_coeff'"),
    ({"overrides": {"ppo.kl_coef": "x"}}, "must be a number"),
    ({"profile": "gpt3"}, "profile 'gpt3' is not known"),
    ({"seed": -1}, "seed is -1"),
])
def test_bad_input_is_refused_before_anything_is_written(notebook_tree, out, bad, words):
    notebook_tree("01_first", RECORD)
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        start([], out, **bad)
    assert not out.exists()


def test_a_notebook_without_the_standard_parameters_is_refused(notebook_tree, out):
    notebook_tree("01_first", RECORD)
    notebook_tree("02_second", RECORD, parameters="profile = 'embedded'")
    with pytest.raises(UserError, match="02_second has no parameter 'overrides'"):
        start([], out)
    assert not out.exists()


def test_choosing_notebooks(notebook_tree):
    for number in ("03", "04", "05", "06", "07", "08"):
        notebook_tree(f"{number}_x")
    names = [p.stem[:2] for p in runner.choose(None, "5,04, 4")]
    assert names == ["04", "05"]
    assert [p.stem[:2] for p in runner.choose("ppo", None)] == ["05", "06"]
    assert len(runner.choose("full", None)) == len(runner.choose(None, None)) == 6
    for phase, numbers in ((None, "9"), (None, "x"), (None, ","), ("all", None), ("sft", "03")):
        with pytest.raises(UserError):
            runner.choose(phase, numbers)


def test_results_of_earlier_runs_stay_under_the_same_settings_only(notebook_tree, out):
    notebook_tree("01_first", RECORD)
    notebook_tree("02_second", "x = 1")
    start(["01"], out)
    start(["02"], out)
    assert list(summary_of(out)["notebooks"]) == ["01_first", "02_second"]
    start(["02"], out, seed=1)
    assert list(summary_of(out)["notebooks"]) == ["02_second"]


def test_values_are_read_as_yaml():
    pairs = ["a.b=0.1", "c=true", "d=text", "e=null", "f=", "g=x=y"]
    assert runner.parse_assignments(pairs) == {
        "a.b": 0.1, "c": True, "d": "text", "e": None, "f": None, "g": "x=y"}
    for bad in ("novalue", "=3", "a=[1"):
        with pytest.raises(UserError):
            runner.parse_assignments([bad])


@pytest.mark.parametrize("name", ["my/pairs #1.jsonl", "#1.csv", "a: b.csv", "[1] x.csv", "007",
                                  "*.csv", "null", "true", "{x}.csv", "C:\\data\\x.csv", "@x"])
def test_what_names_a_file_is_not_read_as_yaml(name):
    for key in (*profiles.SOURCES, "data.root", "out"):
        assert runner.parse_assignments([f"{key}= {name}"]) == {key: name}
        assert runner.parse_assignments([f"{key}='{name}'"]) == {key: name}


def test_what_stands_behind_a_hash_is_no_comment():
    read = runner.parse_assignments(
        ["my_pairs=my/pairs #1.csv", "quoted='a #1'", "number=3", "list=[a, b]"], "--parameter")
    assert read == {"my_pairs": "my/pairs #1.csv", "quoted": "a #1", "number": 3,
                    "list": ["a", "b"]}


def test_a_path_given_as_a_parameter_is_looked_up_where_it_was_typed(
        notebook_tree, tmp_path, monkeypatch):
    path = notebook_tree("01_first", parameters='profile = "embedded"\noverrides = {}\nseed = 0\n'
                                                'my_pairs = ""\nmore = []')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine #1.csv").write_text("text,label\n")
    (tmp_path / "words").mkdir()

    def given(**own):
        return runner._parameters([path], "embedded", {}, 0, own)[path]

    there = str(tmp_path / "mine #1.csv")
    assert given(my_pairs="mine #1.csv")["my_pairs"] == there
    assert given(more=["./mine #1.csv", "owner/name"])["more"] == [there, "owner/name"]
    for other in ("words", "none.csv", "", 3, None, "owner/name"):
        assert given(my_pairs=other)["my_pairs"] == other


def test_paths_are_made_absolute_and_words_are_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").mkdir()
    (tmp_path / "mine.csv").write_text("text,label\n")
    fixed = runner.absolute_paths({
        "data.reviews": "mine.csv", "data.preferences": "../not/there", "out": "o",
        "models.base": "embedded", "models.classifier": "owner/name", "ppo.kl_coef": 0.1})
    assert fixed == {
        "data.reviews": str(tmp_path / "mine.csv"),
        "data.preferences": str(tmp_path.parent / "not" / "there"), "out": str(tmp_path / "o"),
        "models.base": "embedded", "models.classifier": "owner/name", "ppo.kl_coef": 0.1}


def test_a_goal_is_judged_and_shown_but_fails_nothing(notebook_tree, out, capsys):
    notebook_tree("01_first", RECORD)
    expected = notebook_tree.folder / "expected.yaml"
    expected.write_text("01_first: {bounds: [accuracy > 0.5], goals: [accuracy >= 0.9]}\n")
    assert start([], out, enforce=True) == 0
    assert "goal, NOT REACHED (0.8 >= 0.9)" in capsys.readouterr().out
    expected.write_text("01_first: {bounds: [accuracy >= 0.9]}\n")
    assert start([], out, enforce=True) == 1


def test_bounds_are_comparisons_of_metrics():
    metrics = {"a": 2.0, "b": 1.0, "lost": None}
    assert expected.check("a - b >= 0.5 * a", metrics) == (True, "1 >= 1")
    assert expected.check("a < b", metrics) == (False, "2 < 1")
    assert expected.check("lost > 0", metrics) == (False, "lost not recorded")
    assert expected.margin("a - b >= 0.4 * a", metrics) == pytest.approx(0.2)
    assert expected.margin("a < b", metrics) == -1 and expected.margin("b < a", metrics) == 1
    with pytest.raises(UserError, match="lost not recorded"):
        expected.margin("lost > 0", metrics)
    assert expected.check("a / (b - b) > 1", metrics) == (False, "nan > 1")
    assert not expected.check("a / (b - b) < 1", metrics)[0]
    with pytest.raises(UserError, match="divides by 0"):
        expected.margin("a / 0 > 1", metrics)
    for text in ("a", "a <", "a < b < 3", "__import__('os') == 1", "a.real > 1"):
        with pytest.raises(UserError):
            expected.check(text, metrics)


def command(*arguments, cwd=ROOT, **env):
    return subprocess.run([sys.executable, "-m", "helpers", *arguments], cwd=cwd, text=True,
                          capture_output=True, env={**os.environ, **env})


@pytest.mark.parametrize("arguments", [
    ["run", "--notebooks", "99"],
    ["run", "--phase", "nothing"],
    ["run", "--profile", "gpt3"],
    ["run", "--set", "ppo.nothing=1"],
    ["run", "--set", "data.reviews"],
    ["run", "--seed", "x"],
    ["run", "--seed", str(2**64)],
    ["run", "--set", "sft.epochs=.nan"],
    ["run", "--out", "/etc/passwd"],
    ["run", "--set", "data.reviews=\x1b[31m"],
    ["fly"],
    ["bench", "nothing"],
])
def test_the_command_line_refuses_in_one_sentence(notebook_tree, arguments):
    notebook_tree("01_first", RECORD)
    before = set((ROOT / "runs").rglob("*")) if (ROOT / "runs").exists() else set()
    done = command(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "\x1b" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert (set((ROOT / "runs").rglob("*")) if (ROOT / "runs").exists() else set()) == before


def test_the_command_line_runs_notebooks(notebook_tree, tmp_path):
    notebook_tree("03_x", "import sys; print('noise', file=sys.stderr)", RECORD)
    done = command("run", "--phase", "sft", "--out", str(tmp_path / "o"), "--set", "seed_=1")
    assert done.returncode == 2
    done = command("run", "--phase", "sft", "--out", str(tmp_path / "o"))
    assert done.returncode == 0, done.stderr
    assert "03_x" in done.stdout and "accuracy" in done.stdout
    assert (tmp_path / "o" / "runs" / "embedded" / "summary.json").is_file()
    assert not (tmp_path / "o" / "artifacts").exists()


def test_a_worker_tells_progress_and_errors(notebook_tree, tmp_path, capsys):
    parameters = {"profile": "embedded", "overrides": {}, "seed": 0}
    good = notebook_tree("01_good", "print('hello')")
    execute.execute_in_worker(good, tmp_path / "o" / good.name, parameters)
    assert (tmp_path / "o" / good.name).is_file()
    with pytest.raises(UserError, match="01_good has no parameter 'raters'"):
        execute.execute_in_worker(good, tmp_path / "o" / good.name, {"raters": 3})
    bad = notebook_tree("02_bad", "1 / 0")
    with pytest.raises(RuntimeError, match=r"02_bad failed in code cell 2 \(`1 / 0`\): ZeroDiv"):
        execute.execute_in_worker(bad, tmp_path / "o" / bad.name, parameters)
    user = notebook_tree("03_user", "from helpers.errors import UserError\nraise UserError('no.')")
    with pytest.raises(UserError, match=r"^no\.$"):
        execute.execute_in_worker(user, tmp_path / "o" / user.name, parameters)


@pytest.mark.parametrize(("kernel", "bar"), [(None, False), (object(), True)])
def test_a_log_file_sees_lines_and_a_notebook_a_bar(monkeypatch, kernel, bar):
    import IPython

    from helpers.course import progress

    monkeypatch.delenv("RLHF_NO_PROGRESS", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(IPython, "get_ipython", lambda: kernel)  # which ipykernel has loaded
    with progress.Bar("01_first") as shown:
        assert (not shown.bar.disable, not shown.log) == (bar, bar)


def test_two_runs_in_one_folder_keep_each_others_rows(out):
    settings = profiles.load_profile("embedded", {"out": str(out)})
    first, second = runner._Summary(settings), runner._Summary(settings)
    first.add("01_first", {"status": "ok"})
    second.add("02_second", {"status": "ok"})
    first.add("03_third", {"status": "ok"})
    second.add("02_second", {"status": "failed"})
    rows = summary_of(out)["notebooks"]
    assert list(rows) == ["01_first", "02_second", "03_third"]
    assert rows["02_second"]["status"] == "failed"
    other = runner._Summary(profiles.load_profile("embedded", {"out": str(out)}, seed=1))
    other.add("04_fourth", {"status": "ok"})
    assert list(summary_of(out)["notebooks"]) == ["04_fourth"]  # of other settings: begins anew
    first.add("05_fifth", {"status": "ok"})
    assert list(summary_of(out)["notebooks"]) == ["01_first", "03_third", "05_fifth"]


ADDING = """
import sys
from helpers import profiles
from helpers.course import runner
summary = runner._Summary(profiles.load_profile("embedded", {"out": sys.argv[1]}))
for n in range(25):
    summary.add(f"{sys.argv[2]}_{n}", {"status": "ok"})
"""


def test_rows_added_at_the_same_time_are_all_there(out):
    runs = [subprocess.Popen([sys.executable, "-c", ADDING, str(out), who], cwd=ROOT)
            for who in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    assert len(summary_of(out)["notebooks"]) == 50


def unused_pid():
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    return gone.pid


def test_what_killed_runs_left_is_removed_and_what_runs_is_left_alone(notebook_tree, out):
    notebook_tree("01_first", RECORD)
    runs = out / "runs" / "embedded"
    runs.mkdir(parents=True)
    names = [f"summary.{unused_pid()}.part", f".01_first.metrics.{unused_pid()}.part"]
    others = [f"summary.{os.getppid()}.part", "mine.part", "notes.7.txt"]
    for name in (*names, *others):
        (runs / name).write_text("{}")
    assert start([], out) == 0
    there = {path.name for path in runs.iterdir()}
    assert not there & set(names) and there >= set(others)
    assert not [name for name in there - set(others) if name.endswith(".part")]


@pytest.mark.parametrize(("code", "advice"), [
    ("raise MemoryError", "Memory ran out.*doctor"),
    ("import numpy; numpy.empty(10**17)", "Memory ran out.*doctor"),
    ("import torch; torch.empty(10**15)", "Memory ran out.*doctor"),
    ("import os; os._exit(1)", "Memory ran out.*doctor"),
    ("open('/dev/full', 'w').write('x' * 10**6)", "The disk is full.*--out"),
    ("1 / 0", None),
])
def test_a_cell_that_failed_for_want_of_memory_or_disk_says_what_helps(
        notebook_tree, out, capsys, code, advice):
    if "/dev/full" in code and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full (Linux)")
    notebook_tree("01_first", code)
    assert start([], out) == 1
    said = capsys.readouterr().err
    assert re.search(advice, said, re.DOTALL) if advice else not re.search("ran out|is full", said)
