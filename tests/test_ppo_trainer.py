"""The PPO trainer: its details, its equality with the plain loop, resuming, and how it stops."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import gpt2, numbered_words
from torch import nn

from helpers import ppo, ppo_loop
from helpers.errors import UserError
from helpers.generation import Rollout, sample
from helpers.ppo_trainer import (
    PPO,
    ActorCritic,
    NonFiniteError,
    PPOConfig,
    make_batch,
    prompt_rows,
    rewards_on_the_way,
    step_seed,
    sum_of,
)
from helpers.profiles import load_profile

PROMPTS = [f"w{i % 30} " + " ".join(f"w{(i * j) % 30}" for j in range(i % 5)) for i in range(23)]


@pytest.fixture(scope="module", name="tokenizer")
def tokenizer_fixture():
    return new_tokenizer()


def new_tokenizer():
    return numbered_words(30)


def new_policy(seed=0, dropout=0.1):
    return gpt2(new_tokenizer(), seed, initializer_range=0.2, resid_pdrop=dropout,
                embd_pdrop=dropout, attn_pdrop=dropout)


def new_reward_model(seed=1):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(seed)
    return GPT2ForSequenceClassification(GPT2Config(
        vocab_size=len(new_tokenizer()), n_positions=48, n_embd=16, n_layer=1, n_head=2,
        num_labels=1, pad_token_id=1, eos_token_id=0,
    ))


def even_share(prompts, responses):
    """Share of words with an even number: something that PPO can learn in a few updates."""
    return [
        sum(int(w[1:]) % 2 == 0 for w in text.split() if w[1:].isdigit()) / (len(text.split()) + 1)
        for text in responses
    ]


def config(**changes):
    return PPOConfig(**{
        "updates": 3, "batch_size": 16, "max_new_tokens": 10, "learning_rate": 3e-3, **changes
    })


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def run(tokenizer, policy=None, reference=None, reward=even_share, resume=False, **changes):
    kwargs = {k: changes.pop(k) for k in list(changes) if k in (
        "value_model", "advantage_fn", "policy_loss_fn", "reward_tokens_fn", "callbacks",
        "checkpoint_dir", "log_with", "log_dir")}
    trainer = PPO(policy or new_policy(), reference, reward, tokenizer, config(**changes), **kwargs)
    trainer.train(PROMPTS, resume=resume)
    return trainer


# ---------------------------------------------------------------------------- learning


def test_it_learns_a_simple_reward(tokenizer):
    trainer = run(tokenizer, updates=25, batch_size=32, kl_coef=0.01, missing_eos_penalty=0.0,
                  learning_rate=5e-3)
    first, last = trainer.history[0], trainer.history[-1]
    assert last["reward"] > first["reward"] + 1.5 * trainer.reward_sd
    assert last["kl"] > 0.5


def test_the_plain_loop_and_the_trainer_see_the_same_losses(tokenizer):
    """The loop that notebook 05 shows, on padded batches, against packed rows and a reused pass."""
    policy, reference = new_policy(dropout=0.0), new_policy(dropout=0.0)
    head = nn.Linear(16, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    c = config(normalise_reward=False)
    plain = ppo_loop.ppo_loop(
        policy.eval(), reference.eval(), head, even_share, tokenizer, PROMPTS, c
    )
    trainer = run(tokenizer, policy=new_policy(), normalise_reward=False)
    for ours, theirs in zip(trainer.history, plain, strict=True):
        for name in ("reward", "kl", "policy_loss", "value_loss"):
            assert ours[name] == pytest.approx(theirs[name], abs=2e-5), name
    expected = torch.cat([p.detach().flatten() for p in [*policy.parameters(), *head.parameters()]])
    assert torch.allclose(weights(trainer), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_plain_loop_stays_on_the_policys_device(tokenizer, monkeypatch, dtype):
    """The device `meta` knows shapes and types and holds no numbers. A tensor left on the CPU, or
    of another type, is an error there as it would be on a GPU, and no GPU is needed."""
    monkeypatch.setattr(torch.Tensor, "item", lambda self: 1.0)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: False)
    n, width, c = 4, 6, config()
    policy, reference = (new_policy(dropout=0.0).to("meta", dtype) for _ in range(2))
    head = nn.Linear(16, 1).to("meta")
    on_cpu = {"prompt_ids": torch.zeros(n, 3).long(), "prompt_mask": torch.ones(n, 3).long(),
              "response_ids": torch.zeros(n, width).long(), "logprobs": torch.zeros(n, width),
              "response_mask": torch.ones(n, width).long(), "finished": torch.ones(n).bool()}
    monkeypatch.setattr(ppo_loop, "sample", lambda *_: Rollout(texts=[""] * n, **on_cpu))
    history = ppo_loop.ppo_loop(
        policy, reference, head, lambda p, r: [0.0] * n, tokenizer, PROMPTS, c)
    assert head.weight.grad.is_meta and policy.lm_head.weight.grad.is_meta
    assert len(history) == 3


@pytest.mark.parametrize("changes", [
    {"micro_batch_size": 5}, {"length_buckets": 1}, {"micro_batch_size": 1},
])
def test_micro_batches_and_buckets_change_memory_but_not_the_result(tokenizer, changes):
    whole = run(tokenizer, policy=new_policy())
    cut = run(tokenizer, policy=new_policy(), **changes)
    assert torch.allclose(weights(whole), weights(cut), atol=1e-4)


def test_mini_batches_make_more_optimiser_steps_and_micro_batches_do_not(tokenizer):
    mini = run(tokenizer, updates=1, mini_batch_size=4, epochs=2)
    micro = run(tokenizer, updates=1, micro_batch_size=4, epochs=2)
    assert mini.history[0]["optimiser_steps"] == 8
    assert micro.history[0]["optimiser_steps"] == 2


# ---------------------------------------------------------------------------- invariants


def test_before_the_first_update_kl_is_zero_and_every_ratio_is_one(tokenizer):
    trainer = run(tokenizer, updates=1, epochs=1)
    row = trainer.history[0]
    for name in ("kl", "kl_k3", "kl_exact"):
        assert row[name] == pytest.approx(0, abs=1e-5)
    assert row["ratio_mean"] == pytest.approx(1, abs=1e-6)
    assert row["ratio_max"] == pytest.approx(1, abs=1e-6)
    assert row["clip_fraction"] == 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_is_one_at_the_sampling_temperature(tokenizer, temperature):
    """Log-probabilities recorded for PPO are those the tokens were sampled with."""
    policy = new_policy()
    trainer = PPO(policy, None, even_share, tokenizer, config(temperature=temperature))
    batch = trainer._sample(PROMPTS[:16], seed=5)
    trainer._record(batch, list(range(16)), keep_graph=False)
    rollout = sample(policy, tokenizer, PROMPTS[:16], 10, temperature, seed=5)
    assert torch.allclose(batch.logprobs, rollout.logprobs, atol=1e-5)
    assert torch.allclose(batch.reference_logprobs, batch.logprobs, atol=1e-6)


def test_moving_prompt_and_response_together_changes_no_logprob(tokenizer):
    """Rows without padding between prompt and response equal rows padded on both sides."""
    policy = new_policy()
    trainer = PPO(policy, None, even_share, tokenizer, config())
    batch = trainer._sample(PROMPTS[:16], seed=5)
    trainer._record(batch, list(range(16)), keep_graph=False)
    rollout = sample(policy, tokenizer, PROMPTS[:16], 10, seed=5)
    padded, _ = ppo_loop.response_outputs(policy.eval(), rollout)
    mask = rollout.response_mask.bool()
    assert torch.allclose(batch.logprobs[mask], padded[mask], atol=1e-5)


def test_dropout_is_off_in_policy_reference_and_value_model(tokenizer):
    trainer = PPO(new_policy(dropout=0.5), None, even_share, tokenizer, config(),
                  value_model=new_reward_model())
    for model in (trainer.model, trainer.reference):
        dropouts = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
        assert dropouts
        assert set(dropouts) == {0.0}


def test_the_value_head_starts_at_zero(tokenizer):
    head = ActorCritic(new_policy()).value_head
    assert head.weight.abs().max() == 0
    assert head.bias.item() == 0


def test_the_reference_never_moves(tokenizer):
    reference = new_policy()
    before = copy.deepcopy(reference.state_dict())
    run(tokenizer, policy=new_policy(), reference=reference)
    assert all(torch.equal(before[k], v) for k, v in reference.state_dict().items())


def test_the_optimiser_has_the_epsilon_of_the_original_and_the_rate_falls_to_zero(tokenizer):
    trainer = run(tokenizer, updates=4, learning_rate=4e-3)
    assert trainer.optimiser.param_groups[0]["eps"] == 1e-5
    assert [row["learning_rate"] for row in trainer.history] == pytest.approx(
        [4e-3, 3e-3, 2e-3, 1e-3]
    )


def test_the_learning_rate_warms_up_and_falls_as_in_transformers(tokenizer):
    from transformers import get_linear_schedule_with_warmup

    trainer = run(tokenizer, updates=4, learning_rate=4e-3, warmup_updates=2)
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 4e-3)
    schedule, theirs = get_linear_schedule_with_warmup(other, 2, 4), []
    for _ in range(4):
        theirs.append(schedule.get_last_lr()[0])
        other.step()
        schedule.step()
    assert [row["learning_rate"] for row in trainer.history] == pytest.approx(theirs)
    flat = run(tokenizer, updates=4, learning_rate=4e-3, warmup_updates=2, anneal=False)
    assert [row["learning_rate"] for row in flat.history] == pytest.approx([0, 2e-3, 4e-3, 4e-3])


def test_an_update_at_rate_zero_moves_no_weight_and_warms_up_adam(tokenizer):
    policy = new_policy()
    before = weights(run(tokenizer, policy, updates=1, learning_rate=1e-12))
    cold = run(tokenizer, updates=1, learning_rate=1e-2, warmup_updates=1)
    assert torch.allclose(weights(cold), before, atol=1e-9)
    state = cold.optimiser.state[cold._trainable[0]]
    assert state["exp_avg_sq"].sum() > 0


def test_gradients_are_clipped_to_the_norm_asked_for(tokenizer):
    from unittest import mock

    norms = []
    real_step = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())
        return real_step(self, *args, **kwargs)

    with mock.patch.object(torch.optim.Adam, "step", step):
        run(tokenizer, updates=1, epochs=2, max_grad_norm=0.01)
    assert max(norms) <= 0.01 * 1.001


def test_rewards_are_shifted_and_scaled_on_reference_samples(tokenizer):
    trainer = PPO(new_policy(), None, even_share, tokenizer, config(normalise_samples=200))
    trainer._fit_normaliser(PROMPTS)
    policy = new_policy()
    rows = prompt_rows(len(PROMPTS), 1, 0, 23)
    texts = sample(policy, tokenizer, [PROMPTS[r] for r in rows], 10, seed=step_seed(0, -1)).texts
    scores = np.array(even_share(None, texts))
    assert trainer.reward_mean == pytest.approx(scores.mean(), abs=1e-6)
    assert trainer.reward_sd == pytest.approx(scores.std(), abs=1e-6)


def test_a_missing_end_of_text_costs_the_penalty(tokenizer):
    free = run(tokenizer, updates=1, missing_eos_penalty=0.0)
    fined = run(tokenizer, updates=1, missing_eos_penalty=2.0)
    cut = 1 - free.history[0]["eos_rate"]
    assert 0 < cut < 1
    assert fined.history[0]["score"] == pytest.approx(free.history[0]["score"] - 2 * cut, abs=1e-5)


def test_the_reward_function_sees_truncated_texts_and_prompts(tokenizer):
    seen = []

    def reward(prompts, responses):
        seen.extend(zip(prompts, responses, strict=True))
        return np.arange(len(prompts), dtype=float)

    run(tokenizer, reward=reward, updates=1, normalise_reward=False)
    assert [p for p, _ in seen] == [PROMPTS[r] for r in prompt_rows(len(PROMPTS), 0, 0, 16)]
    assert not any("<|" in text for _, text in seen)
    assert max(len(text.split()) for _, text in seen) <= 10


def test_prompts_come_in_a_new_order_each_round_and_none_is_left_out():
    first, second = prompt_rows(7, 0, 0, 7), prompt_rows(7, 0, 7, 7)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert prompt_rows(7, 0, 4, 5) == (first + second)[4:9]


def test_what_is_paid_on_the_way_is_what_changed_since_the_judge_was_last_asked():
    opinions = torch.tensor([[1.0, 9.0, 3.0, 9.0, 2.0], [9.0, 9.0, 9.0, 9.0, 9.0]])
    asked = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0, 0.0]])
    paid = rewards_on_the_way(opinions, asked)
    assert paid.tolist() == [[1.0, 0.0, 2.0, 0.0, -1.0], [0.0, 0.0, 0.0, 9.0, 0.0]]


@pytest.mark.parametrize("every", [1, 3, 50])
def test_a_judge_asked_on_the_way_pays_the_token_that_earned_it(tokenizer, every):
    """The judge counts even words: a token earns 1 or 0, and a prompt's own are nobody's merit."""
    def even_words(prompts, responses):
        return [float(sum(int(w[1:]) % 2 == 0 for w in f"{p} {r}".split() if w[1:].isdigit()))
                for p, r in zip(prompts, responses, strict=True)]

    seen = []

    def advantages(rewards, values, mask, gamma, lam):
        seen.append(rewards)
        return ppo.gae(rewards, values, mask, gamma, lam)

    trainer = run(tokenizer, reward=even_words, advantage_fn=advantages, updates=1, kl_coef=0.0,
                  missing_eos_penalty=0.0, score_every=every)
    rows = prompt_rows(len(PROMPTS), 0, 0, 16)
    untrained = PPO(new_policy(), None, even_words, tokenizer, config())
    batch = untrained._sample([PROMPTS[r] for r in rows], step_seed(0, 0))
    words = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    even = torch.tensor([w[1:].isdigit() and int(w[1:]) % 2 == 0 for w in words])
    earned = even[batch.tokens] * batch.mask
    paid = seen[0] * trainer.reward_sd
    torch.testing.assert_close(paid.sum(1), earned.sum(1))
    assert earned.sum() > 0 and trainer.history[0]["reward"] > earned.sum(1).mean()
    last = batch.mask.sum(1).long() - 1
    for i in range(len(paid)):
        whole = earned[i].cumsum(0)
        before = [0.0, *whole.tolist()]
        for t in range(int(last[i])):  # at every `every`th token, all since the last payment
            due = before[t + 1] - before[t + 1 - every] if (t + 1) % every == 0 else 0.0
            assert paid[i, t].item() == pytest.approx(due, abs=1e-5)


def test_asking_on_the_way_changes_nothing_but_when_it_is_paid(tokenizer):
    """What is logged as reward and score is the judge's opinion of the whole, as before."""
    def judge(prompts, responses):
        shares = even_share(prompts, responses)
        return [share + len(p) for share, p in zip(shares, prompts, strict=True)]

    end, way = (run(tokenizer, updates=1, missing_eos_penalty=0.5, score_every=every, kl_coef=0.1,
                    reward=judge) for every in (None, 2))
    for key in ("reward", "score", "kl", "eos_rate"):
        assert way.history[0][key] == end.history[0][key]
    assert way.history[0]["advantage_sd"] != end.history[0]["advantage_sd"]


