"""Supervised fine-tuning: the mask, the loss, and that training moves what it should."""

import copy

import numpy as np
import pytest
import torch
from families import FAMILIES, family_tokenizer, make_family

from helpers import models, scratch, sft
from helpers.engine import place
from helpers.errors import UserError
from helpers.profiles import load_profile

ROWS = [{"prompt": f"\n\nHuman: What is {a} plus {b}?\n\nAssistant:", "response": f"It is {a + b}."}
        for a in range(9) for b in range(9)]


@pytest.fixture(scope="module")
def base():
    torch.set_num_threads(1)
    size = load_profile("embedded", {f"models.scratch.{k}": v for k, v in {
        "vocab_size": 300, "n_layer": 2, "n_embd": 48, "n_head": 2, "n_positions": 48,
        "tokens": 20_000, "batch_tokens": 480}.items()}).models.scratch
    texts = [f"{r['prompt']} {r['response']}" for r in ROWS] * 4
    return scratch.train_from_scratch(texts, size, progress=False)[:2]


def test_the_labels_are_the_response_and_its_end_and_nothing_else(base):
    _, tokenizer = base
    ids, labels = sft.encode_example(tokenizer, ROWS[0]["prompt"], ROWS[0]["response"])
    assert tokenizer.decode(ids) == f"{ROWS[0]['prompt']} {ROWS[0]['response']}<|endoftext|>"
    assert tokenizer.decode([y for y in labels if y != sft.IGNORED]) == " It is 0.<|endoftext|>"


def test_the_loss_equals_a_row_by_row_sum_without_padding(base):
    model, tokenizer = base
    nats, tokens = sft.response_losses(model, tokenizer, ROWS[:7], batch_size=7)
    for i, row in enumerate(ROWS[:7]):
        ids, labels = sft.encode_example(tokenizer, row["prompt"], row["response"])
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1).double()
        slow = -sum(logprobs[t - 1, ids[t]].item() for t in range(1, len(ids))
                    if labels[t] != sft.IGNORED)
        assert nats[i] == pytest.approx(slow, rel=1e-4)
        assert tokens[i] == sum(y != sft.IGNORED for y in labels)
    long = {**ROWS[0], "response": "It is 0, as nothing and nothing are."}
    nats, tokens = sft.response_losses(model, tokenizer, [*ROWS[:2], long])
    assert tokens[2] > tokens[0]  # so a mean of rows' means is another number
    assert (nats / tokens).mean() != pytest.approx(nats.sum() / tokens.sum(), rel=0.01)
    assert sft.response_loss(model, tokenizer, [*ROWS[:2], long]) == pytest.approx(
        nats.sum() / tokens.sum())


def test_training_lowers_the_loss_of_responses_it_did_not_see(base, capsys):
    model, tokenizer = base
    settings = load_profile("embedded", {"sft.epochs": 6, "sft.batch_size": 8})
    held_out, seen = ROWS[::5], [r for i, r in enumerate(ROWS) if i % 5]
    before = sft.response_loss(model, tokenizer, held_out)
    log = sft.train_sft(model, tokenizer, seen, settings)
    assert sft.response_loss(model, tokenizer, held_out) < 0.8 * before
    assert np.mean([r["loss"] for r in log[-3:]]) < np.mean([r["loss"] for r in log[:3]])
    assert "loss" not in capsys.readouterr().out


@pytest.mark.parametrize("fast", [True, False])
def test_training_multiplies_in_bfloat16_where_that_is_faster(base, monkeypatch, fast):
    model, tokenizer = base
    monkeypatch.setattr(place, "fast_bfloat16", lambda kind: fast)
    seen = set()
    hook = model.transformer.h[0].mlp.c_fc.register_forward_hook(
        lambda m, i, output: seen.add(output.dtype))
    sft.train_sft(model, tokenizer, ROWS[:16], load_profile("embedded", {"sft.batch_size": 8}))
    hook.remove()
    assert seen == {torch.bfloat16 if fast else torch.float32}
    assert next(model.parameters()).dtype == torch.float32
    assert model(torch.tensor([[5]])).logits.dtype == torch.float32
    assert "forward" not in vars(model)


