"""Models: loading, padding tokens, heads, saving."""

import json

import numpy as np
import pytest
import torch
from families import make_family
from support import TEXTS, from_scratch
from transformers import AutoModelForCausalLM, GenerationConfig

from helpers import course, models
from helpers.engine.place import backbone
from helpers.errors import UserError
from helpers.evaluation import bits_per_byte
from helpers.generation import sample
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
    settings = load_profile("embedded", {"models.base": "lvwerra/gpt2-imdb@refs/pr/1",
                                         "models.candidates": ["owner/first", "lvwerra/gpt2-imdb"]})
    assert models.benchmark_candidates(settings, ["owner/other@v1", tmp_path]) == {
        "first": "owner/first", "other": "owner/other@v1", tmp_path.name: str(tmp_path),
        "gpt2-imdb": "lvwerra/gpt2-imdb@refs/pr/1"}


def test_the_base_stands_last_among_the_candidates_and_once():
    named = models.benchmark_candidates(load_profile("embedded", {"models.base": "a/base"}),
                                        ["b/base", "c/other"])
    assert list(named.items()) == [("other", "c/other"), ("base", "a/base")]
    assert list(models.benchmark_candidates(load_profile()))[-1] == "base"


# --------------------------------------------------- what a folder brings beside weights and words

SAMPLING = {
    "repetition_penalty": 3.0, "temperature": 0.2, "top_k": 3, "top_p": 0.3, "min_p": 0.4,
    "typical_p": 0.2, "no_repeat_ngram_size": 2, "bad_words_ids": [[70], [71]],
    "suppress_tokens": [70, 71], "begin_suppress_tokens": [70], "forced_bos_token_id": 5,
    "forced_eos_token_id": 6, "sequence_bias": [[[70], 9.0]], "encoder_repetition_penalty": 2.0,
    "exponential_decay_length_penalty": [1, 2.0], "min_length": 30, "min_new_tokens": 9,
    "num_beams": 3, "penalty_alpha": 0.6, "guidance_scale": 3.0, "renormalize_logits": True,
    "watermarking_config": {"bias": 5.0, "seeding_scheme": "selfhash"}, "do_sample": True,
    "max_length": 7, "max_new_tokens": 2, "num_return_sequences": 3, "stop_strings": ["the"],
    "epsilon_cutoff": 0.2, "eta_cutoff": 0.2, "cache_implementation": "static",
    "dola_layers": "low", "top_h": 0.3, "nobody_knows_this": 5, "wrong": {"temperature": "hot"},
}


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_of_sampling_settings_only_the_ids_are_kept_and_saved(tmp_path, file):
    """In either file: checkpoints from before 2023 have them in config.json."""
    folder = make_family("llama", tmp_path / "base")
    if file == "config.json":
        (folder / "generation_config.json").unlink()
    content = json.loads((folder / file).read_text()) | SAMPLING | {"eos_token_id": [301, 9]}
    (folder / file).write_text(json.dumps(content))
    settings = load_profile("embedded", {"models.base": str(folder), "out": str(tmp_path)})
    model, tokenizer = models.load_base(settings)
    plain = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=[tokenizer.eos_token_id, 9],
                 pad_token_id=tokenizer.pad_token_id)
    assert tokenizer.eos_token_id == 301
    kept = model.generation_config.to_dict()
    assert {k: kept[k] for k in plain} == plain
    assert kept | plain == GenerationConfig(**plain).to_dict() | {
        "transformers_version": kept["transformers_version"]}
    known = set(GenerationConfig().to_dict())
    assert model.sampling_set_aside.items() >= {
        k: v for k, v in SAMPLING.items() if k in known and not isinstance(v, list | dict)}.items()
    course.save_stage("sft", settings, model, tokenizer)
    saved = json.loads((settings.artifacts / "sft" / "generation_config.json").read_text())
    assert {k: v for k, v in saved.items() if k not in ("transformers_version",)} == plain
    again, _ = models.load_stage(settings, "sft")
    assert again.generation_config.eos_token_id == [301, 9] and not again.sampling_set_aside


def test_settings_that_the_library_cannot_read_are_no_hindrance(tmp_path):
    folder = make_family("gpt2", tmp_path / "base")
    (folder / "generation_config.json").write_text(json.dumps(
        {"temperature": "hot", "num_beams": -3, "watermarking_config": 5, "eos_token_id": "x"}))
    model, tokenizer = models.load_causal(folder, load_profile())
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    model.save_pretrained(tmp_path / "again")


def test_what_a_model_brings_is_said_once(tmp_path, capsys):
    models._say_once.cache_clear()
    quiet, spoken = make_family("gpt2", tmp_path / "quiet"), make_family("gemma2", tmp_path / "two")
    models.load_causal(quiet, load_profile())
    assert capsys.readouterr().out == ""
    for _ in range(2):
        models.load_causal(spoken, load_profile())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "'<bos>'" in lines[0]
    assert all(word in lines[1] for word in ("not used", "repetition_penalty=1.1", "top_k=20"))


@pytest.mark.parametrize("family", ["qwen2", "gpt_neox"])  # tied and not
@pytest.mark.parametrize("trains", [False, True])
def test_rows_that_no_token_has_are_cut_off_and_the_others_stay(tmp_path, family, trains):
    """A likely id beyond the tokenizer would be sampled, and be nothing in the text."""
    folder = make_family(family, tmp_path / "base")
    raw = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = load_profile("embedded", {"models.base": str(folder), "dtype": "float32"})
    model, tokenizer = models.load_base(settings, trains=trains)
    words = max(tokenizer.get_vocab().values()) + 1
    assert raw.config.vocab_size > words == model.config.vocab_size
    ids = torch.arange(40)[None]
    own = model.eval()(ids).logits
    assert own.shape[-1] == words
    known = tokenizer.pad_token_id if family == "qwen2" else words  # qwen2's pad has a new meaning
    assert torch.allclose(own[..., :known], raw.eval()(ids).logits[..., :known], atol=1e-5)
    rollout = sample(model, tokenizer, ["The old cat"] * 64, 8, temperature=30.0, seed=0)
    assert rollout.response_ids.max() < words
    model.save_pretrained(tmp_path / "stored")
    tokenizer.save_pretrained(tmp_path / "stored")
    again, _ = models.load_causal(tmp_path / "stored", settings)
    assert torch.equal(again.eval()(ids).logits, own)


def test_a_hole_in_the_ids_keeps_the_rows_behind_it(tmp_path):
    """Ids may be left out: what counts is the last one, not how many there are."""
    folder = make_family("gpt2", tmp_path / "base")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 310, "content": "<|far|>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    model, tokenizer = models.load_causal(folder, load_profile())
    assert max(tokenizer.get_vocab().values()) < model.get_input_embeddings().num_embeddings
