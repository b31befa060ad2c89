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


def made_with(model: Any) -> dict[str, Any]:
    """What was active when a model was trained, for its stage: to be compared with the profile.

    `adapters` and `head_trained` (a reward model's) are true or false, `four_bit_modules` a number,
    `trained_in` the types of the weights that ask for gradients.
    """
    if not isinstance(model, nn.Module):
        return {}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {
        "adapters": has_adapters(model),
        "four_bit_modules": sum(type(m).__name__ == "Linear4bit" for m in model.modules()),
        "trained_in": sorted({str(p.dtype).removeprefix("torch.") for p in trained.values()}),
        "head_trained": any("score." in name for name in trained),
    }


def stored_as(model: Any) -> Any:
    """What of a model is stored: itself, or merged, unless it is a quantised reward model."""
    if not has_adapters(model):
        return model
    scores = "SEQ_CLS" in str(model.active_peft_config.task_type)
    return model if scores and in_four_bits(model) else merged(model)


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
