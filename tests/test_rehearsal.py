"""A GPU rehearsed: everything that trains or evaluates, on a device that mixes with no other.

`rehearsal.py` makes the device. `benchmarks/device_faults.py` sows faults and counts how many of
them these tests find. What cannot be rehearsed, and why: models in four bits (bitsandbytes' kernels
know CUDA and the CPU), several GPUs (there is one device), generation by vLLM (a server of its
own), and what a GPU's memory, speed and rounding would do.
"""

import ast
import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rehearsal import pretended_gpu  # noqa: F401
from support import TEXTS, from_scratch, small
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers import (
    control,
    course,
    evaluation,
    feedback,
    feedback_loop,
    models,
    paths,
    ppo_loop,
    preference,
    reward,
    scratch,
    sft,
)
from helpers import trl_adapter as ta
from helpers.course import export
from helpers.engine import costs
from helpers.engine.adapters import merged
from helpers.generation import sample
from helpers.judge import judge as ask
from helpers.ppo_trainer import PPO, PPOConfig
from helpers.profiles import load_profile
from helpers.reward import active, ties

PROMPTS = ["The old cat", "A", "The quiet fox sat on", "Owl"]
ROWS = [{"prompt": f"Where is the {word} cat?", "response": f"The {word} cat sat on the mat."}
        for word in ("old", "young", "grey", "quiet")] * 2
PAIRS = [{"prompt": row["prompt"], "chosen": row["response"], "rejected": "The cat sat."}
         for row in ROWS]
COMPARISONS = [{"prompt": row["prompt"], "response_a": row["response"], "response_b": "No.",
                "winner": winner} for row, winner in zip(ROWS, "ab" * 4, strict=True)]
PRECISE = {"dtype": "float32", "mixed_precision": "none"}
AS_ON_A_GPU = {"dtype": "auto", "mixed_precision": "auto"}  # bfloat16 where frozen, autocast


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def settings_for(folder, **more):
    """A profile that trains a tiny model on whatever device there is."""
    return load_profile("embedded", {
        "device": "auto", "out": str(folder), "sft.batch_size": 4, "sft.epochs": 1,
        "sft.learning_rate": 1e-3, "reward.likelihood": 0, "reward.epochs": 1,
        "reward.batch_size": 4, "reward.max_length": 64, "models.lora_r": 2, **PRECISE, **more})


def policy_on(gpu, folder, settings, trains=True):
    policy, tokenizer = models.load_causal(folder, settings, trains=trains)
    assert {p.device for p in policy.parameters()} == {gpu}
    return policy, tokenizer


def judge_on(gpu, folder, settings):
    """A reward model that was not trained, with the scale that it would get."""
    tokenizer = models.load_tokenizer(folder)
    judge = models.new_reward_model(folder, tokenizer, settings)
    assert {p.device for p in judge.parameters()} == {gpu}
    reward.set_normalisation(judge, [0.0, 1.0])
    return judge, tokenizer


def stayed(model, gpu):
    """No parameter and no buffer has left the device."""
    return {t.device for t in [*model.parameters(), *model.buffers()]} == {gpu}


def share_of_letter(prompts, responses):
    return [text.count("t") / (len(text) + 1) for text in responses]


# ----------------------------------------------------------------------------- the device itself