def test_rows_longer_than_the_limit_are_left_out_and_none_left_is_an_error(base):
    _, tokenizer = base
    long = {"prompt": ROWS[0]["prompt"], "response": "and " * 200}
    assert sft.short_rows(tokenizer, [*ROWS[:3], long], 60) == ROWS[:3]
    with pytest.raises(UserError, match="no demonstration fits"):
        sft.short_rows(tokenizer, [long], 60)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_logits_are_made_for_response_tokens_only_a_few_at_a_time(tmp_path, monkeypatch, family):
    settings = load_profile("embedded", {"models.base": str(make_family(family, tmp_path))})
    model, tokenizer = models.load_base(settings)
    whole, tokens = sft.response_losses(model, tokenizer, ROWS[:24])
    words, seen = model.get_output_embeddings().weight.shape[0], []
    model.get_output_embeddings().register_forward_hook(
        lambda module, given, made: seen.append(made.numel() // words))
    monkeypatch.setattr(sft, "LOGITS_AT_ONCE", 10 * words)
    nats, _ = sft.response_losses(model, tokenizer, ROWS[:24])
    np.testing.assert_allclose(nats, whole, rtol=1e-4)
    assert max(seen) <= 10 and sum(seen) == tokens.sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_begins_as_the_tokenizer_begins_it_once(family):
    tokenizer = family_tokenizer(family)
    prompt, answer = ROWS[0]["prompt"], ROWS[0]["response"]
    ids, labels = sft.encode_example(tokenizer, prompt, answer)
    assert ids[:-1] == tokenizer(f"{prompt} {answer}")["input_ids"]
    starts = FAMILIES[family][2]
    assert (ids[0] == tokenizer.bos_token_id) == starts
    assert ids[:-1].count(tokenizer.bos_token_id) == int(starts)
    assert labels[0] == sft.IGNORED
    if starts:  # a prompt that spells it out has it once as well
        spelt, _ = sft.encode_example(tokenizer, tokenizer.bos_token + prompt, answer)
        assert spelt.count(tokenizer.bos_token_id) == 1


class Killed(Exception):
    pass


def stop_at(step):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == step:
                raise Killed

    return Stop()


def test_a_fine_tuning_that_was_cut_off_goes_on_to_the_same_weights(base, tmp_path):
    first, tokenizer = base
    settings = load_profile("embedded", {
        "sft.batch_size": 8, "sft.epochs": 1, "sft.checkpoint_every": 3, "mixed_precision": "none"})

    def train(folder, *callbacks):
        model = copy.deepcopy(first)
        log = sft.train_sft(model, tokenizer, ROWS, settings, checkpoints=folder,
                            callbacks=callbacks)
        return model, log

    whole, log = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "cut", stop_at(7))
    [kept] = (tmp_path / "cut").glob("checkpoint-*")
    assert kept.name == "checkpoint-6"
    half = kept.with_name("checkpoint-9")  # what a kill in the middle of saving leaves
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"cut")
    seen = []
    resumed, again = train(tmp_path / "cut", counting(seen))
    assert seen[0] == 6 and len(seen) == len(log) - 6  # every step is logged here
    assert again == log
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def counting(seen):
    from transformers import TrainerCallback

    class Count(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            seen.append(state.global_step)

    return Count()


def test_without_the_setting_or_a_folder_nothing_is_kept(base, tmp_path):
    first, tokenizer = base
    for settings, folder in (({}, tmp_path / "a"), ({"sft.checkpoint_every": 1}, None)):
        sft.train_sft(copy.deepcopy(first), tokenizer, ROWS[:16], load_profile(
            "embedded", {"sft.batch_size": 8, **settings}), checkpoints=folder)
    assert not [*tmp_path.iterdir()]
