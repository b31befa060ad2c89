"""What first_nats.py compares responses with, and what it stores of its arms."""

import sys

import numpy as np
import pytest
import torch
from support import byte_policy, byte_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.ppo_trainer import PPOConfig

sys.path.insert(0, str(ROOT))
from benchmarks import first_nats
from benchmarks.shared.paid_on_the_way import PaidOnTheWay


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
        assert set(arm) <= {"task", "ours", "trl", "trainer", "group", "warm", "freeze", "way"}


def test_what_is_paid_on_the_way_adds_up_and_goes_to_the_token_that_earned_it():
    """The judge counts small letters, so that a token earns as many as it has."""
    tokenizer = byte_tokenizer()
    letters = "abcdefghijklmnopqrstuvwxyz"

    def judge(prompts, responses):
        return [2.0 + sum(c in letters for c in text) for text in responses]

    config = PPOConfig(updates=1, batch_size=12, max_new_tokens=8, normalise_reward=False,
                       kl_coef=0.0, missing_eos_penalty=0.0)
    trainer = PaidOnTheWay(byte_policy(tokenizer), None, judge, tokenizer, config, every=1)
    for every in (1, 3, 50):
        trainer.every = every
        batch = trainer._sample(["abab", "it was"] * 6, seed=5)
        scores = trainer._score(batch)
        zeros = torch.zeros_like(batch.mask)
        paid = trainer._token_rewards(scores, zeros, zeros, batch.mask, 0.0)
        assert paid.sum(1).tolist() == pytest.approx((scores - 2).tolist())
        assert (paid * (1 - batch.mask)).abs().sum() == 0
        words = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer))]
        has = torch.tensor([sum(c in letters for c in w) for w in words], dtype=torch.float32)
        earned = has[batch.tokens] * batch.mask
        assert earned.sum() > 0
        if every == 1:
            assert torch.equal(paid, earned)
        if every == 50:  # as PPO pays, all at the end
            assert (paid != 0).sum(1).max() <= 1


def test_a_training_that_is_paid_on_the_way_runs_and_refuses_what_cannot_be_meant():
    tokenizer = byte_tokenizer()
    judge = lambda prompts, responses: [float(len(text)) for text in responses]  # noqa: E731
    config = PPOConfig(updates=2, batch_size=4, max_new_tokens=6)
    policy = byte_policy(tokenizer)
    history = PaidOnTheWay(policy, None, judge, tokenizer, config, every=2).train(["a", "it"])
    assert len(history) == 2 and np.isfinite(history[-1]["policy_loss"])
    with pytest.raises(UserError, match="every is 0"):
        PaidOnTheWay(policy, None, judge, tokenizer, config, every=0)