# What is done with x (2, 3) of the device and y (2, 3) of the CPU, or is made from them, and
# whether CUDA takes it.
RULES = [
    ("x + y", False), ("x + y[0, 0]", True), ("y[0, 0] + x", True), ("x * 2 + 1", True),
    ("y + x", False), ("y[0, 0].add_(x[0, 0])", False),
    ("x.add_(y[0, 0])", True), ("y[0, 0] + x[0, 0]", True),
    ("torch.where(x > 0, x, y[0, 0])", True), ("torch.where(y > 0, x, x)", False),
    ("x.masked_fill(y > 0, 0.0)", False), ("x.masked_fill(x > 0, y[0, 0])", True),
    ("x[torch.tensor([0, 1])]", True),
    ("x.index_select(0, torch.tensor([0]))", False),
    ("x.gather(0, y.long() * 0)", False), ("torch.cat([x, y])", False),
    ("torch.stack([x, y])", False), ("x @ y.T", False), ("torch.bmm(x[None], y.T[None])", False),
    ("torch.nn.functional.cross_entropy(x, torch.tensor([0, 1]))", False),
    ("torch.nn.functional.linear(x, x, torch.zeros(2))", False),
    ("torch.nn.functional.layer_norm(x, (3,), torch.ones(3))", False),
    ("torch.searchsorted(x, y)", False), ("torch.maximum(x, y)", False),
    ("x.scatter(1, y.long() * 0, 1.0)", False), ("x.index_add(0, torch.tensor([0, 1]), x)", False),
    ("x.copy_(y)", True), ("y.copy_(x)", True), ("x.cpu() + y", True), ("x + y.to(x)", True),
    ("x.view_as(y)", True), ("x.expand_as(y)", True), ("x.type_as(y) + y", True),
    ("x + x.new_zeros(3)", True), ("x + torch.zeros_like(x)", True),
    ("x + torch.zeros(3)", False), ("torch.equal(x, y)", False), ("x.lerp(y, 0.5)", False),
    ("torch.nn.functional.scaled_dot_product_attention(x[None], y[None], x[None])", False),
]
# What FakeTensor, which has no values, is too lenient about or cannot do.
MORE_RULES = [
    ("y.add_(x)", False), ("y[x.long()[0] * 0]", False), ("x[torch.tensor([True, False])]", True),
    ("torch.nn.functional.embedding(y.long() * 0, x)", False),
    ("x.__setitem__(torch.tensor([0]), x[:1] + 1)", True),
    ("x.__setitem__(torch.tensor([0]), y[:1])", False),
    ("x.__setitem__(y > 9, y[0, 0])", True), ("y.__setitem__(x > 9, 0.0)", False),
    ("x.__setitem__(0, y[0])", True),  # a copy into a slice
]
# What needs values.
READING = [
    ("x.numpy()", False), ("np.asarray(x)", False), ("np.mean([x[0, 0], x[0, 1]])", False),
    ("np.array([v for v in x[0]])", False), ("x.cpu().numpy()", True), ("x.tolist()", True),
    ("float(x[0, 0]) + x.sum().item()", True), ("f'{x[0, 0]:.2f}'", True),
    ("bool((x > 0).all())", True), ("[1, 2, 3][x.long()[0, 0] * 0]", True),
    ("x[x > 0]", True), ("x.nonzero()", True), ("torch.tensor([v for v in x[0]])", True),
    ("torch.rand(2, device=x.device, generator=torch.Generator())", False),
    ("torch.rand(2, generator=torch.Generator()).to(x.device)", True),
    ("x.softmax(-1).multinomial(1, generator=torch.Generator())", False),
    ("x.uniform_(generator=torch.Generator())", False),
]


def takes(expression, device):
    """Whether an expression runs where x is on the device and y on the CPU."""
    x, y = torch.ones(2, 3).to(device), torch.ones(2, 3)
    try:
        eval(expression, {"torch": torch, "np": np, "x": x, "y": y})
    except (RuntimeError, TypeError) as error:
        assert "not implemented" not in str(error)
        return False
    return True


@pytest.mark.parametrize(("expression", "allowed"), [*RULES, *MORE_RULES, *READING])
def test_the_device_takes_what_cuda_takes(gpu, expression, allowed):
    assert takes(expression, gpu) == allowed


@pytest.mark.parametrize(("expression", "allowed"), RULES)
def test_pytorchs_own_model_of_cuda_says_the_same(expression, allowed):
    with FakeTensorMode():  # the rules are those of any device; "cuda" itself needs its kernels
        assert takes(expression, "meta") == allowed


