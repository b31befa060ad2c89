"""Every family and way of training, where a policy learns: our PPO, TRL's trainers, the loop of 07.

The ordinary run has every family and every way, in pairs; `make test-slow` has the whole table.
"""

import copy

import numpy as np
import pytest
import torch
from families import FAMILIES

from helpers import evaluation, feedback_loop, models
from helpers import trl_adapter as ta
from helpers.engine.adapters import stored_as
from helpers.errors import UserError
from helpers.generation import sample
from helpers.ppo_trainer import PPO, PPOConfig
from helpers.profiles import load_profile

WAYS = {"full": {}, "lora": {"models.lora": True},
        "nf4": {"models.lora": True, "models.quantise": "nf4",
                "models.quantised": ["policy", "reward"]}}
CELLS = [(name, way) for name in FAMILIES for way in WAYS]
TOKENS = 20  # with a prompt more than the windows of 16
PROMPTS = ["The old cat", "A", "The quiet fox sat on", "Owl", "The dog sat", "Grey", "The", "On a"]
PACKED = {"gpt2", "gpt_neox", "llama", "qwen2", "gemma"}  # no window, no soft cap in attention


def pairwise(cells):
    """Each family with one way, each way with some families; the others are slow."""
    ways = list(WAYS)
    first = {(name, ways[i % 3]) for i, name in enumerate(FAMILIES)}
    return [pytest.param(*cell, marks=[] if cell in first else pytest.mark.slow, id="-".join(cell))
            for cell in cells]


def settings_for(way, folder, **more):
    return load_profile("embedded", {
        "device": "cpu", "mixed_precision": "none", "out": str(folder), **WAYS[way], **more})


def share_of_letter(prompts, responses):
    return [text.count("t") / (len(text) + 1) for text in responses]


def config(**changes):
    return PPOConfig(**{
        "updates": 2, "batch_size": 8, "epochs": 2, "max_new_tokens": TOKENS, "seed": 1,
        "learning_rate": 1e-3, "normalise_reward": False, **changes})


def tensors(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def first_pass(trainer):
    """Log-probabilities of policy and reference before any step, and those of the sampler."""
    batch = trainer._sample(PROMPTS, seed=3)
    trainer._record(batch, list(range(len(PROMPTS))), keep_graph=False)
    rollout = sample(trainer.policy, trainer.tokenizer, PROMPTS, TOKENS, seed=3)
    assert torch.equal(rollout.response_mask, batch.mask.long())
    return batch, rollout


def unmoved(name):
    """A key's bias shifts all scores of a softmax alike: it has no gradient but for rounding."""
    return name.endswith("k_proj.bias")


@pytest.mark.parametrize(("name", "way"), pairwise(CELLS))
def test_our_ppo_trains_what_it_should_and_is_stored_whole(made, tmp_path, name, way):
    settings = settings_for(way, tmp_path)
    policy, tokenizer = models.load_causal(made(name), settings, trains=True)
    trainer = PPO(policy, None, share_of_letter, tokenizer, config())
    assert trainer.packs == (name in PACKED)

    batch, rollout = first_pass(trainer)
    assert (batch.logprobs - batch.reference_logprobs).abs().max() <= 1e-5
    assert batch.kl.abs().max() <= 1e-5
    assert torch.allclose(batch.logprobs, rollout.logprobs, atol=1e-4)

    before = tensors(policy)
    asked = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert all("lora" in n for n in asked) == (way != "full")
    history = trainer.train(PROMPTS)
    assert history[0]["kl"] == pytest.approx(0, abs=1e-5 * TOKENS)
    assert all(np.isfinite(list(row.values())).all() for row in history)
    moved = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= asked
    assert {n for n in asked - moved if not unmoved(n)} == set()

    stored_as(policy).save_pretrained(tmp_path / "stored")
    tokenizer.save_pretrained(tmp_path / "stored")
    again, _ = models.load_causal(tmp_path / "stored", settings_for("full", tmp_path))
    parts = (rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids, rollout.response_mask)
    ours, theirs = (evaluation.response_logprobs(m, *parts) for m in (policy, again))
    assert torch.allclose(ours, theirs, atol=1e-3 if way == "nf4" else 1e-4)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in ("gpt2", "gemma2") else pytest.mark.slow)
    for name in FAMILIES])
