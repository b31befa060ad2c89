"""Reward models beyond one run: settings that reach training, margins, adapters, curves."""

import math

import numpy as np
import pytest
import torch
from conftest import ROOT
from support import answer_tokenizer, make_pairs, make_scorer, train_scorer

from helpers import data, models, reward
from helpers.engine import artifacts
from helpers.errors import UserError
from helpers.profiles import load_profile


@pytest.fixture(scope="module")
def tokenizer():
    return answer_tokenizer()


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(("key", "value", "words"), [
    ("patience", 0, "must be positive"),
    ("gradient_accumulation", 1.5, "whole number"),
    ("margin_from_scores", "yes", "true or false"),
    ("report_to", "", "must be one of none"),
])
def test_settings_of_the_training_refuse_what_cannot_be_meant(key, value, words):
    with pytest.raises(UserError, match=f"reward.{key}.* {words}"):
        load_profile("embedded", {f"reward.{key}": value})


def test_where_curves_are_logged_makes_no_reward_model_stale():
    def of(**changes):
        settings = load_profile("embedded", {f"reward.{k}": v for k, v in changes.items()})
        return artifacts.relevant_settings("reward_model", settings)

    assert of() == of(report_to="tensorboard")
    assert of() != of(patience=2) and of() != of(margin_from_scores=True)


