"""From hidden states to logits, as the model's own class does it.

Most families multiply by the output embedding and are done; some scale what comes out (Cohere,
Granite) or bend it (Gemma 2). The class knows; so it is asked, with hidden states that are given
in place of those its backbone would make.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions as Output

from helpers.engine.place import inner_model

_heads: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


class _Given(nn.Module):
    """In place of a backbone: the hidden states are what it was called with."""

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> Output:
        return Output(last_hidden_state=inputs_embeds)  # pyright: ignore[reportArgumentType]


class _Float32(nn.Module):
    """An output embedding of another type, multiplied in float32."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        bias = getattr(layer, "bias", None)
        self.weight, self.bias = layer.weight.float(), None if bias is None else bias.float()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.weight, self.bias)


def float32_logits(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """`next_logits` in float32, also under autocast and where a frozen model is in bfloat16.

    Logits may lie anywhere, GPT-2's near -100, where neighbouring numbers of bfloat16 are half a
    nat apart: with logits rounded there, the ratio of PPO is noise.
    """
    inner = inner_model(model)
    layer = inner.get_output_embeddings() or inner.get_input_embeddings()
    with torch.autocast(hidden.device.type, enabled=False):
        if layer.weight.dtype == torch.float32:
            return next_logits(model, hidden)
        head, name = _head(inner)
        before = getattr(head, name)
        logits = next_logits(model, hidden, _Float32(layer))
    setattr(head, name, before)  # nobody keeps the copy in float32
    return logits


def next_logits(
    model: nn.Module, hidden: torch.Tensor, layer: nn.Module | None = None
) -> torch.Tensor:
    """Logits of the next token, (n, vocabulary), from last hidden states (n, width).

    `model`: a causal language model, or a classifier whose input embedding is also that of the
    outputs; with or without adapters. `layer` takes the place of its output embedding.
    """
    inner = inner_model(model)
    layer = inner.get_output_embeddings() if layer is None else layer
    head, name = _head(inner)
    if layer is not None:
        setattr(head, name, layer)
    weight: Any = inner.get_input_embeddings().weight if layer is None else layer.weight
    if layer is None and getattr(head, name).weight is not weight:
        getattr(head, name).weight = weight
    return head(inputs_embeds=hidden[None].to(weight.dtype), use_cache=False).logits[0]


def _head(inner: Any) -> tuple[Any, str]:
    """The model's own class without a backbone, and the name of its output embedding."""
    if inner not in _heads:
        with torch.device("meta"):  # a model without memory
            made = AutoModelForCausalLM.from_config(inner.config).eval()
        last = made.get_output_embeddings()
        name = next(name for name, module in made.named_modules() if module is last)
        setattr(made, made.base_model_prefix, _Given())
        _heads[inner] = made, name
    return _heads[inner]