def test_in_bfloat16_the_first_pass_has_no_kl_and_is_not_biased(made, tmp_path, name):
    """Policy and reference in the same numbers agree to the bit. What was sampled in float32, and a
    frozen reference whose weights are bfloat16 as they came, differ by rounding: at most .025 nats
    a token in any family when this was measured, without a side that they lean to."""
    policy, tokenizer = models.load_causal(
        made(name), settings_for("full", tmp_path), trains=True)
    prompts, noise = PROMPTS * 8, []
    for reference in (None, copy.deepcopy(policy).to(torch.bfloat16)):
        trainer = PPO(copy.deepcopy(policy), reference, share_of_letter, tokenizer,
                      config(precision="bfloat16", batch_size=len(prompts)))
        batch = trainer._sample(prompts, seed=3)
        trainer._record(batch, list(range(len(prompts))), keep_graph=False)
        rollout = sample(policy, tokenizer, prompts, TOKENS, seed=3)
        real = batch.mask.bool()
        if reference is None:
            assert torch.equal(batch.logprobs, batch.reference_logprobs)
            assert batch.kl[real].abs().max() == 0
            noise.append((batch.logprobs - rollout.logprobs)[real])
        else:
            noise.append((batch.logprobs - batch.reference_logprobs)[real])
            assert batch.kl[real].mean() <= 2e-5
    for difference in noise:
        assert 0 < difference.abs().max() <= 0.03
        assert difference.mean().abs() <= 4 * difference.std() / len(difference) ** 0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_sampling_settings_of_a_model_are_not_at_work(made, tmp_path, name):
    """The same tokens, and the model's own log-probabilities, whatever it says about sampling."""
    model, tokenizer = models.load_causal(made(name), settings_for("full", tmp_path))
    plain = copy.deepcopy(model)
    plain.generation_config = type(plain.generation_config)()
    model.generation_config.update(do_sample=True, temperature=0.3, top_k=3, repetition_penalty=2.0)
    ours, theirs = (sample(m, tokenizer, PROMPTS, TOKENS, seed=5) for m in (model, plain))
    assert torch.equal(ours.response_ids, theirs.response_ids)
    parts = (ours.prompt_ids, ours.prompt_mask, ours.response_ids, ours.response_mask)
    assert torch.allclose(ours.logprobs, evaluation.response_logprobs(model, *parts), atol=1e-4)
    if tokenizer.bos_token_id is not None and ta.bos_in_front(tokenizer) is not None:
        first = ours.prompt_mask.argmax(1)
        assert (ours.prompt_ids[torch.arange(len(first)), first] == tokenizer.bos_token_id).all()


