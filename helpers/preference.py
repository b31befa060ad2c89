"""One objective, many ways: losses and advantages beside PPO, and the optimum they aim at.

The objective is E[r] - β KL(π ‖ π_ref); its best policy is π_ref·exp(r/β)/Z. DPO (Rafailov et al.
2023, arXiv:2305.18290) and IPO (Azar et al. 2023, arXiv:2310.12036) learn from pairs; RLOO
(Ahmadian et al. 2024, arXiv:2402.14740) and GRPO (Shao et al. 2024, arXiv:2402.03300) from groups
of responses to one prompt; rejection sampling imitates the best of n. Losses come one per row:
their mean is what is minimised. On a bandit every expectation is a sum over the arms, so that what
a method converges to is no matter of luck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from helpers import ppo
from helpers.engine.heads import float32_logits
from helpers.engine.kinds import RewardFn
from helpers.engine.tokens import encode_responses
from helpers.errors import UserError
from helpers.models import disable_dropout
from helpers.ppo_trainer import PPO, states_at

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = tuple[list[int], list[int]]  # ids of a prompt and of its response

# --- pairs ---------------------------------------------------------------------------------------


def implicit_reward(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, beta: float
) -> torch.Tensor:
    """The reward whose optimum this policy is, but for a number per prompt: β log(π / π_ref).

    Both: (batch,) log-probabilities of whole responses, nats.
    """
    return beta * (logprobs - reference_logprobs)


def dpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor, beta: float, label_noise: float = 0.0,
) -> torch.Tensor:
    """DPO's loss of each pair, (batch,): Bradley–Terry on implicit rewards.

    All (batch,): log-probabilities of whole responses, nats. ``label_noise`` is the known chance
    that a label is the wrong way round; the loss is then the one whose mean over flips is that of
    clean labels (Chowdhury et al. 2024, arXiv:2403.00409).
    """
    margin = implicit_reward(chosen, reference_chosen, beta) - implicit_reward(
        rejected, reference_rejected, beta)
    clean, flipped = -logsigmoid(margin), -logsigmoid(-margin)
    return ((1 - label_noise) * clean - label_noise * flipped) / (1 - 2 * label_noise)


def ipo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor, beta: float,
    chosen_lengths: torch.Tensor | float = 1.0, rejected_lengths: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """IPO's loss of each pair, (batch,): the gap of log-ratios shall be 1 / (2β), no more.

    Log-ratios are divided by the lengths in tokens, as TRL and the paper's authors have it.
    """
    gap = (chosen - reference_chosen) / chosen_lengths - (
        rejected - reference_rejected) / rejected_lengths
    return (gap - 1 / (2 * beta)) ** 2


# --- groups --------------------------------------------------------------------------------------


def leave_one_out(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """RLOO's advantages: each reward less the mean of its siblings', (batch,) -> (batch,).

    ``rewards``: those of ``group`` responses to the first prompt, then to the next. The KL is in
    the reward already: r - β log(π / π_ref) of the whole response.
    """
    rows = rewards.view(-1, group)
    siblings = (rows.sum(1, keepdim=True) - rows) / (group - 1)
    return (rows - siblings).flatten()


def group_advantages(rewards: torch.Tensor, group: int, scale: bool = True) -> torch.Tensor:
    """GRPO's advantages: each reward less its group's mean, over the group's spread if ``scale``.

    (batch,) -> (batch,). Without the division they are RLOO's, times (group - 1) / group.
    """
    rows = rewards.view(-1, group)
    advantages = rows - rows.mean(1, keepdim=True)
    if scale:
        advantages = advantages / (rows.std(1, keepdim=True) + 1e-4)
    return advantages.flatten()


def rloo_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor,
    mask: torch.Tensor, clip_range: float = 0.2,
) -> torch.Tensor:
    """RLOO's loss of each response, (batch,): PPO's, with one ratio for the whole response.

    ``logprobs``, ``old_logprobs``, ``mask``: (batch, response_length); ``advantages``: (batch,).
    """
    ratio = ((logprobs - old_logprobs) * mask).sum(1).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def grpo_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, reference_logprobs: torch.Tensor,
    advantages: torch.Tensor, mask: torch.Tensor, beta: float, clip_range: float = 0.2,
    divide_by: str | float = "response", weigh_kl: bool = False,
) -> torch.Tensor:
    """GRPO's loss of each response, (batch,): a ratio per token, and the KL in the loss, as k3.

    Per-token arguments and ``mask``: (batch, response_length); ``advantages``: (batch,).
    ``divide_by``: each response's own length ("response", as published), the batch's mean length
    ("tokens", so that every token weighs alike), or a constant (Liu et al. 2025, arXiv:2503.20783).
    ``weigh_kl``: the ratio times k3, whose gradient is that of KL(π ‖ π_ref), as in TRL.
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    earned = torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    cost = beta * ppo.kl_estimate(logprobs, reference_logprobs, "k3")
    cost = ratio * cost if weigh_kl else cost
    sums = torch.where(mask.bool(), cost - earned, 0.0).sum(1)
    lengths = mask.sum(1).clamp(min=1)
    if isinstance(divide_by, str):
        return sums / (lengths if divide_by == "response" else lengths.float().mean())
    return sums / divide_by


