"""Checkers of notebook 05: GAE, loss, rewards per token, a broken run, a reward of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from helpers.exercises.frame import (
    Exercise,
    NotDone,
    NotRight,
    call,
    check_diagnosis,
    checker,
    numbers,
)

# --- 05.1 ------------------------------------------------------------------------------------

GAE = {
    "no mask": "the value and reward beyond the end of a response leak in; did you use mask?",
    "lam 1": "lam has no effect; each later error counts gamma · lam times less",
    "gamma 1": "gamma has no effect",
    "lam 0": "this is the one-step error only; add gamma · lam · the next advantage",
    "lam alone": "the next advantage must be weighted with gamma · lam, not lam",
    "not less values": "these are the returns; subtract the values to get the advantages",
    "sign": "the sign is wrong; is it reward + gamma · next value - value?",
    "both signs": "the sign is wrong in both; is it reward + gamma · next value - value?",
    "forwards": "the sum runs the wrong way; start at the last step and go backwards",
    "returns are advantages": "the returns are advantages plus values, not the advantages again",
    "returns are rewards": "the returns are advantages plus values, not the rewards",
}


def _gae(rewards: Any, values: Any, mask: Any, gamma: float, lam: float,
         wrong: frozenset[str] = frozenset()) -> Any:
    rewards, values, mask = (np.asarray(x, dtype=np.float64) for x in (rewards, values, mask))
    m = np.ones_like(mask) if "no mask" in wrong else mask
    if "forwards" in wrong:
        rewards, values, m = rewards[:, ::-1], values[:, ::-1], m[:, ::-1]
    gamma_ = 1.0 if "gamma 1" in wrong else gamma
    lam_ = 1.0 if "lam 1" in wrong else 0.0 if "lam 0" in wrong else lam
    weight = lam_ if "lam alone" in wrong else gamma_ * lam_
    advantages, later, after = np.zeros_like(values), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        later = (rewards[:, t] + gamma_ * after - values[:, t] + weight * later) * m[:, t]
        after = values[:, t] * m[:, t]
        advantages[:, t] = later
    if "forwards" in wrong:
        advantages, values, rewards = (x[:, ::-1] for x in (advantages, values, rewards))
    if "not less values" in wrong:
        advantages, returns = advantages + values, advantages + values
    else:
        advantages = -advantages if "sign" in wrong else advantages
        returns = advantages + values
    if "returns are advantages" in wrong:
        returns = advantages
    if "returns are rewards" in wrong:
        returns = rewards
    both = np.stack([advantages, returns])
    return -both if "both signs" in wrong else both


@checker
def check_gae(function: Callable) -> str:
    """Exercise 05.1: `function(rewards, values, mask, gamma, lam)` -> (advantages, returns)."""
    from torch import tensor

    rewards = tensor([[0.1, -0.2, 1.0, 0.0], [0.3, 0.5, -0.4, 2.0]])
    values = tensor([[0.5, 0.4, 0.8, 9.0], [0.2, -0.6, 0.7, 0.9]])
    mask = tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    more = (tensor([[0.4, 1.3], [-0.7, 5.0], [0.2, -1.1]]),
            tensor([[0.9, -0.3], [1.2, 4.0], [-0.8, 0.6]]),
            tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
    return Exercise(
        _gae, GAE, [(rewards, values, mask, 0.9, 0.8), (*more, 0.7, 0.6)],
        "advantages and returns; this can train a model",
        hint="return two tensors, (advantages, returns)",
        keep=lambda answer, rewards, values, mask, gamma, lam: answer * mask.numpy(),
    ).check(function)


# --- 05.2 ------------------------------------------------------------------------------------

CLIPPED = {
    "sign": "the sign is wrong: a loss is minimised, so it is minus the surrogate",
    "best":
        "of the two terms take the worse one for the policy: min of the gains, max of the losses",
    "unclipped": "nothing is clipped; compare with the ratio held within 1 ± clip_range",
    "clipped only": "only the clipped term is used; then a bad step is never undone",
    "upside down": "the ratio is upside down; it is new over old",
    "no exp": "the ratio is exp(logprobs - old_logprobs); the exp is missing",
    "padding": "padding counts; average over the mask only",
    "all tokens": "divide by the number of real tokens",
    "sum": "this is a sum; take the mean over real tokens",
    "by row": "this is the mean of each response's mean; every token should weigh the same",
    "fixed range": "clip_range has no effect",
}


def _clipped(logprobs: Any, old: Any, advantages: Any, mask: Any, clip_range: float,
             wrong: frozenset[str] = frozenset()) -> Any:
    logprobs, old, advantages, mask = (
        np.asarray(x, dtype=np.float64) for x in (logprobs, old, advantages, mask))
    clip_range = 0.2 if "fixed range" in wrong else clip_range
    difference = old - logprobs if "upside down" in wrong else logprobs - old
    ratio = difference if "no exp" in wrong else np.exp(difference)
    plain, held = ratio * advantages, ratio.clip(1 - clip_range, 1 + clip_range) * advantages
    gains = np.maximum(plain, held) if "best" in wrong else np.minimum(plain, held)
    gains = plain if "unclipped" in wrong else held if "clipped only" in wrong else gains
    mask = np.ones_like(mask) if "padding" in wrong else mask
    total, real = (gains * mask).sum(), mask.sum()
    mean = total / (mask.size if "all tokens" in wrong else 1 if "sum" in wrong else real)
    if "by row" in wrong:
        mean = ((gains * mask).sum(1) / mask.sum(1)).mean()
    return mean if "sign" in wrong else -mean


@checker
def check_clipped_loss(function: Callable) -> str:
    """Exercise 05.2: `function(logprobs, old_logprobs, advantages, mask, clip_range)`, one loss."""
    from torch import tensor

    first = (tensor([[-1.0, -0.2, -2.0], [-1.5, -0.4, -3.0]]),
             tensor([[-1.5, -0.9, -1.2], [-1.0, -0.5, -0.1]]),
             tensor([[1.0, -1.0, 2.0], [-0.5, 0.8, 5.0]]),
             tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]), 0.2)
    second = (tensor([[-0.6, -1.1, -0.3, -4.0], [-2.0, -0.8, -5, -5], [-0.9, -0.2, -1.4, -0.5]]),
              tensor([[-1.2, -0.7, -0.4, -0.2], [-1.3, -1.6, 0, 0], [-0.4, -0.9, -1.3, -1.1]]),
              tensor([[0.7, -1.2, 0.4, 3.0], [1.5, -0.6, 2.0, 4.0], [-0.9, 1.1, 0.3, -1.4]]),
              tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), 0.4)
    return Exercise(_clipped, CLIPPED, [first, second], "clipped, pessimistic and masked",
                    hint="take one mean over all real tokens").check(function)


# --- 05.3 ------------------------------------------------------------------------------------

TOKEN_REWARDS = {
    "sign": "the sign of the KL term is wrong: distance costs",
    "no coefficient": "did you multiply by the KL coefficient?",
    "no KL": "the KL term is missing",
    "no score": "the score is missing; it belongs to the last real token",
    "last column":
        "the score stands in the last column; it belongs to the last token inside the mask",
    "everywhere": "the score is paid at every token; it is paid once, at the last real one",
    "one late": "the score stands one place too late; the first index is 0",
    "padding": "padding has a KL term; nothing happens beyond the end",
    "at the end": "the whole KL is paid at the end; pay it where it arises, token by token",
    "ratio": "KL per token is the difference of logs, not a ratio",
    "swapped": "policy and reference are swapped in the KL term",
}


def _token_rewards(scores: Any, logprobs: Any, reference: Any, mask: Any, kl_coef: float,
                   wrong: frozenset[str] = frozenset()) -> Any:
    scores, logprobs, reference, mask = (
        np.asarray(x, dtype=np.float64) for x in (scores, logprobs, reference, mask))
    rows, last = np.arange(len(scores)), mask.sum(1).astype(int) - 1
    kl = reference - logprobs if "swapped" in wrong else logprobs - reference
    kl = np.exp(kl) if "ratio" in wrong else kl
    kl = kl * (1 if "padding" in wrong else mask) * ("no KL" not in wrong)
    if "at the end" in wrong:
        total, kl = kl.sum(1), np.zeros_like(kl)
        kl[rows, last] = total
    coef = 1.0 if "no coefficient" in wrong else kl_coef
    rewards = coef * kl if "sign" in wrong else -coef * kl
    if "no score" in wrong:
        return rewards
    if "everywhere" in wrong:
        return rewards + scores[:, None] * mask
    place = last * 0 - 1 if "last column" in wrong else last
    place = np.minimum(last + 1, mask.shape[1] - 1) if "one late" in wrong else place
    rewards[rows, place] += scores
    return rewards


@checker
def check_token_rewards(function: Callable) -> str:
    """Exercise 05.3: `function(scores, logprobs, reference_logprobs, mask, kl_coef)`."""
    from torch import tensor

    first = (tensor([2.0, -1.0]), tensor([[-1.0, -0.2, -2.0], [-1.5, -0.4, -9.0]]),
             tensor([[-1.5, -0.9, -1.2], [-1.0, -0.5, -0.1]]),
             tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]), 0.3)
    second = (tensor([0.7, 1.9, -2.4]),
              tensor([[-0.3, -1.8, -0.6, -2.0], [-1.1, -3, -4, -7], [-2.2, -0.1, -0.9, -0.4]]),
              tensor([[-0.8, -0.9, -1.7, -0.2], [-0.4, -1, -2, -3], [-1.6, -1.2, -0.2, -1.5]]),
              tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), 0.05)
    return Exercise(
        _token_rewards, TOKEN_REWARDS, [first, second],
        "the KL cost at each token, the score at the last one",
        hint="one reward for each token",
    ).check(function)


# --- 05.4 ------------------------------------------------------------------------------------

CAUSES = {
    "no KL term": "reward and KL would rise together, and the entropy would end near 0",
    "reference moves": "the KL would stay at 0 although the policy is another one by now",
    "other temperature": "the ratio would differ from 1 before the first step",
    "advantage sign": "the reward would fall below where it began",
    "no steps": "reward, KL and entropy would stay where they began",
    "no whitening": "the run would differ little from the sound one",
}
BROKEN = {"A": "other temperature", "B": "advantage sign", "C": "reference moves",
          "D": "no KL term"}
SOUND = "sound"


def broken_runs(seed: int = 0, updates: int = 30) -> dict[str, list[dict[str, float]]]:
    """Short runs of PPO on eight arms: one that is sound, and A to D with one fault each.

    Returns:
        by name, a row for each update: `step`, `reward` (mean of the batch), `kl` (nats, exact,
        from the reference that the run used), `first_ratio` (before the update's first step, of
        the token where it is farthest from 1) and `entropy` (nats).
    """
    return {name: _bandit(BROKEN.get(name), seed, updates) for name in (SOUND, *BROKEN)}


def _bandit(fault: str | None, seed: int, updates: int) -> list[dict[str, float]]:
    import torch

    from helpers import ppo

    draw = torch.Generator().manual_seed(seed)
    pays = torch.linspace(-1.0, 1.5, 8)
    start = torch.tensor([0.6, 0.3, -1.5, -1.5, 0.5, 0.2, 0.6, 0.3])
    reference, logits = start.log_softmax(-1), start.clone().requires_grad_()
    optimiser, ones, rows = torch.optim.Adam([logits], 0.1), torch.ones(256, 1), []
    kl_coef = 0.0 if fault == "no KL term" else 0.5
    for step in range(updates):
        now = logits.detach().log_softmax(-1)
        reference = now if fault == "reference moves" else reference
        old = (logits.detach() / 0.7).log_softmax(-1) if fault == "other temperature" else now
        a = torch.multinomial(now.exp(), 256, replacement=True, generator=draw)[:, None]
        earned = ppo.token_rewards(pays[a[:, 0]], now[a], reference[a], ones, kl_coef)
        advantages = ppo.whiten(earned, ones) * (-1 if fault == "advantage sign" else 1)
        ratio = (now - old)[a].exp()
        rows.append({
            "step": step + 1, "reward": pays[a].mean().item(),
            "kl": (now.exp() * (now - reference)).sum().item(),
            "first_ratio": ratio.flatten()[(ratio - 1).abs().argmax()].item(),
            "entropy": -(now.exp() * now).sum().item()})
        for _ in range(2):
            loss = ppo.policy_loss(logits.log_softmax(-1)[a], old[a], advantages, ones)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return rows


@checker
def check_broken_runs(diagnosis: Any) -> str:
    """Exercise 05.4: `{"A": cause, …}` for the runs of `broken_runs`; causes are `CAUSES`."""
    check_diagnosis(diagnosis, BROKEN, CAUSES)
    return "each fault has a trace of its own, and the reward alone shows only one of them"


# --- 05.5 ------------------------------------------------------------------------------------


@checker
def check_own_reward(
    function: Callable, prompts: Sequence[str], responses: Sequence[str]
) -> str:
    """Exercise 05.5: `function(prompts, responses)`, a reward that a policy can be trained on.

    Args:
        prompts, responses: samples of the policy that is to be trained, at least eight.
    """
    if function is None:
        raise NotDone
    prompts, texts, n = list(prompts), list(responses), len(responses)
    given, _ = numbers(call(function, prompts, texts), (n,), hint="one number for each response")
    if np.ptp(given) == 0:
        raise NotRight("every response gets the same reward; then no answer is better than another")
    again, _ = numbers(call(function, prompts, texts), (n,))
    if not np.allclose(given, again):
        raise NotRight("the same responses get other rewards when asked again; a policy would "
                       "learn noise")
    turned, _ = numbers(call(function, prompts[::-1], texts[::-1]), (n,))
    few, _ = numbers(call(function, prompts[:2], texts[:2]), (2,))
    if not np.allclose(given, turned[::-1]) or not np.allclose(given[:2], few):
        raise NotRight("a response's reward depends on its neighbours in the batch; judge it alone")
    lengths = np.array([len(text) for text in texts])
    if np.ptp(lengths) and abs(np.corrcoef(given, lengths)[0, 1]) > 0.95:
        raise NotRight("this is the length in disguise; PPO would learn to write more, or less, "
                       "and nothing else")
    if len(np.unique(given)) < 3:
        raise NotRight("there are two rewards only; most pairs of answers are equal then, and a "
                       "policy has little to go by")
    empty, _ = numbers(call(function, prompts[:1], [""]), (1,))
    if empty[0] >= np.quantile(given, 0.9):
        raise NotRight("saying nothing earns more than nearly every answer; PPO would find that")
    best = texts[int(given.argmax())].strip()[:80]
    return f"it can be trained on; the answer it likes best is {best!r}: is it yours too?"