def test_values_and_gradients_are_those_of_the_cpu(gpu, made, tmp_path):
    """A trained step and packed rows, both ways."""
    settings = settings_for(tmp_path, device="cpu")
    model, _ = models.load_causal(made("llama"), settings)
    twin = copy.deepcopy(model).to(gpu)
    assert stayed(twin, gpu) and stayed(model, torch.device("cpu"))
    ids = torch.randint(3, 90, (2, 9))
    for m, i in ((model, ids), (twin, ids.to(gpu))):
        m(i, labels=i).loss.backward()
        torch.optim.AdamW(m.parameters(), 1e-2, fused=True).step()
    for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-5, rtol=1e-4)


def test_a_gradient_that_stayed_on_the_cpu_is_refused(gpu):
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return torch.full((3,), 2.0)

    x = torch.ones(3).to(gpu).requires_grad_()
    with pytest.raises(RuntimeError, match="invalid gradient at index 0 - expected device gpu:0"):
        Twice.apply(x).sum().backward()


def test_the_device_is_there_for_the_fixture_alone(gpu, made):
    assert torch.accelerator.is_available()


def test_and_gone_after_it():
    assert not torch.accelerator.is_available()
    assert torch.ones(2, requires_grad=True).sum().backward() is None


# -------------------------------------------------------------------------------- what it writes


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama"])
def test_sampling(gpu, made, tmp_path, family):
    policy, tokenizer = policy_on(gpu, made(family), settings_for(tmp_path), trains=False)
    plain, _ = models.load_causal(made(family), settings_for(tmp_path, device="cpu"))
    for prompts in (PROMPTS, PROMPTS[:1]):  # padded and not
        ours, theirs = (sample(m, tokenizer, prompts, 6, seed=1) for m in (policy, plain))
        assert torch.equal(ours.response_ids, theirs.response_ids)
        torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-4, rtol=1e-4)
    tokenizer.eos_token_id = int(ours.response_ids[0, 2])  # now a row ends while others go on
    for prompts in (PROMPTS, [PROMPTS[0], PROMPTS[0]]):
        ours, theirs = (sample(m, tokenizer, prompts, 6, seed=1) for m in (policy, plain))
        assert torch.equal(ours.response_ids, theirs.response_ids)
        assert torch.equal(ours.lengths, theirs.lengths)
    greedy = sample(policy, tokenizer, PROMPTS, 3, temperature=0, seed=1)
    assert greedy.to(gpu).logprobs.device == gpu
    assert len(feedback_loop.sample_answers(policy, tokenizer, PROMPTS, 2, 4)[0]) == 2


def test_evaluation(gpu, made, tmp_path):
    """Bits per byte, log-probabilities, KL, and all that `measure` gathers."""
    settings = settings_for(tmp_path)
    policy, tokenizer = policy_on(gpu, made("gpt2"), settings, trains=False)
    reference = copy.deepcopy(policy)
    plain, _ = models.load_causal(made("gpt2"), settings_for(tmp_path, device="cpu"))
    ours, theirs = (evaluation.bits_per_byte(m, tokenizer, TEXTS[:5]) for m in (policy, plain))
    assert ours == pytest.approx(theirs, rel=1e-4)
    choices = [["a film", "the old cat"]] * 3
    for there, here in (
            [evaluation.text_bits(m, tokenizer, TEXTS[:5]) for m in (policy, plain)],
            [evaluation.choice_logprobs(m, tokenizer, PROMPTS[:3], choices)
             for m in (policy, plain)],
            [ask(m, tokenizer, PROMPTS[:3], PROMPTS[1:], PROMPTS[:3], "{question}{a}{b}")
             for m in (policy, plain)]):
        np.testing.assert_allclose(there, here, rtol=1e-3)

    r = sample(policy, tokenizer, PROMPTS, 6, seed=1)
    for where in ("cpu", gpu):
        parts = r.to(where)
        logprobs, entropy = evaluation.response_logprobs(
            policy, parts.prompt_ids, parts.prompt_mask, parts.response_ids, parts.response_mask,
            with_entropy=True)
        torch.testing.assert_close(logprobs, r.logprobs, atol=1e-4, rtol=1e-4)
        assert entropy.isfinite().all()
    nats = evaluation.sequence_kl(logprobs.to(gpu), r.logprobs.to(gpu), r.response_mask.to(gpu))
    assert nats.device == gpu and nats.abs().max().item() < 1e-3

    judge, words = judge_on(gpu, made("gpt2"), settings)
    task = load_profile("embedded", {"ppo_trl.max_new_tokens": 5}).ppo_trl
    found = evaluation.measure(policy, reference, tokenizer, PROMPTS,
                               reward.reward_function(judge, words), task, len, repeats=2)
    assert found["kl"].shape == (4, 2) and np.abs(found["kl"]).max() < 1e-3
    assert evaluation.win_rate(found["scores"][:, 0], found["scores"][:, 1])
    assert evaluation.task_hash(policy, judge, task) == evaluation.task_hash(
        policy.to("cpu"), judge.to("cpu"), task)


