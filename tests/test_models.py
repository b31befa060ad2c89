"""Models: loading, padding tokens, heads, saving."""

import json

import numpy as np
import pytest
import torch
from families import make_family
from support import TEXTS, from_scratch

from helpers import course, models
from helpers.engine.place import backbone
from helpers.errors import UserError
from helpers.evaluation import bits_per_byte
from helpers.profiles import load_profile


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return from_scratch()


def test_saved_in_half_precision_it_predicts_the_same(trained, tmp_path):
    model, tokenizer, _ = trained
    before = bits_per_byte(model, tokenizer, TEXTS[:32])
    models.save(model, tokenizer, tmp_path, half=True)
    model.float()
    assert not list(tmp_path.glob("*.bin"))
    again, own = models.load_causal(tmp_path, load_profile())
    assert abs(bits_per_byte(again, own, TEXTS[:32]) - before) < 2e-3
    assert next(again.parameters()).dtype == torch.float32


def test_a_missing_or_shared_pad_token_is_replaced_and_the_embedding_grows(trained, tmp_path):
    model, tokenizer, _ = trained
    models.save(model, tokenizer, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["pad_token"] = config["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded, own = models.load_causal(tmp_path, load_profile())
    assert own.pad_token_id != own.eos_token_id
    assert loaded.get_input_embeddings().num_embeddings > own.pad_token_id
    assert own.padding_side == "left"


def test_a_reward_head_starts_with_the_published_spread(trained, tmp_path):
    model, tokenizer, _ = trained
    models.save(model, tokenizer, tmp_path)
    torch.manual_seed(0)
    heads = torch.cat([models.new_reward_model(tmp_path, tokenizer, load_profile()).score.weight
                       for _ in range(40)])
    assert heads.std().item() == pytest.approx(1 / np.sqrt(32 + 1), rel=0.08)


def test_parameters_are_counted_and_freezing_leaves_none_trainable(trained):
    model = models.freeze(trained[0].__class__(trained[0].config))
    counted = models.count_parameters(model)
    assert counted["trainable"] == 0
    assert counted["total"] == sum(p.numel() for p in set(model.parameters()))
    assert counted["embedding"] == model.config.vocab_size * model.config.n_embd


@pytest.mark.parametrize(("overrides", "words"), [
    ({"models.base": "no/such-model"}, "could not be loaded"),
    ({"models.base": "nowhere"}, "could not be loaded"),
    ({"device": "cuda"}, "PyTorch sees no GPU"),
])
def test_what_cannot_be_loaded_is_one_sentence(overrides, words):
    if overrides.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so the refusal cannot be seen")
    with pytest.raises(UserError, match=words) as caught:
        models.load_base(load_profile("embedded", overrides))
    assert "\n" not in str(caught.value)


def test_dropout_that_is_a_plain_number_is_switched_off_too():
    """Llama hands a number to its attention, and only in training mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=48, attention_dropout=0.5)).train()
    ids = torch.arange(16)[None]
    assert not torch.equal(model(ids).logits, model(ids).logits)
    models.disable_dropout(model)
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("lora", [False, True])
def test_what_trains_is_float32_and_what_is_frozen_may_be_bfloat16(tmp_path, lora):
    """A step of 1e-5 on a weight of .1 is lost in bfloat16, which has three digits."""
    make_family("llama", tmp_path / "base")
    settings = load_profile("embedded", {
        "models.base": str(tmp_path / "base"), "dtype": "bfloat16", "models.lora": lora,
        "out": str(tmp_path)})
    frozen, tokenizer = models.load_base(settings)
    policy, _ = models.load_base(settings, trains=True)
    judge = models.new_reward_model(tmp_path / "base", tokenizer, settings)
    assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}
    for model in (policy, judge):
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        assert backbone(model).dtype == (torch.bfloat16 if lora else torch.float32)
    course.save_stage("reward_model", settings, judge, tokenizer)
    loaded, _ = models.load_stage(settings, "reward_model")
    assert loaded.dtype == torch.bfloat16 and loaded.score.weight.dtype == torch.float32
    again, _ = models.load_stage(settings, "reward_model", trains=True)
    assert {p.dtype for p in again.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("way", [{}, {"models.lora": True}])
def test_checkpointing_is_switched_on_where_a_model_trains(tmp_path, way):
    make_family("qwen2", tmp_path / "base")
    ids = torch.arange(20)[None]
    gradients = []
    for on in (False, True):
        settings = load_profile("embedded", {
            "models.base": str(tmp_path / "base"), "models.gradient_checkpointing": on, **way})
        torch.manual_seed(0)
        model, _ = models.load_base(settings, trains=True)
        assert backbone(model).is_gradient_checkpointing == on
        model.train()(input_ids=ids, labels=ids).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()
                                    if p.grad is not None]))
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("wrap", ["PEFT", "DDP's place", "none"])
def test_the_backbone_is_found_in_whatever_wraps_the_model(tmp_path, wrap):
    make_family("llama", tmp_path / "base")
    settings = load_profile("embedded", {"models.lora": wrap == "PEFT"})
    tokenizer = models.load_tokenizer(tmp_path / "base")
    model = models.new_reward_model(tmp_path / "base", tokenizer, settings)
    if wrap == "DDP's place":
        model = torch.nn.DataParallel(model)
    assert backbone(model)(input_ids=torch.tensor([[1, 2]])).last_hidden_state.shape == (1, 2, 32)


def test_a_candidate_is_named_without_its_revision(tmp_path):
    settings = load_profile("embedded", {"models.base": "lvwerra/gpt2-imdb@refs/pr/1"})
    assert models.benchmark_candidates(settings, ["owner/other@v1", tmp_path]) == {
        "other": "owner/other@v1", tmp_path.name: str(tmp_path),
        "gpt2-imdb": "lvwerra/gpt2-imdb@refs/pr/1"}
