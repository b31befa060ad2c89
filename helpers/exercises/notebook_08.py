"""Checkers of notebook 08: DPO's loss, the leave-one-out baseline, how far best-of-n goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from helpers.exercises.frame import Exercise, checker

# --- 08.1 ------------------------------------------------------------------------------------

DPO = {
    "no reference": "the reference is missing: subtract its log-probability from each side's",
    "no beta": "β is missing: the margin is β times the difference of the log-ratios",
    "sign": "the loss has the wrong sign, or chosen and rejected are the wrong way round",
    "no log": "this is the chance of the choice; the loss is minus its logarithm",
    "sum": "this is a sum over the pairs; take the mean",
    "reference reversed":
        "the reference's part has the wrong sign: the log-ratio is log π − log π_ref",
    "beta divides": "β multiplies the log-ratios, it does not divide them",
}


def _dpo(chosen: Any, rejected: Any, reference_chosen: Any, reference_rejected: Any, beta: float,
         wrong: frozenset[str] = frozenset()) -> float:
    mine = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    theirs = np.asarray(reference_chosen, dtype=float) - np.asarray(reference_rejected, dtype=float)
    if "no reference" in wrong:
        theirs = theirs * 0
    margin = mine + theirs if "reference reversed" in wrong else mine - theirs
    scale = 1.0 if "no beta" in wrong else 1 / beta if "beta divides" in wrong else beta
    margin = scale * margin * (-1 if "sign" in wrong else 1)
    losses = np.logaddexp(0, -margin)
    if "no log" in wrong:
        losses = np.exp(-losses)
    return float(losses.sum() if "sum" in wrong else losses.mean())


@checker
def check_dpo_loss(function: Callable) -> str:
    """Exercise 08.1: `function(chosen, rejected, reference_chosen, reference_rejected, beta)`.

    All but beta (pairs,): log-probabilities of whole responses, nats; the mean loss is wanted.
    """
    from torch import tensor

    first = (tensor([-20.0, -31.0, -12.5]), tensor([-22.0, -28.0, -15.0]),
             tensor([-21.0, -30.0, -14.0]), tensor([-21.5, -29.0, -13.0]), 0.1)
    second = (tensor([-3.0, -9.0]), tensor([-7.0, -4.0]), tensor([-4.5, -8.0]),
              tensor([-5.0, -6.0]), 0.5)
    far = (tensor([-10.0]), tensor([-4000.0]), tensor([-4000.0]), tensor([-10.0]), 0.5)
    other = (tensor([-4000.0]), tensor([-10.0]), tensor([-10.0]), tensor([-4000.0]), 0.5)
    late = ("right on small margins, but it overflows on large ones; log σ has a function of its "
            "own, torch.nn.functional.logsigmoid")
    return Exercise(
        _dpo, DPO, [first, second], "log 2 where policy and reference are one, and less where the "
        "chosen response has gained on the rejected", hint="one number, the mean over the pairs",
        extremes=[(far, late), (other, late)],
    ).check(function)


# --- 08.2 ------------------------------------------------------------------------------------

LEAVE_ONE_OUT = {
    "own counted": "the response's own reward is in its baseline; leave it out",
    "whole batch": "the baseline is a mean over the batch; compare with the same prompt's only",
    "divided by n": "the siblings' sum is divided by the group's size; they are one fewer",
    "sign": "the sign is wrong: better than its siblings must be positive",
    "baseline": "this is the baseline; the advantage is the reward less the baseline",
    "spread": "this divides by the group's spread, which is GRPO's advantage",
    "columns": "the groups are read across: the first `group` rewards belong to the first prompt",
}


def _leave_one_out(rewards: Any, group: int, wrong: frozenset[str] = frozenset()) -> np.ndarray:
    flat = np.asarray(rewards, dtype=float)
    rows = flat.reshape(-1, group)
    if "columns" in wrong:
        rows = flat.reshape(group, -1).T
    total = rows.sum(1, keepdims=True)
    base = (total - rows) / (group if "divided by n" in wrong else group - 1)
    if "own counted" in wrong:
        base = np.broadcast_to(total / group, rows.shape)
    if "whole batch" in wrong:
        base = (flat.sum() - rows) / (flat.size - 1)
    out = base if "baseline" in wrong else rows - base
    if "spread" in wrong:
        out = out / (rows.std(1, ddof=1, keepdims=True) + 1e-4)
    out = -out if "sign" in wrong else out
    return out.T.ravel() if "columns" in wrong else out.ravel()


@checker
def check_leave_one_out(function: Callable) -> str:
    """Exercise 08.2: `function(rewards, group)`, rewards (prompts * group,), the same shape out."""
    from torch import tensor

    return Exercise(
        _leave_one_out, LEAVE_ONE_OUT,
        [(tensor([1.0, 2.0, -1.0, 0.5, 3.0, 4.0, 0.0, -2.0, 0.7, 0.9, 1.4, 6.0]), 4),
         (tensor([5.0, 1.0, 2.0, 2.5]), 2), (tensor([0.2, 0.9, 0.4, 1.0, 8.0, 3.0]), 3)],
        "each against its siblings, and the advantages of a group sum to 0",
        hint="one advantage for each reward",
    ).check(function)


# --- 08.3 ------------------------------------------------------------------------------------

BEST_OF_N_KL = {
    "bound": "this is the bound log n − (n − 1)/n; with few responses the KL itself is smaller",
    "log n": "this is log n; the bound is (n − 1)/n lower, and the KL itself lower still",
    "reversed": "this is KL(π_ref ‖ π); what a policy costs is KL(π ‖ π_ref)",
    "bits": "these are bits; nats take the natural logarithm",
    "worst": "this keeps the worst of n",
    "one fewer": "this is best of n − 1",
    "density": "the chance of a response is not proportional to p·F(r)^(n − 1): with steps, take "
               "F(r)ⁿ less what lies below, to the n",
}


def _best_of_n_kl(probabilities: Any, rewards: Any, n: int,
                  wrong: frozenset[str] = frozenset()) -> float:
    if "bound" in wrong:
        return math.log(n) - (n - 1) / n
    if "log n" in wrong:
        return math.log(n)
    p, r = np.asarray(probabilities, dtype=float), np.asarray(rewards, dtype=float)
    r, n = (-r if "worst" in wrong else r), max(1, n - ("one fewer" in wrong))
    up_to = np.array([p[r <= x].sum() for x in r])
    policy = up_to**n - (up_to - p) ** n
    if "density" in wrong:
        policy = p * up_to ** (n - 1)
        policy = policy / policy.sum()
    kl = (p * np.log(p / policy) if "reversed" in wrong else policy * np.log(policy / p)).sum()
    return float(kl / math.log(2) if "bits" in wrong else kl)


@checker
def check_best_of_n_kl(function: Callable) -> str:
    """Exercise 08.3: `function(probabilities, rewards, n)`, KL of best-of-n from π_ref, nats.

    Both (responses,): what each response's chance is, and its reward, no two alike.
    """
    cases = [([0.5, 0.3, 0.2], [1.0, 0.0, 2.0], 2), ([0.1, 0.2, 0.3, 0.4], [3.0, 1.0, 2.0, 0.5], 4),
             ([0.25, 0.25, 0.5], [0.1, 0.2, -1.0], 3)]
    return Exercise(
        _best_of_n_kl, BEST_OF_N_KL, cases,
        "below log n − (n − 1)/n, since a response that is likely anyway needs no luck to be drawn",
        hint="one number",
    ).check(function)