@pytest.mark.parametrize(("name", "way"), pairwise(CELLS))
def test_trls_ppo_starts_with_no_kl_and_trains_what_it_should(made, tmp_path, name, way):
    """Whatever the model says about sampling; with adapters the reference is the policy without."""
    settings = settings_for(way, tmp_path)
    with ta.quiet():
        from accelerate import Accelerator
        from datasets import Dataset
        from trl.experimental.ppo import PPOConfig as TrlConfig
        from trl.experimental.ppo import PPOTrainer

        ta.forget_precision()
        Accelerator(cpu=True, mixed_precision="bf16")  # an earlier trainer's
        policy, tokenizer = models.load_causal(made(name), settings, trains=True)
        reference = models.freeze(models.load_causal(made(name), settings)[0].float())
        ta.ready_for_trl(policy, tokenizer)
        width = 12
        reward = ta.TextReward(share_of_letter, tokenizer, width)
        value = ta.new_value_model(reference, tokenizer.pad_token_id)
        args = TrlConfig(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False,
            gradient_checkpointing=False, save_strategy="no", num_sample_generations=0,
            disable_tqdm=True, total_episodes=16, per_device_train_batch_size=8, num_ppo_epochs=1,
            num_mini_batches=1, response_length=TOKENS, stop_token="eos", temperature=1.0,
            learning_rate=1e-3)
        trainer = PPOTrainer(
            args=args, processing_class=tokenizer, model=policy,
            ref_model=reference if way == "full" else None, reward_model=reward,
            train_dataset=Dataset.from_list(ta.pad_prompts(PROMPTS, tokenizer, width)),
            value_model=value)
        before, values = tensors(policy), tensors(value)
        asked = {n for n, p in policy.named_parameters() if p.requires_grad}
        row = ta.train_quietly(trainer)[0]
    assert trainer.accelerator.mixed_precision == "no"
    assert row["objective/kl"] == pytest.approx(0, abs=1e-5 * TOKENS)
    assert row["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert all("lora" in n for n in asked) == (way != "full")
    moved = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= asked and {n for n in asked - moved if not unmoved(n)} == set()
    assert any(not torch.equal(p, values[n]) for n, p in value.named_parameters())

    stored_as(policy).save_pretrained(tmp_path / "stored")
    tokenizer.save_pretrained(tmp_path / "stored")
    again, _ = models.load_causal(tmp_path / "stored", settings_for("full", tmp_path))
    rollout = sample(policy, tokenizer, PROMPTS, TOKENS, seed=3)
    parts = (rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids, rollout.response_mask)
    ours, theirs = (evaluation.response_logprobs(m, *parts) for m in (policy, again))
    assert torch.allclose(ours, theirs, atol=1e-3 if way == "nf4" else 1e-4)


@pytest.mark.parametrize("way", ["lora", "nf4"])
def test_a_value_model_of_adapters_is_refused(made, tmp_path, way):
    """TRL reads the backbone by its name, and of a PEFT model that is something else."""
    policy, tokenizer = models.load_causal(made("llama"), settings_for(way, tmp_path), trains=True)
    with pytest.raises(UserError, match=r"value model .* plain weights.* give the reference"):
        ta.new_value_model(policy, tokenizer.pad_token_id)


@pytest.mark.parametrize("way", ["lora", pytest.param("nf4", marks=pytest.mark.slow)])
def test_rloo_trains_adapters_against_the_model_without_them(made, tmp_path, way):
    policy, tokenizer = models.load_causal(made("qwen2"), settings_for(way, tmp_path), trains=True)
    ta.ready_for_trl(policy, tokenizer, tmp_path / "policy")
    asked = {n for n, p in policy.named_parameters() if p.requires_grad}
    trainer = rloo(policy, tokenizer, tmp_path)  # which adds a copy of the adapters as reference
    before = tensors(policy)
    assert trainer.ref_model is None
    row = ta.train_quietly(trainer)[0]
    assert row["kl"] == pytest.approx(0, abs=1e-5)
    moved = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= asked and all("lora" in n for n in moved)


def rloo(policy, tokenizer, folder):
    """One step of TRL's RLOO."""
    with ta.quiet():
        from datasets import Dataset
        from trl import RLOOConfig, RLOOTrainer

        args = RLOOConfig(
            output_dir=str(folder), report_to="none", save_strategy="no", disable_tqdm=True,
            use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1, max_steps=1,
            per_device_train_batch_size=8, num_generations=4, max_completion_length=6,
            dataloader_pin_memory=False, disable_dropout=True, beta=0.1)
        return RLOOTrainer(
            model=policy, reward_funcs=lambda completions, **_: share_of_letter([], completions),
            args=args, processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": p} for p in PROMPTS]))


def test_rloo_finds_its_reference_with_the_row_that_was_added_for_padding(
    made, tmp_path, monkeypatch
):
    folder = made("gpt2")
    monkeypatch.setattr(models.scratch, "PAD", "<|another pad|>")
    policy, tokenizer = models.load_causal(folder, settings_for("full", tmp_path), trains=True)
    assert tokenizer.pad_token_id == policy.config.vocab_size - 1  # not there on disk
    reference = copy.deepcopy(policy)
    policy.generation_config.repetition_penalty = 2.0
    ta.ready_for_trl(policy, tokenizer, tmp_path / "policy")
    trainer = rloo(policy, tokenizer, tmp_path)
    found = trainer.ref_model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in reference.state_dict().items())
    row = ta.train_quietly(trainer)[0]
    assert row["kl"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "mistral"])  # tied and not
def test_a_row_that_was_added_is_as_likely_as_a_word_and_the_same_at_each_load(
    made, tmp_path, monkeypatch, name
):
    folder, settings = made(name), settings_for("full", tmp_path)
    monkeypatch.setattr(models.scratch, "PAD", "<|another pad|>")
    (one, tokenizer), (two, _) = (models.load_causal(folder, settings) for _ in range(2))
    pad = tokenizer.pad_token_id
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    ids = torch.tensor(tokenizer(PROMPTS[0])["input_ids"])[None]
    logits = one(ids).logits[0]
    usual = logits[:, :pad].mean(1)
    assert torch.allclose(logits[:, pad], usual, atol=1e-2)


@pytest.mark.parametrize(("name", "way"), pairwise(CELLS))
def test_the_loop_of_07_moves_what_trains_and_nothing_else(made, tmp_path, name, way):
    settings = settings_for(way, tmp_path)
    tokenizer = models.load_tokenizer(made(name))
    model = models.new_reward_model(made(name), tokenizer, settings)
    asked = {n for n, p in model.named_parameters() if p.requires_grad}
    before = tensors(model)
    pairs = [{"prompt": p, "chosen": "a cat", "rejected": "the step"} for p in PROMPTS]
    if way != "full":
        model.requires_grad_(True) if way == "lora" else None  # as notebooks once did
    log = feedback_loop.update_reward_model(
        model, tokenizer, pairs, pairs, steps=4, batch_size=len(pairs), old_batch_size=4,
        learning_rate=1e-3, keep=0.1)
    assert log[-1]["new_loss"] < log[0]["new_loss"]
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= asked
    assert any("score" in n for n in moved)
    assert way == "full" or all("lora_" in n or "modules_to_save" in n for n in moved)
