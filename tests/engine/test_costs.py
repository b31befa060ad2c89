"""What a model costs, against tensors of known size and transformers' own generation."""

import pytest
import torch

from helpers import models
from helpers.engine import costs
from helpers.errors import UserError
from helpers.profiles import load_profile

FAMILIES = ("gpt2", "gpt_neo", "gpt_neox", "llama", "qwen2")


def loaded(folder):
    return models.load_causal(folder, load_profile())[0]


def test_the_most_bytes_held_at_once_are_counted_and_what_was_there_is_not():
    there = torch.ones(1000)
    assert costs.peak_bytes(lambda: torch.ones(1000)) == 4000
    assert costs.peak_bytes(lambda: (there + 1) * 2) == 8000

    def one_after_another():
        for _ in range(5):
            torch.zeros(1000)

    assert costs.peak_bytes(one_after_another) == 4000
    assert costs.peak_bytes(lambda: there.view(10, 100).t()) == 0
    assert costs.peak_bytes(lambda: [torch.ones(1000).double() for _ in range(2)]) == 20_000


def test_a_training_step_holds_gradients_moments_and_activations():
    layer, x = torch.nn.Linear(1000, 1000, bias=False), torch.ones(8, 1000)
    optimiser = torch.optim.Adam(layer.parameters(), foreach=False)

    def step():
        layer(x).sum().backward()
        optimiser.step()

    three = 3 * 4 * 1000 * 1000  # gradient and two moments
    assert three < costs.peak_bytes(step) < 1.7 * three  # the update itself is one more


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_what_generate_writes(made, family):
    model = loaded(made(family))
    ids = torch.randint(5, 200, (3, 7), generator=torch.Generator().manual_seed(0))
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=6,
                            max_new_tokens=6, do_sample=False, eos_token_id=None)[:, 7:]
    assert torch.equal(costs.write_greedily(model, ids, 6), theirs)
    assert torch.equal(costs.write_greedily(model, ids, 6, cached=False), theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_values_take_what_is_counted(made, family):
    model = loaded(made(family))
    out = model(input_ids=torch.full((3, 11), 5), use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in out.past_key_values.layers)
    assert costs.cache_bytes(model.config, 11, batch=3) == held


def test_a_rate_counts_all_texts_and_leaves_the_reading_out(monkeypatch):
    """A clock that passes 1 s for a prompt, and 0.1 s for every token after the first."""
    made_of = {}
    monkeypatch.setattr(costs, "write_greedily", lambda model, ids, tokens, *_: made_of.update(
        tokens=tokens, batch=len(ids)))

    def seconds(action, repeats):
        action()
        return 1 + 0.1 * (made_of["tokens"] - 1)

    monkeypatch.setattr(costs, "seconds", seconds)
    model = torch.nn.Linear(1, 1)
    model.device, model.config = torch.device("cpu"), type("C", (), {"vocab_size": 50})
    assert costs.rate_at_length(model, [8, 16], batch=4) == pytest.approx([40, 40])
    row = costs.writing_costs(model, prompt=4, tokens=11, batches=(1, 5))
    assert row["first token (ms)"] == pytest.approx(1000)
    assert row["tokens/s, batch 1"] == pytest.approx(11 / 2)
    assert row["tokens/s, batch 5"] == pytest.approx(5 * 11 / 2)


@pytest.mark.parametrize(("card", "found"), [
    ("---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
    ("---\nlicense: [mit, other]\n---\n", "mit"), ("---\ntags: [a]\n---\n", "not stated"),
    ("# A model\nlicense: mit\n", "not stated"), ("---\n{ broken\n---\n", "not stated"),
    ("text\n---\nlicense: mit\n---\n", "not stated"), (None, "not stated")])
def test_a_licence_is_read_from_the_head_of_the_card(tmp_path, card, found):
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert costs.licence(tmp_path) == found


def test_the_embedded_models_have_the_licence_of_the_course():
    assert costs.licence(models.EMBEDDED / "zoo" / "gpt2-0.2m") == "mit"


def test_weights_on_disk_are_those_of_the_folder(made, tmp_path):
    folder = made("llama")
    assert costs.disk_bytes(folder) == sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    with pytest.raises(UserError, match="no .safetensors files"):
        costs.disk_bytes(tmp_path)
    with pytest.raises(UserError, match="no .safetensors files"):
        costs.disk_bytes("owner/never-fetched")
