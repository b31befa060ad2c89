"""Fine-tuning and reward models over two processes: the same as in one at equal global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from families import make_family

from helpers.engine import artifacts
from helpers.paths import ROOT
from helpers.profiles import load_profile

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run(command, base, out, job="training_job.py"):
    out.mkdir()
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    script = str(Path(__file__).parent / job)
    done = subprocess.run([sys.executable, *command, script, str(base), str(out)],
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(out.glob("found-*.json"))]


@pytest.mark.slow
def test_of_two_processes_one_writes_a_stage_and_both_go_on_when_it_is_there(tmp_path):
    out = tmp_path / "out"
    both = run(TWO, "-", out, "saving_job.py")
    assert [one["wrote"] for one in both] == [True, False]
    settings = load_profile("embedded", {"out": str(out)})
    for one in both:
        assert Path(one["folder"]) == settings.artifacts / "sft" and one["there"]
        assert one["info"]["metrics"] == {"rank": 0}
        assert one["refused"].endswith("no room left")
    assert artifacts.stale("sft", settings) is None
    assert {path.name for path in settings.artifacts.iterdir()} == {"sft"}  # nothing half


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    base = make_family("llama", tmp_path / "base")
    [alone] = run([], base, tmp_path / "one")
    both = run(TWO, base, tmp_path / "two")
    assert alone["processes"] == 1 and [one["processes"] for one in both] == [2, 2]
    assert alone["sft"][-1] < alone["sft"][0] and alone["reward"][-1] < alone["reward"][0]
    for one in both:
        for what in ("sft", "reward", "sft_after"):
            assert one[what] == pytest.approx(alone[what], abs=1e-4)
        assert one["scores"] == pytest.approx(alone["scores"], abs=1e-3)
