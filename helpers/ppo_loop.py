"""PPO for a language model as plain as it can be written: what notebook 05 shows line by line.

No packed rows, no processes, no checkpoints: every pass is over the whole padded batch. The trainer
in `ppo_trainer.py` computes the same losses, and a test holds the two together. Policy, reference
and value head stand on one device; what is trained of them is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers import ppo
from helpers.generation import Rollout, position_ids, sample
from helpers.ppo_trainer import PPOConfig, prompt_rows, step_seed


def response_outputs(
    policy: PreTrainedModel, rollout: Rollout, temperature: float = 1.0,
    value_head: nn.Module | None = None,
) -> tuple[torch.Tensor, Any]:
    """Log-probability of every response token and, with a head, the value before it. (n, T) each.

    The logits that predict response token t stand one column before it.
    """
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
    mask = torch.cat([rollout.prompt_mask, rollout.response_mask], dim=1)
    out = policy(
        ids, attention_mask=mask, position_ids=position_ids(mask), output_hidden_states=True
    )
    columns = slice(rollout.prompt_ids.shape[1] - 1, -1)
    logprobs = ppo.logprobs_from_logits(out.logits[:, columns], rollout.response_ids, temperature)
    if value_head is None:
        return logprobs, None
    hidden = out.hidden_states[-1][:, columns].to(value_head.weight.dtype)
    return logprobs, value_head(hidden).squeeze(-1)


@torch.no_grad()
def collect(
    policy: PreTrainedModel, reference: PreTrainedModel, value_head: nn.Module,
    reward_fn: Callable, tokenizer: PreTrainedTokenizerBase, prompts: list[str],
    config: PPOConfig, seed: int,
) -> tuple[Rollout, dict[str, Any]]:
    """Sample one batch and work out what each token deserves."""
    t = config.temperature
    rollout = sample(policy, tokenizer, prompts, config.max_new_tokens, t, seed).to(policy.device)
    mask = rollout.response_mask
    logprobs, values = response_outputs(policy, rollout, t, value_head)
    reference_logprobs, _ = response_outputs(reference, rollout, t)
    raw = torch.tensor(
        reward_fn(prompts, rollout.texts), dtype=torch.float32, device=policy.device)
    scores = ppo.penalise_missing_eos(raw, rollout.finished, config.missing_eos_penalty)
    rewards = ppo.token_rewards(scores, logprobs, reference_logprobs, mask, config.kl_coef)
    advantages, returns = ppo.gae(rewards, values, mask, config.gamma, config.lam)
    kl = ((logprobs - reference_logprobs) * mask).sum(1).mean().item()
    return rollout, {
        "logprobs": logprobs, "values": values, "returns": returns,
        "advantages": ppo.whiten(advantages, mask), "reward": raw.mean().item(), "kl": kl,
    }


def improve(
    policy: PreTrainedModel, value_head: nn.Module, optimiser: torch.optim.Optimizer,
    rollout: Rollout, old: dict[str, Any], config: PPOConfig,
) -> list[float]:
    """Several epochs of clipped updates on one batch; returns the mean losses."""
    mask, losses = rollout.response_mask, []
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for _ in range(config.epochs):
        logprobs, values = response_outputs(policy, rollout, config.temperature, value_head)
        policy_loss = ppo.policy_loss(
            logprobs, old["logprobs"], old["advantages"], mask, config.clip_range
        )
        value_loss = ppo.value_loss(
            values, old["values"], old["returns"], mask, config.value_clip_range
        )
        optimiser.zero_grad()
        (policy_loss + config.value_coef * value_loss).backward()
        nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimiser.step()
        losses.append((policy_loss.item(), value_loss.item()))
    return [sum(column) / len(losses) for column in zip(*losses, strict=True)]


def ppo_loop(
    policy: PreTrainedModel, reference: PreTrainedModel, value_head: nn.Module,
    reward_fn: Callable, tokenizer: PreTrainedTokenizerBase, prompts: list[str],
    config: PPOConfig, report: Callable | None = None,
) -> list[dict[str, float]]:
    """The whole algorithm. Returns one dictionary of measures per update."""
    parameters = [*policy.parameters(), *value_head.parameters()]
    optimiser = torch.optim.Adam(parameters, config.learning_rate, eps=config.adam_epsilon)
    history = []
    for step in range(config.updates):
        optimiser.param_groups[0]["lr"] = config.learning_rate * (1 - step / config.updates)
        rows = prompt_rows(len(prompts), config.seed, step * config.batch_size, config.batch_size)
        rollout, old = collect(
            policy, reference, value_head, reward_fn, tokenizer, [prompts[r] for r in rows],
            config, step_seed(config.seed, step),
        )
        policy_loss, value_loss = improve(policy, value_head, optimiser, rollout, old, config)
        history.append({
            "step": step + 1, "reward": old["reward"], "kl": old["kl"],
            "policy_loss": policy_loss, "value_loss": value_loss,
        })
        if report:
            report(history[-1])
    return history
