"""Models: loading, padding tokens, heads, saving."""

import json

import numpy as np
import pytest
import torch
from support import TEXTS, from_scratch

from helpers import models
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


def test_a_candidate_is_named_without_its_revision(tmp_path):
    settings = load_profile("embedded", {"models.base": "lvwerra/gpt2-imdb@refs/pr/1"})
    assert models.benchmark_candidates(settings, ["owner/other@v1", tmp_path]) == {
        "other": "owner/other@v1", tmp_path.name: str(tmp_path),
        "gpt2-imdb": "lvwerra/gpt2-imdb@refs/pr/1"}