# --------------------------------------------------------------------------------- fine-tuning


@pytest.mark.parametrize(("family", "way", "precision"), [
    ("gpt2", {}, PRECISE), ("llama", {"models.lora": True}, AS_ON_A_GPU),
    pytest.param("gpt2", {"models.gradient_checkpointing": True}, AS_ON_A_GPU,
                 marks=pytest.mark.slow)])
def test_fine_tuning(gpu, made, tmp_path, monkeypatch, family, way, precision):
    settings = settings_for(tmp_path, **way, **precision)
    model, tokenizer = policy_on(gpu, made(family), settings)
    before = sft.response_loss(model, tokenizer, ROWS)
    log = sft.train_sft(model, tokenizer, ROWS, settings)
    assert stayed(model, gpu) and all(math.isfinite(row["loss"]) for row in log)
    after = sft.response_losses(model, tokenizer, ROWS)
    assert after[0].sum() / after[1].sum() < before
    monkeypatch.setattr(sft, "LOGITS_AT_ONCE", 600)  # in pieces
    np.testing.assert_allclose(
        sft.response_losses(model, tokenizer, ROWS)[0], after[0], rtol=2e-2)

    course.save_stage("sft", settings, model, tokenizer)
    assert stayed(model, gpu)
    again, own = models.load_stage(settings, "sft")
    assert stayed(again, gpu)
    np.testing.assert_allclose(sft.response_losses(again, own, ROWS)[0], after[0], rtol=2e-2)


def test_what_a_candidate_costs(gpu, made, tmp_path):
    """Notebook 02's measurements, and the loop that writes for them."""
    policy, _ = policy_on(gpu, made("gpt2"), settings_for(tmp_path), trains=False)
    plain, _ = models.load_causal(made("gpt2"), settings_for(tmp_path, device="cpu"))
    ids = torch.arange(2, 14).reshape(2, 6)
    for cached in (True, False):
        there = costs.write_greedily(policy, ids.to(gpu), 4, cached)
        assert there.cpu().tolist() == costs.write_greedily(plain, ids, 4, cached).tolist()
    found = costs.writing_costs(policy, 4, 3, batches=(1, 2), repeats=1)
    assert min(found.values()) > 0 and "tokens/s, batch 2" in found
    assert min(costs.rate_at_length(policy, (4, 8), tokens=3, repeats=1)) > 0