def group_advantage_fn(group: int, advantages: Callable = leave_one_out) -> Callable:
    """A group's advantages in the shape that `PPO(…, advantage_fn=…)` takes.

    A response earns the sum of its tokens' rewards, its KL included, and each of its tokens has
    the advantage of the whole. The values are not used.
    """
    def advantage_fn(
        rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        whole = (rewards * mask).sum(1)
        return advantages(whole, group)[:, None] * mask, whole[:, None] * mask

    return advantage_fn


class GroupPPO(PPO):
    """The course's trainer without a critic: ``group`` responses to each prompt, RLOO or GRPO.

    ``advantages``: `leave_one_out`, `group_advantages`, or your own, called as (rewards, group).
    The KL is in the reward and the ratio that is clipped is that of a token, as in PPO, so that
    what differs from PPO is the advantage. Configure it with ``value_coef=0.0`` and
    ``whiten_advantages=False``. Of the prompts drawn for a batch the first batch/group are used.

    Raises UserError where the batch is not a multiple of the group, or a group is less than two.
    """

    def __init__(
        self, *arguments: Any, group: int = 4, advantages: Callable = leave_one_out, **more: Any
    ) -> None:
        super().__init__(*arguments, advantage_fn=group_advantage_fn(group, advantages), **more)
        if group < 2 or self.config.batch_size % group:
            raise UserError(f"a batch of {self.config.batch_size} episodes cannot be made of groups"
                            f" of {group}; a group has at least 2, and the batch is a multiple.")
        self.group = group

    def _sample(self, prompts: list[str], seed: int, policy: Any | None = None) -> Any:
        kept = prompts[: len(prompts) // self.group]
        return super()._sample([p for p in kept for _ in range(self.group)], seed, policy)


# --- learning from fixed texts -------------------------------------------------------------------


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str]
) -> list[Tokens]:
    """Token ids of each prompt and of its whole response, the end-of-text token included."""
    rows = []
    for prompt, response in zip(prompts, responses, strict=True):
        before, (after,) = encode_responses(tokenizer, prompt, [response.strip()])
        rows.append((before, after))
    return rows


def response_sums(model: Any, rows: Sequence[Tokens], temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of each whole response given its prompt, (n,) nats.

    Log-probabilities of the distribution that is sampled from need the temperature of sampling.
    """
    width = max(len(p) + len(r) for p, r in rows)
    ids = torch.tensor([p + r + [0] * (width - len(p) - len(r)) for p, r in rows])
    where = [(i, len(p) + k - 1) for i, (p, r) in enumerate(rows) for k in range(len(r))]
    row, column = torch.tensor(where).T
    device = next(model.parameters()).device
    ids, row, column = ids.to(device), row.to(device), column.to(device)
    states = states_at(model, {"input_ids": ids}, row, column)  # what follows a row does not count
    logprobs = ppo.logprobs_from_logits(
        float32_logits(model, states), ids[row, column + 1], temperature)
    return logprobs.new_zeros(len(rows)).index_add(0, row, logprobs)


def all_response_sums(
    model: Any, rows: Sequence[Tokens], temperature: float = 1.0, batch_size: int = 32
) -> torch.Tensor:
    """`response_sums` of many rows, without a way back and without dropout, (n,)."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    sums = torch.zeros(len(rows), device=next(model.parameters()).device)
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            sums[batch] = response_sums(model, [rows[i] for i in batch], temperature)
    return sums


def fit(
    policy: Any, losses: Callable[[list[int]], torch.Tensor], count: int, *, epochs: int = 1,
    batch_size: int = 32, learning_rate: float = 2e-4, seed: int = 0, precision: str = "float32",
    after_step: Callable[[int, int], Any] | None = None,
) -> list[float]:
    """Descend `losses(rows)`, one loss for each row number, over all rows in chance order.

    AdamW without weight decay, gradient norm at most 1, the rate falling to 0 in a straight line:
    what TRL's trainers do by default. ``after_step(step, of)`` is called after each step.

    Returns:
        The mean loss of each step.
    """
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    batches = [order[i : i + batch_size] for _ in range(epochs)
               for order in [torch.randperm(count, generator=generator).tolist()]
               for i in range(0, count, batch_size)]
    device, history = next(policy.parameters()).device.type, []
    policy.eval()  # no dropout
    if getattr(policy, "is_gradient_checkpointing", False):  # it works in training mode only
        disable_dropout(policy).train()
    for step, rows in enumerate(batches):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / len(batches))
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = losses(rows).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        history.append(loss.item())
        if after_step:
            after_step(step + 1, len(batches))
    return history


