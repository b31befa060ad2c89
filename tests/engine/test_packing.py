"""Packed sequences: the same numbers as each sequence alone, and nothing passes between them."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.engine.packing import Layout, can_pack, packed_attention

LENGTHS = [9, 7, 7, 4, 1]
COMMON = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
LLAMA_LIKE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 32}
SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "llama": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "mistral": {**LLAMA_LIKE, "sliding_window": 4},
    "qwen2_moe": {**LLAMA_LIKE, "sliding_window": 8, "use_sliding_window": True,
                  "max_window_layers": 2, "num_experts": 2, "num_experts_per_tok": 1,
                  "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8,
                "attention_types": [[["global"], 2]], "max_position_embeddings": 32},
}


def new_model(name, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, initializer_range=0.3, **COMMON, **SIZES[name], **changes)
    return AutoModelForCausalLM.from_config(config).eval()


def sequences(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 40, (length,), generator=generator) for length in LENGTHS]


def packed_logits(model, rows, groups):
    layout = Layout([len(row) for row in rows], groups)
    with packed_attention(model):
        return model(input_ids=torch.cat(rows)[None], position_ids=layout.positions,
                     use_cache=False, layout=layout).logits[0]


@pytest.fixture(params=[0, 5, 160], ids=lambda length: f"plain up to {length} tokens")
def short(request, monkeypatch):
    """On a CPU attention goes one way for short sequences and another for long ones."""
    monkeypatch.setattr("helpers.engine.packing.SHORT", request.param)


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_packed_sequences_give_what_each_gives_alone(short, name, groups):
    model, rows = new_model(name), sequences()
    together = packed_logits(model, rows, groups)
    alone = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_so_do_their_gradients(short, name):
    model, rows = new_model(name), sequences()
    weight = torch.randn(sum(LENGTHS), 40)
    gradients = []
    for packed in (True, False):
        model.zero_grad()
        logits = packed_logits(model, rows, groups=2) if packed else torch.cat(
            [model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
        (logits * weight).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    scale = gradients[1].abs().max()
    assert torch.allclose(gradients[0] / scale, gradients[1] / scale, atol=1e-5)


def test_a_token_touches_only_what_follows_it_in_its_own_sequence():
    model, rows = new_model("gpt2"), sequences()
    before = packed_logits(model, rows, groups=2)
    rows[1][3] = (rows[1][3] + 1) % 38 + 2
    changed = (packed_logits(model, rows, groups=2) - before).abs().amax(1) > 1e-6
    first = LENGTHS[0] + 3
    assert changed.nonzero().flatten().tolist() == list(range(first, LENGTHS[0] + LENGTHS[1]))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_in_bfloat16_packing_is_as_near_to_float32_as_each_sequence_alone(name):
    """There attention takes another path on a CPU, by plain matrix products."""
    rows = sequences()

    def numbers(model, packed):
        logits = packed_logits(model, rows, groups=2) if packed else torch.cat(
            [model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
        (logits * torch.linspace(-1, 1, 40, dtype=logits.dtype)).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        return logits.detach().float(), gradient.float()

    truth = numbers(new_model(name), packed=False)
    packed, alone = (numbers(new_model(name).bfloat16(), packed=p) for p in (True, False))
    for ours, theirs, right in zip(packed, alone, truth, strict=True):
        assert (ours - right).norm() < 1.5 * (theirs - right).norm() < 0.2 * right.norm()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_under_autocast_a_cpu_never_takes_the_slow_fused_attention(name, monkeypatch):
    model, rows = new_model(name), sequences()
    full = packed_logits(model, rows, groups=2)

    def refuse(*args, **kwargs):
        raise AssertionError("fused attention in bfloat16")

    monkeypatch.setattr("helpers.engine.packing.F.scaled_dot_product_attention", refuse)
    with torch.autocast("cpu", torch.bfloat16):
        half = packed_logits(model, rows, groups=2)
    assert (half - full).norm() < 0.1 * full.norm()


def test_on_a_cpu_only_long_sequences_take_the_fused_attention(monkeypatch):
    taken, fused = [], torch.nn.functional.scaled_dot_product_attention

    def note(query, *others, **more):
        taken.append(query.shape[2])
        return fused(query, *others, **more)

    monkeypatch.setattr("helpers.engine.packing.F.scaled_dot_product_attention", note)
    monkeypatch.setattr("helpers.engine.packing.SHORT", 6)
    packed_logits(new_model("gpt2"), sequences(), groups=5)
    assert taken == 2 * [9, 7, 7]  # of two layers


def test_a_model_that_does_not_take_the_attention_is_not_packed(monkeypatch):
    model = new_model("gpt2")
    monkeypatch.setattr(type(model), "set_attn_implementation", lambda self, name: None)
    assert not can_pack(model)
    with pytest.raises(NotImplementedError, match="keeps its own"), packed_attention(model):
        pass


def test_where_tokens_stand_worked_out_by_hand():
    layout = Layout([3, 1, 2], groups=2)
    assert layout.positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert layout.shapes == [(2, 3), (1, 2)]
    assert layout.source.tolist() == [0, 1, 2, 3, 3, 3, 4, 5]
    assert layout.place.tolist() == [0, 1, 2, 3, 6, 7]
    assert layout.real.flatten().tolist() == [1, 1, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(("name", "works"), [
    ("gpt2", True), ("llama", True), ("qwen2", True), ("mistral", False), ("qwen2_moe", False),
    ("gpt_neo", False),
])
def test_models_whose_attention_does_more_or_is_their_own_are_found_out(name, works):
    model = new_model(name).train()
    before = model.config._attn_implementation
    assert can_pack(model) is works
    assert model.training
    assert model.config._attn_implementation == before


def test_a_model_that_ignores_the_positions_it_is_told_is_found_out():
    model = new_model("gpt2")
    forward = model.transformer.forward
    model.transformer.forward = lambda *args, position_ids=None, **kwargs: forward(*args, **kwargs)
    assert not can_pack(model)


def test_the_models_own_attention_comes_back_after_an_error():
    model = new_model("gpt2", attn_implementation="eager")
    with pytest.raises(RuntimeError, match="stop"), packed_attention(model):
        assert model.config._attn_implementation == "packed"
        raise RuntimeError("stop")
    assert model.config._attn_implementation == "eager"
