"""A profile against machines: what fits, what would not work, and in what words."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.course import cli, doctor, fit
from helpers.paths import ROOT
from helpers.profiles import load_profile

sys.path.insert(0, str(Path(__file__).parents[1] / "hub"))
from server import LocalHub

GB = 2**30
PACKAGES = frozenset({"bitsandbytes", "peft"})
LAPTOP = fit.Machine(memory=7 * GB, disk=100 * GB, cores=4, packages=PACKAGES)
T4 = replace(LAPTOP, gpu="Tesla T4", gpu_memory=15 * GB, cores=2, memory=12 * GB)
A100 = replace(LAPTOP, gpu="A100-SXM4-40GB", gpu_memory=39 * GB, gpu_bfloat16=True, cores=12)


def verdict(profile, machine, overrides=None, found=()):
    return fit.would_not_work(load_profile(profile, overrides), machine, found)


@pytest.mark.parametrize(("profile", "machine"), [
    ("embedded", LAPTOP), ("smollm2", LAPTOP), ("gpt2", T4), ("smollm2", T4), ("gpt2", A100),
    ("a100", A100)])
def test_a_profile_works_on_the_machine_it_is_meant_for(profile, machine):
    assert verdict(profile, machine)[0] == []


def test_without_a_gpu_the_large_profiles_say_that_they_need_one():
    for profile in ("gpt2", "a100"):
        assert f"the profile {profile} needs a GPU" in verdict(profile, LAPTOP)[0][0]
    asked = verdict("smollm2", LAPTOP, {"device": "cuda"})[0]
    assert "asks for a GPU" in asked[0]


def test_a_gpu_without_bfloat16_is_told_which_precision_it_gets():
    broken, limits = verdict("gpt2", T4)
    assert not broken and limits == [
        "Tesla T4 has no bfloat16 of its own: weights and products stay in float32."]
    assert "take dtype=auto" in verdict("gpt2", T4, {"dtype": "bfloat16"})[0][0]
    assert fit.precision(load_profile("gpt2"), T4) == {
        "half": False, "autocast": False, "on_cpu": False}


def test_the_large_profile_does_not_fit_a_small_gpu_and_says_which_stage():
    broken, _ = verdict("a100", replace(T4, gpu_bfloat16=True))
    assert any(text.startswith("stage reward_model needs ") and "Tesla T4 has 13.5" in text
               for text in broken)


def test_missing_packages_are_named_with_the_command_that_brings_them():
    broken, _ = verdict("a100", replace(A100, packages=frozenset()))
    assert ["pip install bitsandbytes" in text for text in broken] == [True, False]
    assert "pip install peft" in broken[1]
    assert verdict("gpt2", replace(T4, packages=frozenset()))[0] == []


def test_a_disk_that_is_too_small_for_what_is_to_be_fetched():
    large = fit.Download("Qwen/Qwen2.5-7B", 15 * GB, 15 * GB, "hub")
    broken, _ = verdict("a100", replace(A100, disk=10 * GB), found=[large])
    assert len(broken) == 1 and broken[0].startswith("15.0 GB of downloads")
    assert verdict("a100", replace(A100, disk=10 * GB), found=[replace(large, missing=0)])[0] == []


def test_what_is_not_on_the_hub_would_not_work():
    gone = fit.Download("someone/gone", None, None, "hub", "is not on the hub, or is private")
    assert verdict("gpt2", T4, found=[gone])[0] == [
        "someone/gone is not on the hub, or is private."]


@pytest.mark.parametrize(("machine", "status", "last"), [
    (A100, 0, "The profile a100 fits this machine."),
    (LAPTOP, 1, "The profile a100 would not run here.")])
def test_doctor_prints_the_plan_and_says_by_its_status_whether_it_would_work(
        monkeypatch, capsys, machine, status, last):
    monkeypatch.setattr(fit, "this_machine", lambda: machine)
    monkeypatch.setattr(doctor, "doctor", lambda: 0)
    assert cli.run(cli.parse(["doctor", "--profile", "a100"])) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == last
    text = "\n".join(lines)
    for part in ("reward_model", "weights", "optimiser", "activations", "KV cache", "logits",
                 "Qwen/Qwen2.5-7B", "to be fetched", "frozen weights bfloat16"
                 if machine is A100 else "frozen weights float32"):
        assert part in text


def test_a_bare_python_is_told_why_a_profile_cannot_be_looked_at():
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RLHF_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "helpers", "doctor", "--profile", "gpt2"], cwd=ROOT, text=True,
        capture_output=True, env={**environment, "RLHF_NO_VENV": "1"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the profile can be looked at once" in done.stdout.splitlines()[-1]


def test_a_model_that_cannot_be_planned_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(fit, "this_machine", lambda: A100)
    assert fit.fit("gpt2", {"models.base": "someone/something"}) == 1
    assert "the memory of someone/something cannot be planned" in capsys.readouterr().out


def test_the_hub_is_asked_for_sizes_and_nothing_is_fetched(tmp_path):
    """Of a model the weights are counted once, of a dataset the named folder."""
    sizes = {"models/someone/both/model.safetensors": 5000, "models/someone/both/config.json": 30,
             "models/someone/both/pytorch_model.bin": 6000, "models/someone/both/onnx/a.json": 7,
             "models/someone/pickled/pytorch_model.bin": 400,
             "models/someone/pickled/config.json": 20,
             "datasets/someone/talk/harmless/train.jsonl": 1000,
             "datasets/someone/talk/harmless/test.jsonl": 200,
             "datasets/someone/talk/other/train.jsonl": 9000}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    overrides = {"models.base": "someone/both", "models.imdb_policy": "someone/pickled",
                 "models.classifier": "someone/gone",
                 "data.preferences": "someone/talk/harmless@main:train"}
    code = ("import json\nfrom helpers.course import fit\n"
            "from helpers.profiles import load_profile\n"
            f"found = fit.downloads(load_profile('embedded', {overrides!r}))\n"
            "print(json.dumps({d.source: [d.bytes, d.missing, d.told_by, d.problem]"
            " for d in found}))")
    with LocalHub(tmp_path) as hub:
        done = subprocess.run(
            [sys.executable, "-c", code], text=True, capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **hub.environment(tmp_path / "cache")})
    found = json.loads(done.stdout)
    assert found["someone/pickled"][3].startswith("has no weights in .safetensors files")
    assert found == {
        "someone/both": [5030, 5030, "hub", ""], "someone/pickled": found["someone/pickled"],
        "someone/gone": [None, None, "hub", "is not on the hub, or is private"],
        "someone/talk/harmless@main:train": [1000, 1000, "hub", ""]}, done.stderr
    assert not hub.fetched()


def test_without_the_hub_models_are_counted_from_their_shapes():
    """The tests' own process is offline."""
    found = {d.source: d for d in fit.downloads(load_profile("smollm2"))}
    assert found[load_profile("smollm2").models.base].told_by == "counted"
    assert found[load_profile("smollm2").models.base].missing > 250e6
    assert next(d for s, d in found.items() if s.startswith("stanfordnlp/imdb")).told_by == "nobody"
    assert load_profile("smollm2").data.preferences in found
