"""What first_nats.py compares responses with, and what it stores of its arms."""

import sys

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.paths import ROOT

sys.path.insert(0, str(ROOT))
from benchmarks import first_nats


def test_a_response_is_compared_with_the_others_to_its_prompt_and_not_with_itself():
    scores = {"a1": 1.0, "a2": 2.0, "a3": 6.0, "b1": 5.0, "b2": 3.0, "c1": 4.0}
    reward = first_nats.against_siblings(lambda prompts, responses: [scores[r] for r in responses])
    found = reward(["a", "b", "a", "c", "b", "a"], ["a1", "b1", "a2", "c1", "b2", "a3"])
    slow = [1 - (2 + 6) / 2, 5 - 3, 2 - (1 + 6) / 2, 4, 3 - 5, 6 - (1 + 2) / 2]
    np.testing.assert_allclose(found, slow)  # a response without siblings keeps its score


def test_frozen_embeddings_stay_and_the_rest_trains():
    shape = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    policy = GPT2LMHeadModel(shape)
    first_nats.freeze_embeddings(policy)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    optimiser = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=1.0)
    policy(torch.arange(6)[None], labels=torch.arange(6)[None]).loss.backward()
    optimiser.step()
    moved = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    assert not {name for name in moved if "wte" in name or "wpe" in name}
    assert any("attn" in name for name in moved) and any("mlp" in name for name in moved)
    first_nats.freeze_embeddings(policy, "all")
    left = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert left and all(name.endswith("bias") or ".ln_" in name for name in left)


def test_an_arm_is_told_by_the_mean_and_the_ends_of_its_seeds():
    def row(arm, seed, share, kl):
        return {"arm": arm, "seed": seed, "share": share, "kl": kl, "reward_gain": 1.0,
                "objective_gain": 0.5, "gold_gain": 0.1, "seconds": 3.0}
    rows = [row("x", 0, 0.4, 4.0), row("y", 0, 0.9, 8.0), row("x", 1, 0.6, 6.0)]
    found = first_nats.summary(rows)
    assert found["x"]["seeds"] == 2 and found["y"]["seeds"] == 1
    assert found["x"]["share"] == pytest.approx(0.5) and found["x"]["kl"] == pytest.approx(5.0)
    assert (found["x"]["share_low"], found["x"]["share_high"]) == (0.4, 0.6)


def test_every_arm_changes_what_exists():
    from dataclasses import fields

    from helpers.ppo_trainer import PPOConfig
    from helpers.profiles import load_profile
    known = {field.name for field in fields(PPOConfig)}
    for arm in first_nats.ARMS.values():
        task = first_nats.FIRST | arm.get("task", {})
        settings = load_profile("embedded", {f"ppo_trl.{k}": v for k, v in task.items()})
        assert settings.ppo_trl.total_episodes == first_nats.EPISODES
        assert set(arm.get("ours", {})) <= known
        assert set(arm) <= {"task", "ours", "trl", "trainer", "group", "warm", "freeze"}