def test_from_random_weights(gpu):
    """Tokenizer, language model by Muon and AdamW, and a classifier with its own tokenizer."""
    model, tokenizer, metrics = from_scratch(tokens=1024, validation=TEXTS[:20])
    assert math.isfinite(metrics["bits_per_byte"]) and stayed(model, torch.device("cpu"))
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS[:32])]
    classifier, words, metrics = scratch.train_classifier(
        rows, rows[:8], small(classifier_vocab_size=120, classifier_dim=16, classifier_layers=1,
                              classifier_heads=2, classifier_max_length=16,
                              classifier_epochs=1), progress=False)
    there = models.class_logits(classifier, words, TEXTS[:6])
    here = models.class_logits(classifier.to(gpu), words, TEXTS[:6])
    np.testing.assert_allclose(here, there, atol=1e-4)
    judge = reward.sentiment_logit(classifier, words)
    np.testing.assert_allclose(judge(["The old cat"], [" sat"]),
                               models.class_logits(classifier, words, ["The old cat sat"])[:, 1])


# ------------------------------------------------------------------------------- reward model


@pytest.mark.parametrize(("family", "way", "likelihood", "precision"), [
    ("gpt2", {}, 0.0, PRECISE), ("gpt2", {}, 0.5, AS_ON_A_GPU),
    pytest.param("gpt_neo", {"models.lora": True}, 0.5, PRECISE,  # a window: no shared prompts
                 marks=pytest.mark.slow),
    ("qwen2", {"models.lora": True}, 0.5, AS_ON_A_GPU)])
def test_a_reward_model(gpu, made, tmp_path, family, way, likelihood, precision):
    settings = settings_for(tmp_path, **way, **precision)
    model, tokenizer = judge_on(gpu, made(family), settings)
    reward.use_likelihood(model, likelihood)
    config = reward.RewardConfig.from_settings(settings, evaluations=2)
    history = reward.train_reward_model(
        model, tokenizer, PAIRS, PAIRS[:4], tmp_path / "run", config)
    assert stayed(model, gpu) and math.isfinite(history[-1]["loss"])
    if precision is PRECISE:
        longer = reward.RewardConfig.from_settings(settings, evaluations=2, epochs=2)
        reward.train_reward_model(
            model, tokenizer, PAIRS, PAIRS[:4], tmp_path / "run", longer, resume=True)
        assert stayed(model, gpu)

    chosen, rejected = reward.score_pairs(model, tokenizer, PAIRS)
    assert np.isfinite(active.pair_features(model, tokenizer, PAIRS)).all()
    prompts = [pair["prompt"] for pair in PAIRS]
    np.testing.assert_allclose(
        reward.score(model, tokenizer, prompts, [pair["chosen"] for pair in PAIRS]), chosen,
        atol=0.05)
    assert np.isfinite(reward.score_pairs(model, tokenizer, PAIRS, bf16=True)).all()
    if likelihood:
        assert np.isfinite(reward.likelihood_margins(model, tokenizer, PAIRS)).all()
    mean, std = reward.set_normalisation(model, np.concatenate([chosen, rejected]))

    history = feedback_loop.update_reward_model(
        model, tokenizer, PAIRS[:4], PAIRS[4:], steps=2, batch_size=4, old_batch_size=4)
    assert stayed(model, gpu) and math.isfinite(history[-1]["old_loss"])
    chosen = reward.score_pairs(model, tokenizer, PAIRS)[0]
    course.save_stage("reward_model", settings, model, tokenizer, metrics={
        "reward_mean": mean, "reward_std": std, "likelihood_weight": likelihood})
    assert stayed(model, gpu)
    again, own = models.load_stage(settings, "reward_model")
    assert stayed(again, gpu)
    np.testing.assert_allclose(reward.score_pairs(again, own, PAIRS)[0], chosen, atol=0.05)
    judge = reward.load_reward_function(settings)
    scores = feedback_loop.score_answers(judge, PROMPTS, [["a cat", "an owl"]] * 4)
    assert np.isfinite(scores).all()


def test_comparisons_with_ties(gpu, made, tmp_path):
    tokenizer = models.load_tokenizer(made("gpt2"))
    model = ties.new_comparison_model(made("gpt2"), tokenizer, settings_for(tmp_path))
    history = ties.train_comparison_model(
        model, tokenizer, COMPARISONS, COMPARISONS, tmp_path / "run", batch_size=8, evaluations=1,
        bf16=True)
    assert stayed(model, gpu) and math.isfinite(history[-1]["loss"])
    np.testing.assert_allclose(ties.compare(model, tokenizer, COMPARISONS).sum(1), 1, atol=1e-5)


