"""Reward functions: prompts and responses in, one number per response out, whatever judges them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from helpers.engine.class_logits import class_logits, positive_label
from helpers.engine.kinds import RewardFn
from helpers.engine.scale import scale_of
from helpers.errors import UserError
from helpers.models import load_stage
from helpers.profiles import Settings
from helpers.reward.model import score


def set_normalisation(model: nn.Module, rewards: Sequence[float]) -> tuple[float, float]:
    """Keep mean and standard deviation of reference rewards in the model's scale.

    A Bradley-Terry reward has no zero and no unit of its own; dividing by its spread on samples
    of the reference policy gives one (Ziegler et al. 2019, arXiv:1909.08593). Returns both.
    """
    mean, std = float(np.mean(rewards)), float(np.std(rewards))
    if not math.isfinite(mean) or not std > 0:
        raise UserError("the reference rewards have no spread, so they cannot set a scale.")
    scale = scale_of(model)
    scale.mean, scale.std = mean, std
    return mean, std


def normalise(rewards: npt.ArrayLike, mean: float, std: float) -> np.ndarray:
    """Rewards on the scale where reference samples have mean 0 and variance 1."""
    return (np.asarray(rewards, dtype=np.float64) - mean) / std


def reward_function(
    model: nn.Module, tokenizer: Any, batch_size: int | None = None
) -> RewardFn:
    """A function from prompts and responses to normalised rewards (n,).

    `batch_size` None: 16 on a CPU, where padding costs more than calls do, and 64 elsewhere.
    """
    mean, std = scale_of(model).mean, scale_of(model).std
    if mean is None or std is None:
        raise UserError("this reward model has no scale yet; call reward.set_normalisation first.")
    batch_size = batch_size or (16 if next(model.parameters()).device.type == "cpu" else 64)

    def rewards(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        return normalise(score(model, tokenizer, prompts, responses, batch_size), mean, std)

    return rewards


def load_reward_function(settings: Settings) -> RewardFn:
    """The trained stage `reward_model` as a function (prompts, responses) -> rewards (n,).

    Rewards are normalised: mean 0 and variance 1 on samples of the reference (SFT) policy.
    """
    model, tokenizer = load_stage(settings, "reward_model")
    return reward_function(model, tokenizer)


def sentiment_logit(
    classifier: Any, tokenizer: Any, batch_size: int = 128, progress: Any = None
) -> RewardFn:
    """Reward function: the classifier's logit of the label "positive" for prompt + response.

    The raw logit is what the classic experiment on IMDB uses: unlike the probability it does not
    flatten once the classifier is sure.
    """
    label = positive_label(classifier)

    def reward(prompts: list[str], responses: list[str]) -> np.ndarray:
        texts = [p + r for p, r in zip(prompts, responses, strict=True)]
        return class_logits(classifier, tokenizer, texts, batch_size)[:, label]

    return reward


def chosen_reward(settings: Settings, classifier: Any, tokenizer: Any) -> RewardFn:
    """The reward that `ppo_trl.reward` names: `sentiment` or `reward_model` (the stage of 04).

    Raises:
        UserError: another name, or a reward model that has not been made.
    """
    kind = settings.ppo_trl.reward
    if kind == "sentiment":
        return sentiment_logit(classifier, tokenizer)
    if kind == "reward_model":
        return load_reward_function(settings)
    raise UserError(f"ppo_trl.reward is {kind!r}; it must be one of sentiment, reward_model.")
