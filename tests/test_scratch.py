"""Training from random weights: it learns, repeats, takes every architecture, and says no."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support import TEXTS, from_scratch

from helpers import scratch
from helpers.engine.class_logits import class_logits, positive_label
from helpers.errors import UserError
from helpers.evaluation import bits_per_byte
from helpers.profiles import load_profile


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return from_scratch(validation=TEXTS[:64])


def test_training_from_scratch_beats_byte_frequencies_by_far(trained):
    model, tokenizer, metrics = trained
    counts = np.unique(np.frombuffer("\n".join(TEXTS).encode(), dtype=np.uint8),
                       return_counts=True)[1]
    share = counts / counts.sum()
    assert bits_per_byte(model, tokenizer, TEXTS[:32]) < 0.5 * -(share * np.log2(share)).sum()
    assert metrics["val_loss"] < 0.5 * metrics["curve"][0][1]


def test_training_from_scratch_repeats_bit_for_bit():
    torch.set_num_threads(1)
    runs = [from_scratch(tokens=3000, seed=3)[0] for _ in range(2)]
    first, second = (r.state_dict() for r in runs)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "llama"])
def test_every_architecture_trains(architecture):
    model, _, metrics = from_scratch(architecture=architecture, tokens=8000)
    assert model.config.model_type == architecture
    assert metrics["curve"][-1][1] < metrics["curve"][0][1]


def test_the_tokenizer_encodes_any_text_without_loss(trained):
    _, tokenizer, _ = trained
    for text in ("Unseen Wörter, 数字 and 🙂", "\n\nHuman: hi\n\nAssistant:"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_classifier_learns_word_order_free_sentiment():
    good, bad = ("lovely", "superb", "moving"), ("dreadful", "awful", "boring")
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.permutation(
        [*"the film was seen by us in a hall".split(), *rng.choice(words, 3)])), "label": label}
        for label, words in ((1, good), (0, bad)) for _ in range(300)]
    model, tokenizer, metrics = scratch.train_classifier(
        rows, rows[::7], load_profile("embedded", {
            "models.scratch.classifier_dim": 32, "models.scratch.classifier_vocab_size": 200,
            "models.scratch.classifier_epochs": 10}).models.scratch, progress=False)
    assert metrics["accuracy"] > 0.95
    logits = class_logits(model, tokenizer, ["a superb film", "an awful film"])
    assert logits.argmax(1).tolist() == [positive_label(model), 1 - positive_label(model)] == [1, 0]


def test_too_little_text_says_so():
    with pytest.raises(UserError, match="fewer than one row"):
        from_scratch(["short"])
    with pytest.raises(UserError, match="no text"):
        from_scratch([])


def test_a_training_that_blows_up_stops_with_the_remedy(monkeypatch):
    real = scratch._optimisers
    monkeypatch.setattr(scratch, "_optimisers", lambda model, rate: real(model, 1e9 * rate))
    with pytest.raises(UserError, match="lower its learning rate"):
        from_scratch(tokens=20_000)


@pytest.mark.parametrize("named", [None, "mine", "PyTorch's own"])
def test_compiled_code_is_kept_apart_by_instructions(named, tmp_path, monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folders = []

    def compiler(loss_of, dynamic):
        folders.append(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
        return loss_of

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    if named != "mine":
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    if named == "PyTorch's own":  # which it writes into the environment when something asks for it
        cache_dir()
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    for capability in ("AVX2", "AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", before or "")
        scratch._compiled(lambda model, batch: 0, None, None)
    scratch._compiled(lambda model, batch: 0, None, None)  # once more in the same process
    assert folders[0] == folders[1] and folders[2] == folders[3]
    assert [folder.name for folder in folders[1:3]] == ["AVX2", "AVX512"]
    if before:
        assert {folder.parent for folder in folders} == {Path(before)}