def test_tensorboard_finds_the_curves_in_the_training_folder(tokenizer, tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard lets this run")
    train_scorer(tokenizer, tmp_path, pairs=make_pairs(32), epochs=1, report_to="tensorboard")
    [file] = tmp_path.rglob("events.out.tfevents.*")
    assert b"eval/accuracy" in file.read_bytes() and b"train/loss" in file.read_bytes()


def test_weights_and_biases_logs_without_a_network(tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install wandb lets this run")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train_scorer(tokenizer, tmp_path / "run", pairs=make_pairs(32), epochs=1, report_to="wandb")
    assert list(tmp_path.rglob("*.wandb"))


def test_trackio_logs_without_a_network(tokenizer, tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio", reason="pip install trackio lets this run")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    train_scorer(tokenizer, tmp_path / "run", pairs=make_pairs(32), epochs=1, report_to="trackio")
    trackio.finish()
    assert list(tmp_path.rglob("*.db"))


def test_accumulated_batches_make_one_step_of_the_same_gradient(tokenizer, tmp_path):
    """The mean over two halves of a batch is the mean over the batch."""
    from transformers import TrainerCallback

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            kept.append(torch.cat([p.grad.flatten() for p in model.parameters()
                                   if p.grad is not None]))

    kept = []
    for batch_size, halves in ((32, 1), (16, 2)):
        model = models.disable_dropout(make_scorer(tokenizer))
        _, history = train_scorer(
            tokenizer, tmp_path / str(halves), model=model, pairs=make_pairs(32), epochs=1,
            batch_size=batch_size, gradient_accumulation=halves, callbacks=[Keep()],
            max_grad_norm=1e9)
        assert history[-1]["step"] == 1 and history[-1]["pairs"] == 32
    torch.testing.assert_close(kept[1], kept[0], atol=1e-6, rtol=1e-4)


def test_training_stops_when_patience_ends_and_keeps_the_best(tokenizer, tmp_path):
    def backwards(chosen, rejected, margin):
        loss = reward.bradley_terry_loss(chosen, rejected, margin)
        return -loss if chosen.requires_grad else loss  # learns the opposite, is judged rightly

    model, history = train_scorer(
        tokenizer, tmp_path, loss_fn=backwards, patience=2, epochs=6, learning_rate=2e-3)
    losses = [row["loss"] for row in history[1:]]  # the first row is from before training
    assert len(losses) == losses.index(min(losses)) + 1 + 2 < 6
    chosen, rejected = reward.score_pairs(model, tokenizer, make_pairs(60, seed=1))
    loss = reward.bradley_terry_loss(torch.tensor(chosen), torch.tensor(rejected)).item()
    assert loss == pytest.approx(min(losses), abs=1e-4)


# ------------------------------------------------------------------------------------- margins


def test_margins_made_of_scores_reach_the_loss_of_their_pair(tokenizer, tmp_path):
    pairs = [pair | {"score_gap": float(i)} for i, pair in enumerate(make_pairs(16))]
    seen = []

    def watched(chosen, rejected, margin):
        if chosen.requires_grad:
            seen.extend(margin.tolist())
        return reward.bradley_terry_loss(chosen, rejected, margin)

    train_scorer(
        tokenizer, tmp_path, pairs=data.with_margins(pairs, 0.5), epochs=1, loss_fn=watched)
    assert sorted(seen) == pytest.approx([i / 15 for i in range(16)])  # mean one half
    seen.clear()
    train_scorer(tokenizer, tmp_path / "plain", pairs=pairs, epochs=1, loss_fn=watched)
    assert not any(seen)  # a score alone is no margin


def test_a_margin_makes_the_best_gap_overstate_the_share_that_agrees():
    """p σ(m − Δ) = (1 − p) σ(m + Δ) at the best gap, which overstates p for m > 0."""
    gaps = torch.linspace(0, 12, 24_001, dtype=torch.float64)
    log_sigmoid = torch.nn.functional.logsigmoid
    for p, m in ((0.6, 0.5), (0.9, 1.0), (0.7, 0.0)):
        best = gaps[(-p * log_sigmoid(gaps - m) - (1 - p) * log_sigmoid(-gaps - m)).argmin()]
        left, right = p * torch.sigmoid(m - best), (1 - p) * torch.sigmoid(m + best)
        assert left.item() == pytest.approx(right.item(), abs=1e-3)
        assert torch.sigmoid(best).item() > p if m else torch.sigmoid(best).item() == pytest.approx(
            p, abs=1e-3)


# ------------------------------------------------------------------------------------ four bits


def test_a_backbone_in_four_bits_is_trained_through_its_adapters_alone(tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes lets this run")
    make_scorer(tokenizer).save_pretrained(tmp_path / "base")
    settings = load_profile("embedded", {"models.quantise": "nf4", "models.lora": True})
    model = models.new_reward_model(tmp_path / "base", tokenizer, settings)
    packed = {n: p.clone() for n, p in model.named_parameters() if p.dtype == torch.uint8}
    head = model.score.weight.clone()
    assert len(packed) == 8  # four matrices in each of two layers
    _, history = train_scorer(tokenizer, tmp_path / "run", model=model, pairs=make_pairs(64))
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], before) for name, before in packed.items())
    assert not torch.equal(model.score.weight, head)
    assert history[-1]["loss"] < history[0]["loss"]


# ---------------------------------------------------------------------------------- the curves


@pytest.fixture
def curves(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import reward_curves

    return reward_curves


def test_flipped_labels_are_as_many_as_asked_for(curves):
    pairs = make_pairs(50)
    noisy = curves.flipped(pairs, 0.2, seed=3)
    turned = [a["chosen"] == b["rejected"] and a["rejected"] == b["chosen"]
              for a, b in zip(noisy, pairs, strict=True)]
    assert sum(turned) == 10
    assert all(t or a == b for t, a, b in zip(turned, noisy, pairs, strict=True))
    assert curves.flipped(pairs, 0.0, seed=3) == pairs


def test_the_plain_loop_learns(curves, tokenizer):
    model, test = make_scorer(tokenizer), make_pairs(60, seed=1)
    rows = reward.encode_pairs(tokenizer, make_pairs(320), 64)
    settings = load_profile("embedded", {"reward.learning_rate": 1e-2}).reward
    batches = [rows[i:i + 16] for i in range(0, len(rows), 16)]
    curves.plain_loop(model, batches, tokenizer.pad_token_id, settings)
    margins = np.subtract(*reward.score_pairs(model, tokenizer, test))
    assert reward.pair_accuracy(margins).mean() > 0.9


def test_new_rows_replace_those_of_their_study_and_seed_only(curves, monkeypatch, tmp_path):
    class Small:
        test = [{"probability": 0.8}]

    from benchmarks.shared import store

    monkeypatch.setattr(store, "RESULTS", tmp_path)
    monkeypatch.setattr(curves, "made_of", lambda bench: bench.source)
    bench = Small()
    bench.source = "one"
    curves.store(bench, [{"study": "noise", "seed": s, "accuracy": 0.1} for s in (0, 1)])
    curves.store(bench, [{"study": "noise", "seed": 1, "accuracy": 0.9}])
    rows = store.load("reward_curves")["rows"]
    assert [(row["seed"], row["accuracy"]) for row in rows] == [(0, 0.1), (1, 0.9)]
    bench.source = "another model"  # old rows no longer belong to it
    curves.store(bench, [{"study": "pairs", "seed": 0}])
    assert store.load("reward_curves")["rows"] == [{"study": "pairs", "seed": 0}]


def test_few_pairs_are_passed_over_more_often(curves):
    from benchmarks.shared.reward_bench import AT_LEAST

    bench = object.__new__(curves.Bench)
    bench.settings, bench.scale = load_profile("embedded", {"reward.epochs": 2}), 1.0
    assert [bench.epochs(n) for n in (250, 1000, 8000)] == [
        math.ceil(AT_LEAST / 250), 2, 2]