# ------------------------------------------------------------------------------------------ PPO


def config(**changes):
    return PPOConfig(**{
        "updates": 1, "batch_size": 4, "epochs": 2, "max_new_tokens": 6, "learning_rate": 1e-3,
        "normalise_samples": 4, "seed": 1, **changes})


@pytest.mark.parametrize(("family", "way", "changes"), [
    ("gpt2", {}, {}),  # packed rows, the first pass's graph kept
    ("gpt2", {}, {"precision": "bfloat16", "micro_batch_size": 2, "entropy_coef": 0.1}),
    pytest.param("gpt_neo", {}, {"mini_batch_size": 2}, marks=pytest.mark.slow),  # padded rows
    ("llama", {"models.lora": True}, {"precision": "bfloat16", "gradient_checkpointing": True}),
    ("gpt2", {"a value model": True}, {"whiten_rewards": True, "score_every": 2}),
])
def test_our_ppo(gpu, made, tmp_path, family, way, changes):
    own_critic = way.pop("a value model", False) if (way := dict(way)) else False
    settings = settings_for(tmp_path, **way, **(AS_ON_A_GPU if way else {}))
    policy, tokenizer = policy_on(gpu, made(family), settings)
    judge, words = judge_on(gpu, made(family), settings)
    critic = ta.new_value_model(policy, tokenizer.pad_token_id) if own_critic else None

    def trainer(policy, updates):
        return PPO(policy, None, reward.reward_function(judge, words), tokenizer,
                   config(checkpoint_every=1, updates=updates, anneal=False, **changes),
                   value_model=copy.deepcopy(critic), checkpoint_dir=tmp_path / "run")

    first = trainer(copy.deepcopy(policy), 1)
    row = first.train(PROMPTS)[0]
    assert stayed(first.model, gpu) and np.isfinite(list(row.values())).all()
    assert row["kl"] == pytest.approx(0, abs=0.3 if "precision" in changes else 1e-3)
    first.save(tmp_path / "stored")
    if way:
        assert stayed(merged(first.policy), torch.device("cpu"))
    written = export.export_model(settings, first.policy, tokenizer, tmp_path / "mine", "mine", {})
    assert (written / "model.safetensors").is_file()

    if changes and not way:
        return
    (state,) = (tmp_path / "run").glob("*/state.json")
    state.write_text(state.read_text().replace('"updates": 1', '"updates": 2'))
    second = trainer(policy, 2)
    assert len(second.train(PROMPTS, resume=True)) == 2
    assert stayed(second.model, gpu)


@pytest.mark.parametrize(("family", "way"), [
    ("gpt2", PRECISE), ("llama", {"models.lora": True, **AS_ON_A_GPU})])
def test_the_plain_loop_of_05(gpu, made, tmp_path, family, way):
    """With adapters the weights below are bfloat16, as the reference's, and the head is float32."""
    settings = settings_for(tmp_path, **way)
    policy, tokenizer = policy_on(gpu, made(family), settings)
    reference = models.freeze(policy_on(gpu, made(family), settings, trains=False)[0])
    head = torch.nn.Linear(policy.config.hidden_size, 1).to(policy.device)
    history = ppo_loop.ppo_loop(
        policy, reference, head, share_of_letter, tokenizer, PROMPTS, config(updates=2))
    assert stayed(policy, gpu) and all(math.isfinite(row["kl"]) for row in history)
    assert history[0]["kl"] == pytest.approx(0, abs=1e-3 if way is PRECISE else 0.3)


@pytest.mark.parametrize(("family", "way"), [
    ("gpt2", PRECISE), ("llama", {"models.lora": True, **AS_ON_A_GPU})])
