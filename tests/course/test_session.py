"""What notebooks call: quiet and repeatable start, verdicts, records, the pipeline figure."""

import json
import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from helpers import course, profiles
from helpers.course import report, session
from helpers.errors import UserError
from helpers.paths import ROOT


@pytest.fixture(autouse=True)
def clean_process(monkeypatch):
    import torch

    for name in (*session.QUIET, "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
                 "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(session, "session", {"profile": None, "started": 0.0})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_start_fixes_seeds_and_threads():
    import torch

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    settings = course.start("embedded", {"threads": 1}, 7)
    first = draw()
    assert settings.seed == 7 and torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
    course.start("embedded", {"threads": 1}, 7)
    assert draw() == first
    course.start("embedded", {"threads": 1}, 8)
    assert draw() != first


def test_the_hub_is_off_unless_a_setting_names_a_hub_id(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
    course.start("embedded", {"data.reviews": str(tmp_path)})
    assert os.environ["HF_HUB_OFFLINE"] == "1" and constants.HF_HUB_OFFLINE
    course.start("embedded", {"models.base": "owner/name"})
    assert "HF_HUB_OFFLINE" not in os.environ and not constants.HF_HUB_OFFLINE
    course.start("embedded")
    assert os.environ["HF_HUB_OFFLINE"] == "1" and constants.HF_HUB_OFFLINE


def test_a_choice_of_the_reader_about_the_hub_is_kept(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    course.start("embedded")
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_hub_ids_are_told_from_words_and_paths(tmp_path):
    settings = profiles.load_profile("gpt2", {"models.classifier": str(tmp_path)})
    assert settings.models.base in session.hub_ids(settings)
    assert str(tmp_path) not in session.hub_ids(settings)
    assert session.hub_ids(profiles.load_profile("embedded")) == []
    more = profiles.load_profile("embedded", {"models.candidates": ["owner/name", str(tmp_path)]})
    assert session.hub_ids(more) == ["owner/name"]
    for source in ("Anthropic/hh-rlhf/helpful-base", "allenai/preference-datasets-tulu:shp_2"):
        settings = profiles.load_profile("embedded", {"data.preferences": source})
        assert session.hub_ids(settings) == [source]


def test_records_are_printed_and_handed_over(tmp_path, monkeypatch, capsys):
    target = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("RLHF_METRICS_FILE", str(target))
    monkeypatch.setitem(session.session, "stock", False)  # no ranges of stored runs behind them
    course.record(accuracy=np.float32(0.75), pairs=1000)
    course.record(kl=float("nan"))
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert rows == [{"accuracy": 0.75, "pairs": 1000}, {"kl": None}]
    assert capsys.readouterr().out.splitlines() == [
        "accuracy  0.75", "pairs     1000", "kl  not a finite number"]
    for bad in ("high", None, np.ones(2), True):
        with pytest.raises((UserError, TypeError)):
            course.record(accuracy=bad)


@pytest.mark.parametrize("numbers, sentence", [
    ((0.61, 0.57, 0.65, 0.5, "%"), "PPO wins: 61 % [57, 65]."),
    ((0.52, 0.47, 0.57, 0.5, "%"),
     "Not shown: PPO wins: 52 % [47, 57], which holds 50."),
    ((0.40, 0.35, 0.45, 0.5, "%"), "The opposite of: PPO wins: 40 % [35, 45], all below 50."),
    ((0.53, 0.5004, 0.56, 0.5, "%"), "PPO wins: 53.00 % [50.04, 56.00]."),
    ((1.5, 0.5, 2.5, 0.0, "nats"), "PPO wins: 1.50 nats [0.50, 2.50]."),
    ((0.0, -0.001, 0.0, 0.0, ""),
     "Not shown: PPO wins: 0.000 [-0.001, 0.000], which holds 0."),
    ((float("nan"), 0, 1, 0.5, ""), "PPO wins: cannot be judged, a number is not finite."),
])
def test_a_verdict_follows_from_number_and_interval(numbers, sentence, capsys):
    estimate, low, high, null, unit = numbers
    assert course.verdict("PPO wins", estimate, low, high, null=null, unit=unit) is None
    assert capsys.readouterr().out.strip() == sentence


def test_a_claim_set_in_stays_so_when_it_is_not_shown():
    for numbers, start in (((0, -1, 1), "Not shown: "), ((-2, -3, -1), "The opposite of: ")):
        for margin in ("   ", "\n"):
            assert report.verdict_sentence(f"{margin}it fell", *numbers).startswith(
                f"{margin}{start}it fell: ")


def test_an_interval_upside_down_is_refused():
    with pytest.raises(UserError, match="upside down"):
        course.verdict("x", 0.5, 0.6, 0.4)


def test_a_stored_benchmark_is_read_with_its_origin_and_a_missing_one_named(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    stored = {"date": "2026-01-02", "commit": "abc", "machine": "a box", "rows": [1]}
    (folder / "speed.json").write_text(json.dumps(stored))
    assert course.benchmark("speed") == stored
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("2026-01-02", "abc", "a box"))
    assert course.benchmark("depth") is None
    assert "python benchmarks/depth.py" in capsys.readouterr().out


def test_the_pipeline_lights_one_notebook(monkeypatch):
    shown = []
    monkeypatch.setattr(report, "_show", shown.append)
    for number in ("04", "5", 6):
        course.pipeline(number)
    texts = [bundle["text/plain"] for bundle in shown]
    assert "[04 Reward model]" in texts[0] and "[05 PPO]" in texts[1] and "[06 PPO]" in texts[2]
    assert all(text.count("[") == 1 for text in texts)
    assert len({bundle["image/png"] for bundle in shown}) == 3
    assert max(len(bundle["image/png"]) for bundle in shown) < 40_000
    with pytest.raises(UserError, match="no notebook '99'"):
        course.pipeline("99")


def test_every_notebook_stands_in_the_pipeline():
    from helpers.course import execute

    steps = {step for step, _, _ in report.STEPS}
    assert set(execute.notebooks()) <= steps


def test_versions_are_printed(capsys):
    course.versions()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python") and any(line.startswith("torch") for line in lines)


def test_a_user_error_in_a_notebook_is_one_line_and_still_an_error(notebook_tree, tmp_path):
    from helpers.course import execute

    path = notebook_tree("01_x", "from helpers import course\ncourse.start()",
                         "from helpers.errors import UserError\nraise UserError('row 3: no.')")
    result = execute.execute(path, tmp_path / "o.ipynb", {})
    assert result.error["kind"] == "UserError" and result.error["message"] == "row 3: no."
    cells = json.loads((tmp_path / "o.ipynb").read_text())["cells"]
    shown = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert [o["traceback"] for o in shown] == [["UserError: row 3: no."]]


def test_start_leaves_nothing_on_the_screen():
    code = """
    from helpers import course
    course.start("embedded")
    import warnings, torch, transformers
    warnings.warn("advice of a library", FutureWarning)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, text=True,
                          capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("profile", "overrides", "warned"), [
    ("embedded", {}, False), ("gpt2", {}, True), ("a100", {}, True), ("smollm2", {}, False),
    ("embedded", {"data.demonstrations": "Anthropic/hh-rlhf/harmless-base"}, True)])
def test_where_hh_is_shown_a_warning_comes_first(capsys, profile, overrides, warned):
    course.text_warning(profiles.load_profile(profile, overrides))
    assert capsys.readouterr().out.startswith("A warning: ") is warned


def test_without_a_number_of_threads_pytorch_keeps_its_own():
    import torch

    torch.set_num_threads(3)
    session.start("embedded", {"threads": None})
    assert torch.get_num_threads() == 3 and "OMP_NUM_THREADS" not in os.environ
    session.start("embedded", {"threads": 2})
    assert torch.get_num_threads() == 2 and os.environ["OMP_NUM_THREADS"] == "2"


def test_a_report_says_each_finding_once_in_both_files_under_its_question(tmp_path):
    findings = [("Better?", "A <b> beats B", (0.62, 0.58, 0.67), 0.5, "%"),
                ("At what cost?", "it forgot", (0.01, -0.02, 0.03), 0.0, "bits per byte"),
                ("Better?", "its score is higher", (0.3, 0.2, 0.4), 0.0, ""),
                ("At what cost?", "it is kind", (-0.3, -0.4, -0.2), 0.0, ""),
                ("How far?", "KL", (6.8, 6.3, 7.4), None, "nats")]
    markdown, page = (file.read_text(encoding="utf-8") for file in report.write_report(
        tmp_path / "new", "A & B", findings))
    assert markdown == (
        "# A & B\n\n## Better?\n\nShown: 2 of 2.\n\n- A <b> beats B: 62 % [58, 67].\n- its score "
        "is higher: 0.30 [0.20, 0.40].\n\n## At what cost?\n\nShown: 0 of 2; of 1 the opposite.\n\n"
        "- Not shown: it forgot: 0.010 bits per byte [-0.020, 0.030], which holds 0.\n"
        "- The opposite of: it is kind: -0.30 [-0.40, -0.20], all below 0.\n\n"
        "## How far?\n\n- KL: 6.80 nats [6.30, 7.40].\n")
    assert "<h1>A &amp; B</h1>" in page and "A &lt;b&gt; beats B: 62 % [58, 67]." in page
    assert "<p>Shown: 0 of 2; of 1 the opposite.</p>" in page
    assert page.count("<li>") == 5 and page.count("<h2>") == 3 and page.count("<p>") == 2
    with pytest.raises(UserError, match="at least one finding"):
        report.write_report(tmp_path, "none", [])


def test_a_number_without_a_claim_is_told_with_its_interval_and_not_judged():
    for estimate, low, high in ((6.8, 6.3, 7.4), (0, -1, 1), (-2, -3, -1)):
        said = report.verdict_sentence("KL", estimate, low, high, null=None, unit="nats")
        assert said == f"KL: {estimate:.2f} nats [{low:.2f}, {high:.2f}]."


def test_a_difference_of_shares_is_told_in_percentage_points():
    assert report.verdict_sentence("More", 0.24, 0.17, 0.31, unit="percentage points") == (
        "More: 24 percentage points [17, 31].")