def fit_dpo(
    policy: Any, reference: Any, chosen: Sequence[Tokens], rejected: Sequence[Tokens], beta: float,
    temperature: float = 1.0, loss_fn: Callable = dpo_loss, **how: Any,
) -> list[float]:
    """DPO on encoded pairs: the reference's side once, then `fit` on `loss_fn`; `how` goes to it.

    ``loss_fn``: called as (chosen, rejected, reference_chosen, reference_rejected, beta).
    """
    theirs = [all_response_sums(reference, side, temperature) for side in (chosen, rejected)]

    def losses(rows: list[int]) -> torch.Tensor:
        sums = response_sums(
            policy, [side[i] for side in (chosen, rejected) for i in rows], temperature)
        mine = sums.chunk(2)
        return loss_fn(*mine, *(side[rows] for side in theirs), beta)

    return fit(policy, losses, len(chosen), **how)


def fit_imitation(
    policy: Any, rows: Sequence[Tokens], temperature: float = 1.0, **how: Any
) -> list[float]:
    """Supervised fine-tuning on encoded responses: nats per token of a batch; `how` goes to `fit`.

    At the temperature of sampling: without it, a model trained on its own samples at less than 1
    would be sharpened a second time when it is sampled.
    """
    def losses(batch: list[int]) -> torch.Tensor:
        tokens = sum(len(rows[i][1]) for i in batch) / len(batch)
        return -response_sums(policy, [rows[i] for i in batch], temperature) / tokens

    return fit(policy, losses, len(rows), **how)


def best_of(
    prompts: Sequence[str], responses: Sequence[Sequence[str]], reward_fn: RewardFn
) -> tuple[np.ndarray, list[str]]:
    """Scores (prompts, draws) of `responses[draw][prompt]`, and the best response to each."""
    scores = np.stack([np.asarray(reward_fn(list(prompts), list(draw))) for draw in responses], 1)
    best = [responses[int(k)][i] for i, k in enumerate(scores.argmax(1))]
    return scores, best


def at_equal_kl(
    rows: Sequence[Mapping[str, Any]], method: str, other: str, within: float = 0.5
) -> dict[int, float]:
    """By seed, how much more gold than `other` a method gains at the same KL.

    A row is one policy: `method`, `seed`, `kl` in nats and `gain`. Each point of `method` is held
    against the mean of those of `other` with the same seed that lie within `within` nats of it;
    a point that has none is left out, and so is a seed without any.
    """
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["method"] != method:
            continue
        near = [o["gain"] for o in rows if o["method"] == other and o["seed"] == row["seed"]
                and abs(o["kl"] - row["kl"]) <= within]
        if near:
            found.setdefault(row["seed"], []).append(row["gain"] - float(np.mean(near)))
    return {seed: float(np.mean(values)) for seed, values in found.items()}


def seed_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean over seeds with Student's t interval; raises UserError below two seeds."""
    from scipy.stats import t

    if len(values) < 2:
        raise UserError(f"an interval over seeds needs at least two of them, not {len(values)}.")
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = spread * float(t.ppf((1 + level) / 2, len(values) - 1))
    return mean, mean - reach, mean + reach


# --- the bandit: exact expectations --------------------------------------------------------------


def optimum(reference: torch.Tensor, rewards: torch.Tensor, beta: float) -> torch.Tensor:
    """log π* of the KL-regularised objective, (arms,): π_ref·exp(r/β)/Z. `reference`: log π_ref."""
    return (reference + rewards / beta).log_softmax(-1)