def test_the_methods_of_08(gpu, made, tmp_path, family, way):
    settings = settings_for(tmp_path, **way)
    policy, tokenizer = policy_on(gpu, made(family), settings)
    reference = models.freeze(policy_on(gpu, made(family), settings, trains=False)[0])
    prompts = [row["prompt"] for row in PAIRS]
    sides = [preference.encode_texts(tokenizer, prompts, [row[side] for row in PAIRS])
             for side in ("chosen", "rejected")]
    precision = "float32" if way is PRECISE else "bfloat16"
    losses = preference.fit_dpo(policy, reference, *sides, 0.1, 0.7, batch_size=4,
                                precision=precision)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4 if way is PRECISE else 0.1)
    assert np.isfinite(preference.fit_imitation(
        policy, sides[0], 0.7, batch_size=4, precision=precision)).all()
    trainer = preference.GroupPPO(
        policy, None if way.get("models.lora") else reference, share_of_letter, tokenizer,
        config(updates=1, normalise_reward=False, value_coef=0.0, whiten_advantages=False), group=2)
    assert np.isfinite(list(trainer.train(PROMPTS)[0].values())).all()
    assert stayed(trainer.model, gpu)
    assert preference.all_response_sums(policy, sides[0]).device == gpu


def test_trls_ppo(gpu, made, tmp_path):
    settings = settings_for(tmp_path, **{
        "ppo_trl.total_episodes": 4, "ppo_trl.batch_size": 4, "ppo_trl.mini_batches": 1,
        "ppo_trl.epochs": 1, "ppo_trl.max_new_tokens": 5})
    policy, tokenizer = policy_on(gpu, made("gpt2"), settings)
    judge, words = judge_on(gpu, made("gpt2"), settings)
    with ta.quiet():
        from datasets import Dataset
        from trl.experimental.ppo import PPOTrainer

        reference = models.freeze(copy.deepcopy(policy))
        ta.ready_for_trl(policy, tokenizer)
        trainer = PPOTrainer(
            args=ta.trl_config(settings, str(tmp_path)), processing_class=tokenizer, model=policy,
            ref_model=reference,
            reward_model=ta.TextReward(reward.reward_function(judge, words), tokenizer, 8),
            value_model=ta.new_value_model(reference, tokenizer.pad_token_id),
            train_dataset=Dataset.from_list(ta.pad_prompts(PROMPTS, tokenizer, 8)))
    row = ta.train_quietly(trainer)[0]
    assert stayed(policy, gpu) and row["objective/kl"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("family", "way"), [
    ("gpt2", PRECISE), ("qwen2", {"models.lora": True, **AS_ON_A_GPU})])
def test_trls_rloo(gpu, made, tmp_path, family, way):
    settings = settings_for(tmp_path, **way)
    policy, tokenizer = policy_on(gpu, made(family), settings)
    judge = reward.reward_function(*judge_on(gpu, made(family), settings))
    with ta.quiet():
        from datasets import Dataset
        from trl import RLOOConfig, RLOOTrainer

        ta.ready_for_trl(policy, tokenizer, tmp_path / "policy")
        trainer = RLOOTrainer(
            model=policy, processing_class=tokenizer,
            reward_funcs=lambda prompts, completions, **_: judge(prompts, completions).tolist(),
            args=RLOOConfig(
                output_dir=str(tmp_path), report_to="none", save_strategy="no", disable_tqdm=True,
                use_cpu=ta.trl_config(settings, str(tmp_path)).use_cpu, bf16=False, max_steps=1,
                gradient_checkpointing=False, logging_steps=1, per_device_train_batch_size=4,
                num_generations=2, max_completion_length=5, dataloader_pin_memory=False,
                disable_dropout=True, beta=0.1),
            train_dataset=Dataset.from_list([{"prompt": p} for p in PROMPTS]))
    row = ta.train_quietly(trainer)[0]
    assert stayed(policy, gpu)
    assert row["kl"] == pytest.approx(0, abs=1e-3 if way is PRECISE else 0.1)


