"""`make gpu-check` without a GPU: it says so, and its parts train a tiny model on the CPU."""

import json

import pytest
import torch

from benchmarks import gpu_check
from helpers.course import plan
from helpers.profiles import load_profile


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu_check"])
    assert gpu_check.main() == 2
    assert "there is no GPU here" in capsys.readouterr().err


def test_what_cannot_be_done_is_a_row_that_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_check, "NEEDS", {"nf4": ("no_such_package",)})
    monkeypatch.setattr(gpu_check, "_alone", lambda *_: {"status": "ok"})
    check = gpu_check.Check(tmp_path, None, tiny=True)
    assert gpu_check.run(check, ["nf4"], 8)[0]["status"] == (
        "not run: no_such_package is not installed")
    assert "minutes were over" in gpu_check.run(check, ["sft"], 0)[0]["status"]


@pytest.mark.parametrize("part", [name for name, (_, stage, _) in gpu_check.PARTS.items() if stage])
def test_every_part_is_what_the_profile_and_the_plan_know(part, tmp_path):
    """Full size fits the GPU that the profile is for, by the plan."""
    check = gpu_check.Check(tmp_path, None, tiny=False)
    settings = gpu_check.part_settings(check, part)
    plain = load_profile("gpt2")
    assert settings.dtype == plain.dtype and settings.device == plain.device
    settings = settings.model_copy(update={"models": settings.models.model_copy(
        update={"base": plain.models.base, "imdb_policy": plain.models.base})})
    planned = plan.plan(settings, gpu_check.PARTS[part][1], autocast=False)
    assert 0 < plan.peak(planned) < 16 * 2**30


@pytest.mark.parametrize(("accuracy", "after", "learned"), [
    (0.6, 0.3, True), (0.5, 0.3, False), (0.6, 0.1, False), (0.6, float("nan"), False),
    (None, 0.3, False)])
def test_notebooks_that_ran_have_learned_only_where_their_metrics_say_so(accuracy, after, learned):
    ran = {"04_reward_modelling": {"metrics": {"accuracy": accuracy}},
           "05_ppo_from_scratch": {"metrics": {"reward_before": 0.1, "reward_after": after}}}
    assert gpu_check.notebooks_learned(ran) is learned
    assert not gpu_check.notebooks_learned({"04_reward_modelling": ran["04_reward_modelling"]})


@pytest.mark.slow
@pytest.mark.parametrize("part", ["sft", "full", "ppo", "trl"])
def test_a_part_trains_a_tiny_model(part, tmp_path):
    check = gpu_check.Check(tmp_path, None, tiny=True)
    gpu_check.make_base(check)
    (row,) = gpu_check.run(check, [part], 30)
    assert row["status"] in ("ok", "nothing was learned"), row
    assert row["tokens_per_second"] > 0 and 0 < row["share_of_chip"] < 1
    assert json.dumps(row)
    if part == "ppo":  # policy = reference at the start
        assert abs(row["first_kl"]) < 1e-3