def test_rewards_may_be_summed(tokenizer):
    def ones(prompts, responses):
        return [1.0] * len(responses)

    total = sum_of(even_share, ones, weights=[2.0, 0.5])
    assert total(["a"], ["w2 w4"]).tolist() == pytest.approx([2 * 2 / 3 + 0.5])
    trainer = run(tokenizer, reward=[even_share, ones], updates=1)
    alone = run(tokenizer, updates=1)
    assert trainer.history[0]["reward"] == pytest.approx(alone.history[0]["reward"] + 1, abs=1e-5)


# ---------------------------------------------------------------------------- options


def test_a_kl_penalty_keeps_the_policy_closer(tokenizer):
    loose = run(tokenizer, updates=15, kl_coef=0.0, missing_eos_penalty=0.0)
    tight = run(tokenizer, updates=15, kl_coef=1.0, missing_eos_penalty=0.0)
    assert tight.history[-1]["kl_exact"] < 0.5 * loose.history[-1]["kl_exact"]


def test_the_adaptive_controller_moves_the_coefficient(tokenizer):
    trainer = run(tokenizer, kl_coef=0.1, kl_target=5.0, kl_horizon=100)
    coefs = [row["kl_coef"] for row in trainer.history]
    assert coefs[0] == 0.1
    assert coefs[1] == pytest.approx(0.1 * (1 - 0.2 * 16 / 100))