# ------------------------------------------------------------------- what the course is made of


def test_the_models_that_come_with_the_course(gpu, tmp_path):
    settings = settings_for(tmp_path, **{"models.base": "embedded"})
    for load in (models.load_base, models.load_imdb_policy):
        policy, tokenizer = load(settings)
        assert stayed(policy, gpu)
    classifier, words = models.load_classifier(settings)
    assert stayed(classifier, gpu)
    texts = sample(policy, tokenizer, ["This film was"], 4, seed=1).texts
    assert np.isfinite(
        reward.chosen_reward(settings, classifier, words)(["This film was"], texts)).all()


def test_the_loop_of_07(gpu, made, tmp_path):
    """Answers, ratings, pairs, the reward model taught by them, PPO on the new reward."""
    settings = settings_for(tmp_path)
    policy, tokenizer = policy_on(gpu, made("gpt2"), settings, trains=False)
    answers = feedback_loop.sample_answers(policy, tokenizer, PROMPTS, 4, 6, seed=3)
    marks = np.array([[i < 2 for i in range(4)]] * 4)
    items = feedback_loop.items_to_rate(PROMPTS, answers, marks, 16, seed=0)
    rows = [feedback.rating_row(
        item["prompt"], item["response"], dict.fromkeys(feedback.DIMENSIONS, 1 + i % 5),
        annotator="a test", source="simulated") for i, item in enumerate(items)]
    pairs = feedback.ratings_to_pairs(rows)
    judge, words = judge_on(gpu, made("gpt2"), settings)
    assert pairs and feedback_loop.update_reward_model(
        judge, words, pairs, PAIRS, steps=2, batch_size=4, old_batch_size=4)
    score = reward.reward_function(judge.eval(), words)
    assert feedback_loop.score_answers(score, PROMPTS, answers).shape == (4, 4)
    start, _ = policy_on(gpu, made("gpt2"), settings)
    learner = PPO(start, models.freeze(copy.deepcopy(policy)), score, tokenizer, config(epochs=1))
    assert learner.train(PROMPTS)[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert stayed(learner.policy, gpu)


def test_control_is_left_on_the_cpu(gpu):
    c = control.ControlConfig.for_environment(
        "CartPole-v1", total_steps=256, environments=2, rollout_steps=32, hidden=8, epochs=1)
    policy, _ = control.train_control("CartPole-v1", c)
    assert stayed(policy, torch.device("cpu"))
    assert control.evaluate_control("CartPole-v1", policy, episodes=2).min() > 0


# Functions that take a model and are not rehearsed, each with its reason.
NOT_HERE = {
    "count_parameters": "numbers of elements, wherever these are",
    "model_bytes": "the same in bytes",
    "bandit_kl": "two lists of log-probabilities, one for each arm",
    "fits": "reads how many positions a model has, and counts tokens",
    "follow": "a policy of the grid world is a table of arrows",
}


def names_in(tree):
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} | {
        n.name for n in ast.walk(tree) if isinstance(n, ast.alias)}


def test_whatever_takes_a_model_is_rehearsed():
    """Called in this file, or by what is called here; by names, which is as far as reading goes."""
    uses, takes_models = {}, set()
    for path in (paths.ROOT / "helpers").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            uses.setdefault(node.name, set()).update(names_in(node))
            if isinstance(node, ast.FunctionDef) and path.name != "plots.py":
                given = {a.arg for a in [*node.args.args, *node.args.kwonlyargs]}
                if given & {"model", "policy", "classifier"} and not node.name.startswith("_"):
                    takes_models.add(node.name)
    reached, new = set(), names_in(ast.parse(Path(__file__).read_text(encoding="utf-8")))
    while new:
        reached |= new
        new = set().union(*(uses.get(name, ()) for name in new)) - reached
    assert len(takes_models) > 50
    assert takes_models - reached == NOT_HERE.keys()
