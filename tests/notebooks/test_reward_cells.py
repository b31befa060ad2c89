"""Cells of notebook 04 on another backbone than the SFT model's."""

import random

import numpy as np
import pytest
import torch
from families import make_family

from helpers import course, generation, models, reward
from helpers.course import execute
from helpers.profiles import load_profile


def cell(with_text):
    """The one code cell of notebook 04 that holds this text."""
    path = next(path for path in execute.notebooks().values() if path.stem.startswith("04"))
    sources = ["".join(c["source"]) for c in execute.read_notebook(path)["cells"]
               if c["cell_type"] == "code"]
    [found] = [source for source in sources if with_text in source]
    return found


@pytest.mark.parametrize("base", ["sft", "other"])
def test_rewards_are_normalised_on_samples_of_the_sft_model(base, tmp_path, monkeypatch):
    """PPO starts from the SFT model, so mean 0 and spread 1 must be those of its responses."""
    make_family("gpt2", tmp_path / "base")
    other = make_family("llama", tmp_path / "other")
    settings = load_profile("embedded", {
        "models.base": str(tmp_path / "base"), "out": str(tmp_path), "ppo.max_new_tokens": 4,
        "models.reward_base": "sft" if base == "sft" else str(other)})
    sft, own = models.load_base(settings)
    course.save_stage("sft", settings, sft, own)
    monkeypatch.setattr(course, "require", lambda stage, settings: settings.artifacts / stage)
    names = {"settings": settings, "course": course, "models": models, "reward": reward,
             "generation": generation, "np": np, "random": random, "torch": torch,
             "prompts": {"validation": {f"\n\nHuman: {n}?\n\nAssistant:" for n in range(8)}}}
    exec(cell("backbone = course.require"), names)
    kind = "gpt2" if base == "sft" else "llama"
    names["model"] = models.new_reward_model(names["backbone"], names["tokenizer"], settings)
    assert names["model"].config.model_type == kind
    asked = []
    monkeypatch.setattr(generation, "sample", lambda policy, tokenizer, *rest, seed: (
        asked.append((policy, tokenizer)), _sample(policy, tokenizer, *rest, seed=seed))[1])
    exec(cell("reward.set_normalisation"), names)
    [(policy, tokenizer)] = asked
    assert policy.config.model_type == "gpt2"
    assert tokenizer.get_vocab() == own.get_vocab()
    assert names["std"] > 0


_sample = generation.sample
