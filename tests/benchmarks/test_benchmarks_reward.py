"""The benchmarks of the reward model that are not studies: adapters' memory, more pairs."""

import json
import subprocess
import sys

import pytest

from helpers.paths import ROOT

sys.path.insert(0, str(ROOT))
from benchmarks import backbones, more_pairs
from benchmarks.shared import store


def test_the_majority_labels_every_pair_by_its_likelier_side():
    pairs = [{"chosen": "a", "rejected": "b", "probability": 0.9},
             {"chosen": "c", "rejected": "d", "probability": 0.2}]
    assert [(row["chosen"], row["rejected"]) for row in more_pairs.with_majority(pairs)] == [
        ("a", "b"), ("d", "c")]


def test_backbones_named_replace_their_rows_and_the_others_stay(tmp_path, monkeypatch):
    bits, reached = {"gpt2-0.2m": 1.0, "base": 0.3}, {"gpt2-0.2m": 0.6, "base": 0.8}
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    monkeypatch.setattr(backbones, "run", lambda name, settings: {
        "backbone": name, "bits_per_byte_dialogues": bits[name],
        "expected_accuracy": reached[name]})
    for only in (["base", "gpt2-0.2m"], ["gpt2-0.2m"]):
        monkeypatch.setattr(sys, "argv", ["backbones.py", "--only", *only])
        assert backbones.main() == 0
        reached["gpt2-0.2m"] = 0.7
    stored = json.loads((tmp_path / "backbones.json").read_text())
    assert [(row["backbone"], row["expected_accuracy"]) for row in stored["rows"]] == [
        ("gpt2-0.2m", 0.7), ("base", 0.8)]
    assert stored["ratio"] == {"gpt2-0.2m": 0.875}


@pytest.mark.slow
def test_memory_of_adapters_is_measured_in_processes_of_their_own():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "adapter_memory.py"), "--trial", "--layers", "2",
         "--width", "256", "--vocabulary", "8000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = {line.split(" trained ")[0].rsplit(" ", 1)[0].strip(): line
             for line in done.stdout.splitlines() if " trained " in line}
    assert list(lines) == ["full", "LoRA, r = 16", "QLoRA, r = 16"]
    counted = [float(line.split("measured")[1].split()[0].replace(",", ""))
               for line in lines.values()]
    # 8000 + 256 embeddings of width 256 and two blocks of 12 × 256²: 3.7 M numbers, 16 bytes each.
    assert counted[0] == pytest.approx(3.7e6 * 16 / 2**20, rel=0.03)
    assert counted[0] > counted[1] > counted[2] > 0
