"""The mathematics of PPO for language models, and nothing else.

Every tensor of numbers per token has the shape (batch, response_length), and ``mask`` of that shape
is 1 at real response tokens, the end-of-text token included, and 0 beyond the end. Nothing beyond
the end of a response contributes to any result. Log-probabilities, entropies and KL are in nats.

Schulman et al. 2017 (arXiv 1707.06347) for PPO, Schulman et al. 2016 (arXiv 1506.02438) for GAE,
Ziegler et al. 2019 (arXiv 1909.08593) for PPO on language models.
"""

from __future__ import annotations

import torch

from helpers.errors import UserError


def masked_sum(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum over real tokens; what stands at padding, even inf or nan, does not count."""
    return torch.where(mask.bool(), values, values.new_zeros(())).sum()


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over all real tokens of the batch (not the mean of the rows' means)."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """Scale real tokens to variance 1; to mean 0 as well if ``shift_mean``. Padding becomes 0.

    Advantages are whitened with the shift; rewards without it, because their mean says something.
    """
    mean = masked_mean(values, mask)
    variance = masked_sum((values - mean) ** 2, mask) / (mask.sum() - 1).clamp(min=1)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return torch.where(mask.bool(), whitened, whitened.new_zeros(()))


def all_logprobs(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of every token of the vocabulary, in float32 at least. (..., vocabulary)

    The temperature is the one used in sampling; without it the ratio of PPO is not 1 at the start.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


def logprobs_from_logits(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probability of each token. ``logits``: (..., vocabulary), ``tokens``: (...).

    ``logits`` at position t must be the ones that predict ``tokens`` at t: shift before calling.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def entropy_from_logits(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Entropy of the next-token distribution, nats. (..., vocabulary) -> (...)."""
    logprobs = all_logprobs(logits, temperature)
    return -(logprobs.exp() * logprobs).sum(-1)


def exact_kl(
    logits: torch.Tensor, reference_logits: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """KL(policy ‖ reference) of the next-token distributions, summed over the vocabulary."""
    p, q = all_logprobs(logits, temperature), all_logprobs(reference_logits, temperature)
    return (p.exp() * (p - q)).sum(-1)


def kl_estimate(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, estimator: str = "k1"
) -> torch.Tensor:
    """KL(policy ‖ reference) per token, estimated from the sampled token alone.

    With d = logprobs - reference_logprobs, k1 = d is unbiased but may be negative, and
    k3 = exp(-d) - 1 + d is unbiased and never negative.
    """
    difference = logprobs - reference_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise UserError(f"Unknown KL estimator {estimator!r}: use 'k1' or 'k3'.")


class FixedKLController:
    """A KL coefficient that stays as it is."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, kl: float, episodes: int) -> float:
        """Ignore the measured KL (nats per response) and return the coefficient."""
        return self.coef


class AdaptiveKLController(FixedKLController):
    """Moves the coefficient so that KL per response approaches ``target`` nats.

    coef ← coef · (1 + e · episodes / horizon), where the proportional error e = kl/target - 1 is
    clipped to ±0.2 (Ziegler et al. 2019, section 2.2).
    """

    def __init__(self, coef: float, target: float, horizon: float = 10_000) -> None:
        super().__init__(coef)
        self.target, self.horizon = target, horizon

    def update(self, kl: float, episodes: int) -> float:
        """Take the measured KL (nats per response) of ``episodes`` responses."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * episodes / self.horizon
        return self.coef


def penalise_missing_eos(
    scores: torch.Tensor, finished: torch.Tensor, penalty: float
) -> torch.Tensor:
    """Subtract ``penalty`` from the score of each response that was cut off. Both are (batch,)."""
    return scores - penalty * (~finished.bool()).to(scores.dtype)


def token_rewards(
    scores: torch.Tensor,
    logprobs: torch.Tensor,
    reference_logprobs: torch.Tensor,
    mask: torch.Tensor,
    kl_coef: float,
    estimator: str = "k1",
) -> torch.Tensor:
    """Reward of each token: -kl_coef · KL at every token, plus the score at the last real one.

    ``scores``: (batch,), one number per response. Returns (batch, response_length).
    """
    rewards = -kl_coef * kl_estimate(logprobs, reference_logprobs, estimator)
    rewards = torch.where(mask.bool(), rewards, rewards.new_zeros(()))
    last = mask.sum(1, keepdim=True).long() - 1
    return rewards.scatter_add(1, last, scores.to(rewards.dtype).unsqueeze(1))


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float = 1.0,
    lam: float = 0.95, dones: torch.Tensor | None = None, next_value: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation: advantages and returns, both (batch, steps).

    δ_t = r_t + γ V_{t+1} - V_t and A_t = δ_t + γ λ A_{t+1}; the return is A_t + V_t. The value
    after the last real token is 0. For environments, ``dones`` is 1 where an episode ends and
    ``next_value`` (batch,) is the value of the state after the last step.
    """
    mask = mask.to(rewards.dtype)
    rewards, values = rewards * mask, values * mask
    after = torch.zeros_like(values[:, 0]) if next_value is None else next_value
    advantage, columns = torch.zeros_like(after), []
    for t in reversed(range(rewards.shape[1])):
        going_on = mask[:, t] if dones is None else mask[:, t] * (1 - dones[:, t])
        delta = rewards[:, t] + gamma * after * going_on - values[:, t]
        advantage = delta + gamma * lam * advantage * going_on
        columns.append(advantage)
        after = values[:, t]
    advantages = torch.stack(columns[::-1], dim=1)
    return advantages, advantages + values


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clip_range: float = 0.2,
) -> torch.Tensor:
    """Clipped surrogate, to be minimised: the mean over real tokens of max(-A·ρ, -A·clip(ρ))."""
    difference = torch.where(mask.bool(), logprobs - old_logprobs, logprobs.new_zeros(()))
    ratio = difference.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return masked_mean(torch.maximum(-advantages * ratio, -advantages * clipped), mask)


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    clip_range: float = 0.2,
) -> torch.Tensor:
    """Half the squared error, where a step of more than ``clip_range`` earns no further credit."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask) / 2


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """1 - Var(returns - values)/Var(returns): 1 is a perfect critic, 0 one that knows the mean."""
    real = mask.bool()
    spread = returns[real].var(correction=0)
    error = (returns - values)[real].var(correction=0)
    return float(1 - error / spread) if spread > 0 else float("nan")