def best_of_n_policy(reference: torch.Tensor, rewards: torch.Tensor, n: int) -> torch.Tensor:
    """log π of best-of-n on a bandit, (arms,): F(r)ⁿ - F(r-)ⁿ, arms of one reward by π_ref."""
    p = reference.exp()
    below = ((rewards[None, :] < rewards[:, None]) * p).sum(1)
    tied = ((rewards[None, :] == rewards[:, None]) * p).sum(1)
    return (((below + tied) ** n - below**n) * p / tied).log()


def forward_kl_optimum(
    reference: torch.Tensor, rewards: torch.Tensor, beta: float
) -> torch.Tensor:
    """log π that is best for E[r] - β KL(π_ref ‖ π), (arms,): β π_ref / (λ - r).

    Where GRPO without the division ends if k3 stands in its loss as it is: its gradient there is
    that of this KL, not of the other. λ > max r makes the probabilities sum to 1 (bisection).
    """
    p = reference.exp()
    low = (rewards + beta * p).max()  # here the sum is at least one, at max r + β it is at most one
    high = rewards.max() + beta
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (beta * p / (middle - rewards)).sum() > 1 else (low, middle)
    return (beta * p / (high - rewards)).log()


def ipo_optimum(reference: torch.Tensor, rewards: torch.Tensor, beta: float) -> torch.Tensor:
    """log π where IPO ends on pairs drawn from π_ref, (arms,): π_ref·exp(P(wins)/β)/Z."""
    wins = torch.sigmoid(rewards[:, None] - rewards[None, :]) @ reference.exp()
    return (reference + wins / beta).log_softmax(-1)


def expected_pairs(
    reference: torch.Tensor, rewards: torch.Tensor, beta: float, loss_fn: Callable,
    flipped: float = 0.0,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Mean loss over all pairs of arms drawn from π_ref, labelled by Bradley–Terry on `rewards`.

    ``flipped``: share of labels the wrong way round. Returns a function of the logits (arms,).
    """
    arms = torch.arange(len(rewards))
    a, b = (side.flatten() for side in torch.meshgrid(arms, arms, indexing="ij"))
    prefers = torch.sigmoid(rewards[a] - rewards[b])
    prefers = (1 - flipped) * prefers + flipped * (1 - prefers)
    chance = (reference[a] + reference[b]).exp() * prefers

    def loss(logits: torch.Tensor) -> torch.Tensor:
        logp = logits.log_softmax(-1)
        return (chance * loss_fn(logp[a], logp[b], reference[a], reference[b], beta)).sum()

    return loss


def expected_groups(
    reference: torch.Tensor, rewards: torch.Tensor, beta: float, advantages: Callable,
    group: int = 3, kl_in: str = "reward",
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Mean loss over all groups of arms drawn from the policy itself.

    ``kl_in``: "reward", "loss" (k3 as it is) or "weighed loss" (k3 times the ratio).

    Its gradient is the expected one of RLOO or GRPO at ratio 1: the chance of a group is not
    differentiated, as it is not in training. Returns a function of the logits (arms,).
    """
    groups = torch.cartesian_prod(*[torch.arange(len(rewards))] * group)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        logp = logits.log_softmax(-1)
        now = logp.detach()
        earned = rewards[groups]
        if kl_in == "reward":
            earned = earned - beta * (now - reference)[groups]
        new, old, theirs = (x[groups].reshape(-1, 1) for x in (logp, now, reference))
        losses = grpo_loss(new, old, theirs, advantages(earned.flatten(), group),
                           torch.ones_like(new), 0.0 if kl_in == "reward" else beta,
                           weigh_kl=kl_in == "weighed loss")
        return (losses.view(-1, group).mean(1) * now[groups].sum(1).exp()).sum()

    return loss


def descend(
    loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: int = 2000,
    learning_rate: float = 0.05,
) -> torch.Tensor:
    """Where gradient descent on an expected loss ends: log π (arms,), from logits `start`.

    Adam in float64, its rate falling to 0 by a cosine.
    """
    logits = start.double().clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(logits).backward()
        optimiser.step()
        falling.step()
    return logits.detach().log_softmax(-1)


def bandit_kl(policy: torch.Tensor, other: torch.Tensor) -> float:
    """KL(policy ‖ other) of two log-policies (arms,), nats."""
    return float((policy.exp() * (policy - other)).sum())
