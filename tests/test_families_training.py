"""Every family of models, every way of training: what trains, what is saved, what comes back.

Each cell of the table fine-tunes a tiny model with the habits of its family (03) and trains a
reward model on it (04): with all weights, with LoRA, and with LoRA on weights in four bits.
"""

import json

import numpy as np
import pytest
import torch
from families import FAMILIES, POSITIONS, make_family

from helpers import course, models, reward, sft
from helpers.engine.adapters import in_four_bits
from helpers.engine.scale import scale_of
from helpers.profiles import load_profile

WAYS = {
    "full": {},
    "LoRA": {"models.lora": True},
    "NF4": {"models.lora": True, "models.quantise": "nf4",
            "models.quantised": ["policy", "reward"]},
}
# Enough for every push: each family, each way, and what each way is hardest on.
ALWAYS = {("gpt2", "full"), ("gpt2", "NF4"), ("gpt_neo", "LoRA"), ("gpt_neox", "NF4"),
          ("llama", "LoRA"), ("qwen2", "full"), ("qwen2", "LoRA"), ("mistral", "NF4"),
          ("gemma", "LoRA"), ("gemma2", "full")}
CELLS = [pytest.param(family, way, id=f"{family}-{way}",
                      marks=[] if (family, way) in ALWAYS else pytest.mark.slow)
         for family in FAMILIES for way in WAYS]
PLACES, WORDS = ("mat", "wall", "roof", "step"), ("old", "young", "grey", "quiet")
ROWS = [{"prompt": f"\n\nHuman: Where is the {word} {animal}?\n\nAssistant:",
         "response": f"The {word} {animal} sat on the {PLACES[i % 4]}."}
        for i, word in enumerate(WORDS) for animal in ("cat", "dog", "owl", "fox")] * 2
PAIRS = [{"prompt": row["prompt"], "chosen": row["response"],
          "rejected": f"The {WORDS[i % 4]} sat."} for i, row in enumerate(ROWS)]


def settings_of(family, way, folder, **overrides):
    """A profile whose base model is of this family and is trained this way."""
    return load_profile("embedded", {
        "models.base": str(make_family(family, folder / "base")), "out": str(folder / "made"),
        "mixed_precision": "none", "sft.batch_size": 8, "sft.epochs": 3, "reward.likelihood": 0,
        "sft.learning_rate": 1e-3 if way == "full" else 1e-2, "reward.epochs": 4,
        "reward.batch_size": 8, "reward.learning_rate": 1e-3 if way == "full" else 1e-2,
        "reward.max_length": POSITIONS, "models.lora_r": 4, "models.lora_alpha": 8,
        **WAYS[way], **overrides})


def copied(model):
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def changed(before, model):
    return {name for name, tensor in model.named_parameters()
            if not torch.equal(tensor, before[name])}


def meant(model, way):
    """Names of the tensors that this way of training is to change."""
    names = {name for name, _ in model.named_parameters()}
    return names if way == "full" else {
        name for name in names if "lora_" in name or "modules_to_save" in name}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize(("family", "way"), CELLS)
def test_fine_tuning(family, way, tmp_path):
    if way == "NF4":
        pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes lets this run")
    settings = settings_of(family, way, tmp_path)
    model, tokenizer = models.load_base(settings, trains=True)
    assert in_four_bits(model) == (way == "NF4")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    before, loss = copied(model), sft.response_loss(model, tokenizer, ROWS)
    sft.train_sft(model, tokenizer, ROWS, settings)
    assert sft.response_loss(model, tokenizer, ROWS) < 0.9 * loss
    assert changed(before, model) == meant(model, way)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}

    course.save_stage("sft", settings, model, tokenizer)
    trained = sft.response_losses(model, tokenizer, ROWS)[0]
    again, own = models.load_stage(settings, "sft")
    assert not (settings.artifacts / "sft" / "adapter_config.json").exists()
    np.testing.assert_allclose(sft.response_losses(again, own, ROWS)[0], trained, rtol=1e-4)
    if way == "LoRA":  # what trains on starts from what was saved, which is its reference
        further, own = models.load_stage(settings, "sft", trains=True)
        np.testing.assert_allclose(sft.response_losses(further, own, ROWS)[0], trained, rtol=1e-4)


@pytest.mark.parametrize(("family", "way"), CELLS)
def test_a_reward_model(family, way, tmp_path):
    if way == "NF4":
        pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes lets this run")
    settings = settings_of(family, way, tmp_path)
    tokenizer = models.load_tokenizer(settings.models.base)
    model = models.new_reward_model(settings.models.base, tokenizer, settings)
    assert in_four_bits(model) == (way == "NF4")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    before = copied(model)
    config = reward.RewardConfig.from_settings(settings, evaluations=2, patience=None)
    history = reward.train_reward_model(
        model, tokenizer, PAIRS, PAIRS, tmp_path / "run", config)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    # What the last norm adds to every state adds the same to both rewards: no loss sees it.
    unseen = {name for name in before if name.endswith(("ln_f.bias", "final_layer_norm.bias"))}
    assert changed(before, model) - unseen == meant(model, way) - unseen
    assert any("score" in name for name in changed(before, model))

    trained = reward.score_pairs(model, tokenizer, PAIRS)
    mean, std = reward.set_normalisation(model, trained[0])
    course.save_stage("reward_model", settings, model, tokenizer, metrics={
        "reward_mean": mean, "reward_std": std})
    again, own = models.load_stage(settings, "reward_model")
    assert in_four_bits(again) == (way == "NF4")  # as it was trained
    assert (scale_of(again).mean, scale_of(again).std) == (mean, std)
    for now, then in zip(reward.score_pairs(again, own, PAIRS), trained, strict=True):
        np.testing.assert_allclose(now, then, atol=1e-5 * max(1.0, np.abs(then).max()))


def test_the_published_count_of_trained_parameters():
    """GPT-Neo-125M, r = 8 on two square matrices of 768 in each of 12 layers: 12·2·8·(768+768)."""
    from transformers import AutoModelForCausalLM, GPTNeoConfig

    settings = load_profile("embedded", {
        "models.lora": True, "models.lora_r": 8, "models.lora_alpha": 16,
        "models.lora_targets": ["q_proj", "v_proj"]})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(GPTNeoConfig(
            hidden_size=768, num_layers=12, num_heads=12,
            attention_types=[[["global", "local"], 6]]))
        model = models.add_lora(model, settings)
    assert models.count_parameters(model)["trainable"] == 294_912
    assert model.active_peft_config.lora_alpha == 16


def test_a_quantised_backbone_takes_no_part_in_another_model(tmp_path):
    """`quantised: [reward]` leaves the policy as it is, and its stage depends on none."""
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes lets this run")
    settings = settings_of("llama", "NF4", tmp_path, **{"models.quantised": ["reward"]})
    policy, tokenizer = models.load_base(settings, trains=True)
    assert not in_four_bits(policy) and hasattr(policy, "disable_adapter")
    course.save_stage("sft", settings, policy, tokenizer)
    info = json.loads((settings.artifacts / "sft" / "stage.json").read_text())
    assert info["settings"]["models.quantise"] == "none"
    assert in_four_bits(models.new_reward_model(settings.artifacts / "sft", tokenizer, settings))