def test_an_entropy_bonus_keeps_entropy_higher(tokenizer):
    plain = run(tokenizer, updates=12, kl_coef=0.0)
    bonus = run(tokenizer, updates=12, kl_coef=0.0, entropy_coef=0.3)
    assert bonus.history[-1]["entropy"] > plain.history[-1]["entropy"] + 0.05


def test_a_separate_value_model_is_trained_and_the_policys_trunk_has_no_head(tokenizer):
    value_model = new_reward_model()
    before = value_model.score.weight.detach().clone()
    trainer = run(tokenizer, value_model=value_model)
    assert not torch.equal(before, value_model.score.weight)
    assert trainer.model.value_head is None


def test_whitened_rewards_and_unwhitened_advantages_run(tokenizer):
    one = run(tokenizer, updates=2, whiten_rewards=True)
    two = run(tokenizer, updates=2, whiten_advantages=False)
    assert not torch.equal(weights(one), weights(two))


def test_lora_uses_the_same_model_with_adapters_off_as_reference(tokenizer):
    from peft import LoraConfig, get_peft_model

    base = new_policy()
    before = copy.deepcopy(base.state_dict())
    torch.manual_seed(0)
    policy = get_peft_model(base, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    trainer = run(tokenizer, policy=policy, updates=6, learning_rate=1e-2, kl_coef=0.0)
    assert trainer.reference is None
    assert trainer.history[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert trainer.history[-1]["kl_exact"] > 0.01
    after = policy.get_base_model().state_dict()
    frozen = {k: v for k, v in after.items() if "lora" not in k}
    assert all(torch.equal(before[k.replace(".base_layer", "")], v) for k, v in frozen.items())


def test_lora_equals_full_training_of_the_same_adapter_with_a_copied_reference(tokenizer):
    from peft import LoraConfig, get_peft_model

    def adapted():
        torch.manual_seed(0)
        return get_peft_model(
            new_policy(), LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
        )

    switched = run(tokenizer, policy=adapted())
    copied = run(tokenizer, policy=adapted(), reference=new_policy())
    assert torch.allclose(weights(switched), weights(copied), atol=1e-5)


def test_bfloat16_starts_with_ratio_one_and_stays_near_float32(tokenizer):
    full = run(tokenizer, updates=2)
    policy, learnt, sampled = new_policy(), set(), set()

    def note(module, inputs, output):
        if output.requires_grad:
            learnt.add(output.dtype)
        elif output.shape[1] == 1:  # one token at a time: sampling
            sampled.add(output.dtype)

    policy.transformer.h[0].mlp.c_fc.register_forward_hook(note)
    half = run(tokenizer, policy, updates=2, precision="bfloat16")
    assert learnt == {torch.bfloat16}
    assert sampled == {torch.float32}  # on a CPU, where bfloat16 makes sampling slower
    assert half.history[0]["kl"] == pytest.approx(0, abs=1e-2)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert (weights(full) - weights(half)).abs().max() < 0.05


def test_a_shift_of_all_logits_changes_nothing_in_bfloat16(tokenizer):
    """A softmax does not see it. Logits near -100, where GPT-2's are, have few digits in bfloat16:
    rounded there, ratios scatter and the clip hides gradients."""
    def run_shifted(by):
        policy = gpt2(new_tokenizer(), initializer_range=0.2, tie_word_embeddings=False)
        head = nn.Linear(16, len(tokenizer))
        head.weight, head.bias.data = policy.lm_head.weight, torch.full((len(tokenizer),), by)
        head.bias.requires_grad = False
        policy.set_output_embeddings(head)
        return run(tokenizer, policy, precision="bfloat16", updates=1, learning_rate=2e-4,
                   clip_range=0.02).history[0]

    here, there = run_shifted(0.0), run_shifted(-100.0)
    assert here["clip_fraction"] == pytest.approx(there["clip_fraction"], abs=0.03)
    for name in ("reward", "kl", "kl_exact", "policy_loss", "approx_kl"):
        assert here[name] == pytest.approx(there[name], abs=5e-4), name


def test_a_model_that_cannot_be_packed_learns_the_same_from_padded_rows(tokenizer, monkeypatch):
    packed = run(tokenizer)
    assert packed.packs
    monkeypatch.setattr("helpers.ppo_trainer.can_pack", lambda model: False)
    padded = run(tokenizer)
    assert not padded.packs
    assert torch.allclose(weights(packed), weights(padded), atol=1e-5)
    assert (packed.length_buckets, padded.length_buckets) == (8, 4)


@pytest.mark.parametrize(("packs", "attention"), [(True, "sdpa"), (False, "eager")])
def test_padded_rows_in_bfloat16_are_kept_from_the_slow_fused_attention(
    tokenizer, monkeypatch, packs, attention
):
    monkeypatch.setattr("helpers.ppo_trainer.can_pack", lambda model: packs)
    trainer = run(tokenizer, updates=1, precision="bfloat16")
    assert trainer.policy.config._attn_implementation == attention


def test_packed_rows_hold_no_padding(tokenizer):
    policy, computed = new_policy(), []
    policy.transformer.h[0].mlp.c_fc.register_forward_hook(
        lambda module, inputs, output: computed.append(output.shape[:2].numel())
        if output.requires_grad else None
    )
    real = []
    run(tokenizer, policy, updates=1, callbacks=[lambda trainer, row: real.append(
        row["response_length"] * 16 + sum(len(PROMPTS[r].split()) for r in prompt_rows(
            len(PROMPTS), 0, 0, 16)))])
    assert computed == [pytest.approx(real[0])] * 4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_pass_of_learning_is_packed_on_the_way_back_too(tokenizer, checkpointing):
    """transformers masks packed rows by itself where nobody does, N x N and without a word."""
    trainer = PPO(new_policy(), None, even_share, tokenizer,
                  config(gradient_checkpointing=checkpointing, normalise_reward=False))
    attention = []
    trainer.policy.transformer.h[0].mlp.c_fc.register_forward_hook(
        lambda *_: attention.append(trainer.policy.config._attn_implementation))
    batch = trainer._sample(PROMPTS[:16], seed=3)
    assert "packed" not in attention
    attention.clear()
    held = trainer._record(batch, list(range(16)), keep_graph=True)
    batch.advantages, batch.returns = torch.ones_like(batch.mask), torch.zeros_like(batch.mask)
    trainer._step(batch, list(range(16)), held)
    trainer._step(batch, list(range(16)), None)
    assert attention == ["packed"] * (4 if checkpointing else 2)
    assert trainer.policy.config._attn_implementation == "sdpa"


def test_gradient_checkpointing_changes_nothing_but_memory(tokenizer):
    plain = run(tokenizer)
    saved = run(tokenizer, gradient_checkpointing=True)
    assert torch.allclose(weights(plain), weights(saved), atol=1e-4)


def test_a_readers_own_advantage_function_trains_the_model(tokenizer):
    calls = []

    def mine(rewards, values, mask, gamma, lam):
        calls.append(rewards.shape)
        return ppo.gae(rewards, values, mask, gamma, lam)

    own = run(tokenizer, advantage_fn=mine)
    assert len(calls) == 3
    assert torch.equal(weights(own), weights(run(tokenizer)))
    other = run(tokenizer, advantage_fn=lambda r, v, m, g, lam: ppo.gae(r, v, m, g, 0.0))
    assert not torch.equal(weights(own), weights(other))


def test_epochs_end_early_when_a_batch_has_moved_the_policy_too_far(tokenizer):
    free = run(tokenizer, updates=1, epochs=6, learning_rate=2e-2)
    held = run(tokenizer, updates=1, epochs=6, learning_rate=2e-2, stop_epoch_kl=1e-4)
    assert held.history[0]["optimiser_steps"] < free.history[0]["optimiser_steps"]


def test_training_ends_beyond_the_kl_limit_and_says_so(tokenizer):
    with pytest.warns(UserWarning, match="stop_kl"):
        trainer = run(tokenizer, updates=20, learning_rate=2e-2, kl_coef=0.0, stop_kl=0.5)
    assert len(trainer.history) < 20


def test_a_callback_may_end_training(tokenizer):
    seen = []

    def callback(trainer, row):
        seen.append(row["step"])
        return row["step"] == 2

    run(tokenizer, updates=5, callbacks=[callback])
    assert seen == [1, 2]


def test_measures_are_masked_by_the_length_of_each_response(tokenizer):
    trainer = run(tokenizer, updates=1)
    row = trainer.history[0]
    policy = new_policy()
    rows = prompt_rows(len(PROMPTS), 0, 0, 16)
    rollout = sample(policy, tokenizer, [PROMPTS[r] for r in rows], 10, seed=step_seed(0, 0))
    assert row["response_length"] == pytest.approx(rollout.lengths.float().mean().item())
    assert row["eos_rate"] == pytest.approx(rollout.finished.float().mean().item())
    entropies = []
    for i in range(16):
        prompt = rollout.prompt_ids[i][rollout.prompt_mask[i].bool()]
        response = rollout.response_ids[i][rollout.response_mask[i].bool()]
        with torch.no_grad():
            logits = policy.eval()(torch.cat([prompt, response])[None]).logits[0]
        entropies += ppo.entropy_from_logits(logits[len(prompt) - 1 : -1]).tolist()
    assert row["entropy"] == pytest.approx(np.mean(entropies), abs=1e-4)


# ---------------------------------------------------------------------------- stop and resume


def test_a_profile_that_keeps_checkpoints_asks_no_folder_of_every_trainer():
    settings = load_profile("gpt2")
    assert settings.ppo.checkpoint_every == 10
    assert PPOConfig.from_settings(settings).checkpoint_every is None
    assert PPOConfig.from_settings(settings, checkpoint_every=7).checkpoint_every == 7


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_killed_and_resumed_equals_never_killed(tokenizer, tmp_path, killed_after):
    class Killed(BaseException):
        pass

    def kill(trainer, row):
        if row["step"] == killed_after:
            raise Killed

    changes = {"updates": 4, "mini_batch_size": 8, "kl_target": 3.0}
    whole = run(tokenizer, **changes)
    with pytest.raises(Killed):
        run(tokenizer, checkpoint_dir=tmp_path, checkpoint_every=1, callbacks=[kill], **changes)
    resumed = run(tokenizer, checkpoint_dir=tmp_path, checkpoint_every=1, resume=True, **changes)
    assert torch.equal(weights(whole), weights(resumed))
    strip = [{k: v for k, v in row.items() if "second" not in k} for row in resumed.history]
    assert strip == [{k: v for k, v in row.items() if "second" not in k} for row in whole.history]


def test_a_half_written_checkpoint_is_never_read(tokenizer, tmp_path):
    run(tokenizer, checkpoint_dir=tmp_path, checkpoint_every=1)
    (tmp_path / "update-000009.part").mkdir()
    trainer = run(tokenizer, checkpoint_dir=tmp_path, checkpoint_every=1, resume=True)
    assert trainer.step == 3


def test_resuming_with_other_settings_is_refused_by_name(tokenizer, tmp_path):
    run(tokenizer, checkpoint_dir=tmp_path, checkpoint_every=1)
    with pytest.raises(UserError, match="kl_coef"):
        run(tokenizer, checkpoint_dir=tmp_path, checkpoint_every=1, kl_coef=0.7, resume=True)


def test_a_non_finite_weight_stops_with_step_rows_and_remedy(tokenizer, tmp_path):
    def poison(trainer, row):
        if row["step"] == 2:
            with torch.no_grad():
                trainer.policy.transformer.h[0].mlp.c_fc.weight[0, 0] = math.nan

    with pytest.raises(UserError, match="update 3.*|probabilit"):
        run(tokenizer, checkpoint_dir=tmp_path, checkpoint_every=1, callbacks=[poison])
    assert [p.name for p in tmp_path.iterdir()] == ["update-000002"]


def test_a_non_finite_ratio_stops_before_the_step(tokenizer, tmp_path):
    trainer = PPO(new_policy(), None, even_share, tokenizer, config(updates=1))
    batch = trainer._sample(PROMPTS[:16], seed=5)
    batch.scores = torch.zeros(16)
    trainer._record(batch, list(range(16)), keep_graph=False)
    batch.returns = batch.advantages = torch.zeros_like(batch.mask)
    batch.logprobs[3, 0] = -1e4  # exp(1e4) overflows
    before = weights(trainer).clone()
    with pytest.raises(NonFiniteError, match=r"update 1.*\[3\].*learning_rate"):
        trainer._step(batch, list(range(16)), None)
    assert torch.equal(before, weights(trainer))


def test_a_non_finite_reward_names_response_and_prompt(tokenizer):
    seen = []

    def reward(prompts, responses):
        seen.append((responses[4], prompts[4]))
        return [math.nan if i == 4 else 0.0 for i in range(len(prompts))]

    with pytest.raises(NonFiniteError, match="nan") as error:
        run(tokenizer, reward=reward, normalise_reward=False)
    (response, prompt), = seen
    assert f"response {response[:60]!r} to the prompt {prompt[-60:]!r}" in str(error.value)


def test_an_out_of_memory_batch_is_tried_again_in_smaller_parts(tokenizer, monkeypatch):
    real = PPO._forward

    def forward(self, batch, part, sync):
        if len(part) > 4 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("out of memory")
        return real(self, batch, part, sync)

    changes = {"length_buckets": 1, "micro_batch_size": 8}
    plain = run(tokenizer, **changes)
    monkeypatch.setattr(PPO, "_forward", forward)
    with pytest.warns(UserWarning, match="micro_batch_size = 4"):
        small = run(tokenizer, **changes)
    assert torch.allclose(weights(plain), weights(small), atol=1e-4)


# ---------------------------------------------------------------------------- two processes

TWO = """
import os
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
import test_ppo_trainer as t
from helpers.ppo_trainer import PPO

torch.set_num_threads(1)
changes = {changes!r}
trainer = PPO(t.new_policy(), None, t.even_share, t.new_tokenizer(), t.config(**changes))
assert trainer.accelerator.num_processes == {world}, trainer.accelerator.num_processes
trainer.train(t.PROMPTS)
if trainer.accelerator.is_main_process:
    torch.save((t.weights(trainer), trainer.history), {out!r})
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
os._exit(0)  # all is on disk; see the docstring of ppo_trainer on gloo's way out
"""


@pytest.mark.parametrize("changes", [
    {}, {"mini_batch_size": 8, "micro_batch_size": 2, "score_every": 3}])
def test_two_processes_equal_one_at_the_same_global_batch(tokenizer, tmp_path, changes):
    script, out = tmp_path / "two.py", tmp_path / "two.pt"
    here = Path(__file__).resolve().parent
    script.write_text(TWO.format(root=str(here.parent), tests=str(here), changes=changes, world=2,
                                 out=str(out)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
              "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    two, history = torch.load(out, weights_only=True)
    one = run(tokenizer, **changes)
    assert torch.allclose(two, weights(one), atol=1e-4)
    for ours, theirs in zip(history, one.history, strict=True):
        for name in ("reward", "kl", "policy_loss", "value_loss", "clip_fraction", "entropy"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4), name


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(("changes", "says"), [
    ({"batch_size": 10, "mini_batch_size": 4}, "multiple"),
    ({"length_buckets": 0}, "length_buckets is 0"),
    ({"learning_rate": 0.0}, "learning_rate"),
    ({"warmup_updates": -1}, "warmup_updates"),
    ({"score_every": 0}, "score_every"),
    ({"precision": "fp8"}, "precision"),
    ({"kl_estimator": "k2"}, "kl_estimator"),
    ({"kl_target": -1.0}, "kl_target"),
    ({"checkpoint_every": 2}, "checkpoint_dir"),
])
def test_impossible_settings_are_refused(tokenizer, changes, says):
    with pytest.raises(UserError, match=says):
        run(tokenizer, **changes)


def test_the_policy_may_not_be_its_own_reference(tokenizer):
    policy = new_policy()
    with pytest.raises(UserError, match="reference"):
        PPO(policy, policy, even_share, tokenizer, config())


def test_pad_equal_to_eos_is_refused(tokenizer):
    broken = copy.deepcopy(tokenizer)
    broken.pad_token = broken.eos_token
    with pytest.raises(UserError, match="pad_token"):
        PPO(new_policy(), None, even_share, broken, config())


def test_a_reward_of_the_wrong_length_or_without_any_difference_is_refused(tokenizer):
    with pytest.raises(UserError, match="one number per response"):
        run(tokenizer, reward=lambda p, r: [1.0])
    with pytest.raises(UserError, match="nothing to learn"):
        run(tokenizer, reward=lambda p, r: [1.0] * len(r))


def test_no_prompts_is_an_error(tokenizer):
    with pytest.raises(UserError, match="no prompts"):
        PPO(new_policy(), None, even_share, tokenizer, config()).train([])


def test_saved_policies_reload_and_answer_alike(tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = run(tokenizer, updates=1)
    trainer.save(tmp_path)
    policy = AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    one = sample(trainer.policy, tokenizer, PROMPTS, 10, seed=1)
    two = sample(policy, loaded, PROMPTS, 10, seed=1)
    assert one.texts == two.texts


def test_batches_are_assembled_without_padding_between_prompt_and_response():
    batch = make_batch(["a", "b"], [([5, 6], [7, 0], "x", True), ([5], [8, 9, 4], "y", False)])
    assert batch.ids.tolist() == [[5, 6, 7, 0], [5, 8, 9, 4]]
    assert batch.starts.tolist() == [2, 1]
    assert batch.mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.lengths.tolist() == [4, 4]
