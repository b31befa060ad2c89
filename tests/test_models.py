"""Models: loading, padding tokens, training from scratch, saving."""

import json

import numpy as np
import pytest
import torch

from helpers import models
from helpers.errors import UserError
from helpers.evaluation import bits_per_byte
from helpers.profiles import load_profile

TEXTS = [f"The {a} {b} sat on the {c}." for a in ("old", "young", "grey", "quiet")
         for b in ("cat", "dog", "owl", "fox") for c in ("mat", "wall", "roof", "step")] * 8


def scratch(**changes):
    small = {"vocab_size": 300, "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 32,
             "tokens": 40_000, "batch_tokens": 256}
    return load_profile("embedded", {
        f"models.scratch.{k}": v for k, v in {**small, **changes}.items()}).models.scratch


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return models.train_from_scratch(TEXTS, scratch(), validation=TEXTS[:64], progress=False)


def test_training_from_scratch_beats_byte_frequencies_by_far(trained):
    model, tokenizer, metrics = trained
    counts = np.unique(np.frombuffer("\n".join(TEXTS).encode(), dtype=np.uint8),
                       return_counts=True)[1]
    share = counts / counts.sum()
    assert bits_per_byte(model, tokenizer, TEXTS[:32]) < 0.5 * -(share * np.log2(share)).sum()
    assert metrics["val_loss"] < 0.5 * metrics["curve"][0][1]


def test_training_from_scratch_repeats_bit_for_bit():
    torch.set_num_threads(1)
    runs = [models.train_from_scratch(TEXTS, scratch(tokens=3000), seed=3, progress=False)[0]
            for _ in range(2)]
    first, second = (r.state_dict() for r in runs)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "llama"])
def test_every_architecture_trains(architecture):
    model, _, metrics = models.train_from_scratch(
        TEXTS, scratch(architecture=architecture, tokens=8000), progress=False)
    assert model.config.model_type == architecture
    assert metrics["curve"][-1][1] < metrics["curve"][0][1]


@pytest.mark.parametrize("fast", [True, False])
def test_mixed_precision_asks_the_profile_and_the_machine(monkeypatch, fast):
    monkeypatch.setattr(models, "fast_bfloat16", lambda kind: fast)
    assert models.mixed_precision(load_profile()) is fast
    assert not models.mixed_precision(load_profile("embedded", {"mixed_precision": "none"}))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_plain_attention_predicts_the_same(architecture):
    model, tokenizer, _ = models.train_from_scratch(
        TEXTS, scratch(architecture=architecture, tokens=3000), progress=False)
    batch = tokenizer(["The old cat sat on", "The"], return_tensors="pt", padding=True)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        before = model(**batch).logits[:, -1]
        after = models.plain_attention(model)(**batch).logits[:, -1]
    assert model.config._attn_implementation == "eager"
    assert torch.allclose(before, after, atol=1e-5)


def test_the_tokenizer_encodes_any_text_without_loss(trained):
    _, tokenizer, _ = trained
    for text in ("Unseen Wörter, 数字 and 🙂", "\n\nHuman: hi\n\nAssistant:"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


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


def test_a_classifier_learns_word_order_free_sentiment():
    good, bad = ("lovely", "superb", "moving"), ("dreadful", "awful", "boring")
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.permutation(
        [*"the film was seen by us in a hall".split(), *rng.choice(words, 3)])), "label": label}
        for label, words in ((1, good), (0, bad)) for _ in range(300)]
    model, tokenizer, metrics = models.train_classifier(
        rows, rows[::7], load_profile("embedded", {
            "models.scratch.classifier_dim": 32, "models.scratch.classifier_vocab_size": 200,
            "models.scratch.classifier_epochs": 10}).models.scratch, progress=False)
    assert metrics["accuracy"] > 0.95
    high, low = models.classify(model, tokenizer, ["a superb film", "an awful film"])
    assert high > 0 > low


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


def test_too_little_text_says_so():
    with pytest.raises(UserError, match="fewer than one row"):
        models.train_from_scratch(["short"], scratch(), progress=False)
    with pytest.raises(UserError, match="no text"):
        models.train_from_scratch([], scratch(), progress=False)


def test_a_learning_rate_that_blows_up_stops_with_the_remedy():
    with pytest.raises(UserError, match="lower its learning rate"):
        models.train_from_scratch(TEXTS, scratch(learning_rate=1e9, tokens=20_000),
                                  progress=False)


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
