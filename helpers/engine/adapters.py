"""Taking adapters off again: one plain model in place of a backbone and its corrections."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from helpers.engine.place import inner_model


def has_adapters(model: Any) -> bool:
    """Whether PEFT wraps this model."""
    return hasattr(model, "merge_and_unload")


def in_four_bits(model: Any) -> bool:
    """Whether this model's backbone is quantised."""
    return bool(getattr(inner_model(model), "is_quantized", False))


def merged(model: nn.Module) -> Any:
    """A float32 copy on the CPU: adapters added to the weights they correct, four bits unpacked.

    What it computes is what `model` computed, up to rounding, and `model` stays as it is.
    """
    twin: Any = copy.deepcopy(model)
    if not in_four_bits(twin):
        return twin.to("cpu", torch.float32).merge_and_unload()
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    # PEFT's own merge would pack the sum into four bits again, and round it a second time.
    config, weights = twin.active_peft_config, get_peft_model_state_dict(twin)
    plain = twin.unload().dequantize(torch.float32).to("cpu", torch.float32)
    again = get_peft_model(plain, copy.deepcopy(config))
    set_peft_model_state_dict(again, weights)
    return _as_made(again.merge_and_unload())


def _as_made(model: Any) -> Any:
    """The same weights in the model's own kind of layers: bitsandbytes makes Linear of Conv1D."""
    made = type(model)._from_config(model.config, dtype=torch.float32)
    weights = model.state_dict()
    for name, module in made.named_modules():
        if isinstance(module, Conv1D):
            weights[f"{name}.weight"] = weights[f"{name}.weight"].T
    made.load_state_dict(weights)
    made.generation_config = getattr(model, "generation_config", None)
    return made
