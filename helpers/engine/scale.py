"""How the number of a reward model is read: its parts, its zero and its unit."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from helpers.engine.place import inner_model


@dataclasses.dataclass
class RewardScale:
    """What a reward model is besides its weights.

    Its raw reward is `head_weight` times what the head says plus `likelihood_weight` (reward per
    nat) times the mean log-probability of the response by its backbone. `mean` and `std` are those
    of raw rewards on samples of the reference policy; None before they were measured. `max_length`
    is the limit of its training in tokens, beyond which it knows nothing; None where nobody said.
    """

    head_weight: float = 1.0
    likelihood_weight: float = 0.0
    mean: float | None = None
    std: float | None = None
    max_length: int | None = None


def scale_of(model: nn.Module) -> RewardScale:
    """The scale of a reward model, with or without adapters around it; changing it changes it."""
    model = inner_model(model)
    if not isinstance(getattr(model, "reward_scale", None), RewardScale):
        vars(model)["reward_scale"] = RewardScale()
    return model.reward_scale  # pyright: ignore[reportReturnType]


def scale_from_metrics(model: nn.Module, metrics: Mapping[str, Any]) -> None:
    """Give a loaded model the scale that its stage recorded, whatever files held its weights."""
    scale = scale_of(model)
    scale.mean, scale.std = metrics.get("reward_mean"), metrics.get("reward_std")
    scale.likelihood_weight = metrics.get("likelihood_weight") or 0.0


@contextlib.contextmanager
def read_as(model: nn.Module, **changes: float) -> Iterator[None]:
    """Inside the block `changes` of the scale hold: `read_as(model, likelihood_weight=0.0)`."""
    scale = scale_of(model)
    before = dataclasses.replace(scale)
    vars(scale).update(vars(dataclasses.replace(scale, **changes)))
    try:
        yield
    finally:
        vars(scale).update(vars(before))
