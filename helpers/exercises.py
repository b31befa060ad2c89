"""Checkers for the reader's own code: each says what is right, or names the likely mistake.

A checker takes the reader's function, calls it on small cases and prints one line. A function that
still returns `None` or `NotImplemented` is "not done yet", and the notebook goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def _answer(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """The function's result, or None where it is unsolved or breaks off (said in one line)."""
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        print(f"not right yet: {function.__name__} stopped with {type(error).__name__}: {error}")
        return None
    if result is None or result is NotImplemented:
        print("not done yet")
        return None
    return result


# --- 04, reward modelling -------------------------------------------------------------------


def check_bradley_terry_loss(function: Callable) -> bool:
    """Exercise 04.1: `function(chosen, rejected, margin)`, the mean loss in nats."""
    import torch

    chosen, rejected = torch.tensor([2.0, 0.0, -1.0]), torch.tensor([0.0, 1.0, -1.0])
    given = _answer(function, chosen, rejected)
    if given is None:
        return False
    given = torch.as_tensor(given, dtype=torch.float32)
    losses = torch.nn.functional.softplus(rejected - chosen)
    if given.shape != ():
        say = f"the result has shape {tuple(given.shape)}; take the mean over the batch"
    elif torch.isclose(given, torch.nn.functional.softplus(chosen - rejected).mean()):
        say = "this rewards the rejected response; is it chosen minus rejected?"
    elif torch.isclose(given, -losses.mean()):
        say = "the sign is wrong: this goes up when the model gets better"
    elif torch.isclose(given, losses.sum()):
        say = "this is the sum over the batch; its size would depend on the batch size"
    elif torch.isclose(given, losses.mean() / math.log(2)):
        say = "this is in bits; use the natural logarithm"
    elif not torch.isclose(given, losses.mean()):
        say = f"for gaps of +2, -1 and 0 the loss is {losses.mean():.4f}, yours is {given:.4f}"
    else:
        return _check_loss_details(function, chosen, rejected)
    print(f"not right yet: {say}.")
    return False


def _check_loss_details(function: Callable, chosen: Any, rejected: Any) -> bool:
    import torch

    far = _answer(function, torch.tensor([-200.0]), torch.tensor([200.0]))
    with_margin = _answer(function, chosen, rejected, 0.5)
    per_pair = _answer(function, chosen, rejected, torch.tensor([0.5, 0.0, 0.0]))
    if far is None or with_margin is None or per_pair is None:
        return False
    expected = torch.nn.functional.softplus(rejected - chosen + 0.5).mean()
    first = torch.tensor([0.5, 0.0, 0.0])
    expected_first = torch.nn.functional.softplus(rejected - chosen + first).mean()
    if not math.isfinite(float(far)):
        say = "a gap of -400 gives an infinite loss; F.logsigmoid does not overflow"
    elif torch.isclose(with_margin, torch.nn.functional.softplus(rejected - chosen - 0.5).mean()):
        say = "the margin has the wrong sign: it must make the task harder"
    elif not torch.isclose(with_margin, expected):
        say = f"with a margin of 0.5 the loss is {expected:.4f}, yours is {float(with_margin):.4f}"
    elif not torch.isclose(per_pair, expected_first):
        say = "a margin per pair must count for its own pair"
    else:
        print("right: the mean loss in nats, with margin, and safe for large gaps.")
        return True
    print(f"not right yet: {say}.")
    return False


def check_last_token_pooling(function: Callable) -> bool:
    """Exercise 04.2: `function(values, attention_mask)` for padding on either side."""
    import torch

    values = torch.arange(30.0).reshape(3, 5, 2)
    right = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    left = right.flip(1)
    results = []
    for mask in (right, left):
        result = _answer(function, values, mask)
        if result is None:
            return False
        results.append(result)
    rows = torch.arange(3)
    wanted = [values[rows, torch.tensor(last)] for last in ([2, 0, 4], [4, 4, 4])]
    good = [tuple(r.shape) == (3, 2) and torch.equal(r, w)
            for r, w in zip(results, wanted, strict=True)]
    if tuple(results[0].shape) != (3, 2):
        say = f"the result has shape {tuple(results[0].shape)}; wanted is (batch, width), (3, 2)"
    elif good == [True, False]:
        say = "right padding works, left padding does not: the count of real tokens is no position"
    elif torch.equal(results[0], values[:, -1]):
        say = "this reads the last column, which is padding in shorter rows"
    elif torch.equal(results[0], values[rows, torch.tensor([3, 1, 0])]):
        say = "this is one position too far; the first index is 0"
    elif torch.equal(results[0], values[:, 0]):
        say = "this reads the first token, which has seen nothing of the text"
    elif not all(good):
        say = f"with right padding the wanted rows are {wanted[0].tolist()}"
    else:
        print("right: the last real token, whichever side is padded.")
        return True
    print(f"not right yet: {say}.")
    return False


def check_length_sorted_batches(function: Callable) -> bool:
    """Exercise 04.3: `function(lengths, batch_size)`, batches of row numbers, longest first."""
    lengths = [5, 9, 2, 7, 9, 1, 4]
    batches = _answer(function, list(lengths), 3)
    if batches is None:
        return False
    batches = [[int(i) for i in batch] for batch in batches]
    rows = [i for batch in batches for i in batch]
    sizes = [lengths[i] for i in rows if 0 <= i < len(lengths)]
    if sorted(rows) != list(range(7)) and sorted(rows) == sorted(lengths):
        say = "these are the lengths themselves; return the numbers of the rows"
    elif len(rows) < 7:
        say = f"{7 - len(rows)} of 7 rows are missing; the last, smaller batch counts too"
    elif sorted(rows) != list(range(7)):
        say = "each row must come exactly once"
    elif max(map(len, batches)) > 3:
        say = "a batch holds more rows than batch_size"
    elif sizes == sorted(sizes):
        say = "the shortest come first; a batch too large for memory would be found last"
    elif sizes != sorted(sizes, reverse=True):
        say = "the rows do not go from long to short"
    elif len(batches) != 3:
        say = f"7 rows in batches of 3 make 3 batches, not {len(batches)}"
    else:
        print("right: longest first, every row once.")
        return True
    print(f"not right yet: {say}.")
    return False


# --- 06, PPO with TRL -----------------------------------------------------------------------


def check_response_mask(function: Callable) -> bool:
    """Exercise 06.1: `function(attention_mask, prompt_width)`, 1 up to the first pad."""
    import torch

    mask = torch.tensor([[0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
    given = _answer(function, mask, 2)
    if given is None:
        return False
    given = torch.as_tensor(given).long()
    wanted = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    if given.shape != wanted.shape:
        say = f"the result has shape {tuple(given.shape)}; without the prompt it is (3, 4)"
    elif torch.equal(given, mask[:, 2:]):
        say = "a token after a sampled pad still counts; the loss stops at the first pad"
    elif torch.equal(given, mask.cumprod(1)[:, 2:]):
        say = "the padding before the prompt switched everything off; drop the prompt first"
    elif torch.equal(given, 1 - wanted):
        say = "ones and zeros are the wrong way round"
    elif not torch.equal(given, wanted):
        say = f"for a response mask of 1, 0, 1, 1 the answer is 1, 0, 0, 0, not {given[1].tolist()}"
    else:
        print("right: one up to the first pad, zero from there on.")
        return True
    print(f"not right yet: {say}.")
    return False


def check_best_of(function: Callable) -> bool:
    """Exercise 06.2: `function(scores, n)`, expected best of n over all subsets of size n."""
    from itertools import combinations

    scores = [0.5, -1.0, 1.0, 0.0, 2.0]
    given = _answer(function, list(scores), 3)
    if given is None:
        return False
    subsets = list(combinations(scores, 3))
    wanted = sum(max(s) for s in subsets) / len(subsets)
    with_return = sum(x * ((i + 1) ** 3 - i**3) / 125 for i, x in enumerate(sorted(scores)))
    if math.isclose(given, max(scores[:3])):
        say = "this is the best of the first three; the other scores know something too"
    elif math.isclose(given, max(scores)):
        say = "this is the best of all five"
    elif math.isclose(given, sum(min(s) for s in subsets) / len(subsets)):
        say = "this is the worst of three"
    elif math.isclose(given, with_return):
        say = "here a score can be drawn twice; a subset holds each score once"
    elif not math.isclose(given, wanted):
        say = f"over all {len(subsets)} subsets of three the mean is {wanted:.4f}, not {given:.4f}"
    elif not math.isclose(function([3.0, 1.0], 1), 2.0) or function([3.0, 1.0], 2) != 3.0:
        say = "best of one is the mean, best of all is the maximum"
    else:
        print("right: the average over all subsets, without luck.")
        return True
    print(f"not right yet: {say}.")
    return False


# --- 07, evaluation -------------------------------------------------------------------------


def check_win_rate(function: Callable) -> bool:
    """Exercise 07.1: `function(a_scores, b_scores)`, share of prompts where A wins, ties half."""
    a, b = [1.0, 2.0, 3.0, 9.0, 0.0], [0.0, 2.0, 5.0, 1.0, 0.0]
    given = _answer(function, list(a), list(b))
    if given is None:
        return False
    if math.isclose(given, 0.6):
        print("right: two wins and two ties out of five.")
        return True
    if math.isclose(given, 0.4):
        say = "either ties count nothing here, or A and B are swapped"
    elif math.isclose(given, 0.8):
        say = "a tie counts as a full win here; it is worth one half to each side"
    elif math.isclose(given, 2 / 3):
        say = "ties are left out here; a judge who cannot tell is a result too"
    elif math.isclose(given, sum(a) / 5 - sum(b) / 5):
        say = "this is the mean difference; a win counts one, however large"
    else:
        say = f"two wins, one loss and two ties of five make 0.6, not {given:.4g}"
    print(f"not right yet: {say}.")
    return False


def check_bootstrap(function: Callable) -> bool:
    """Exercise 07.2: `function(values, draws, seed)`, the (low, high) 95 % bootstrap interval."""
    import numpy as np

    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    given = _answer(function, values, 2000, 0)
    if given is None:
        return False
    low, high = (float(x) for x in given)
    wanted = values.mean() - 1.96 * values.std() / 20, values.mean() + 1.96 * values.std() / 20
    if low == high:
        say = "the ends are equal; each draw must take rows *with* replacement"
    elif low > high:
        say = "the ends are swapped"
    elif abs(low - np.quantile(values, 0.025)) < 0.1 and abs(high - wanted[1]) > 0.5:
        say = "these are quantiles of the values; resample, average, then take quantiles"
    elif max(abs(low - wanted[0]), abs(high - wanted[1])) > 0.03:
        say = f"about [{wanted[0]:.2f}, {wanted[1]:.2f}] is right, yours is [{low:.2f}, {high:.2f}]"
    else:
        print("right: resample rows, average, take the quantiles.")
        return True
    print(f"not right yet: {say}.")
    return False


# --- 01, grid search with human feedback ----------------------------------------------------


def check_preference_probability(function: Callable) -> bool:
    """Exercise 01.1: `function(first, second, weights)`, P(first walk preferred), Bradley-Terry."""
    import numpy as np

    weights = np.array([-1.0, 0.0, -1.0, -3.0, 4.0, 10.0])
    plain, muddy = np.array([8.0, 8, 0, 0, 0, 1]), np.array([6.0, 6, 0, 2, 0, 1])
    given = _answer(function, plain, muddy, weights)
    if given is None:
        return False
    gap = float((plain - muddy) @ weights)
    right = 1 / (1 + math.exp(-gap))
    odds = math.exp(plain @ weights) / math.exp(muddy @ weights)
    if abs(given - (1 - right)) < 1e-6:
        say = "this is the probability of the second walk; is it first minus second?"
    elif abs(given - gap) < 1e-6:
        say = "this is the difference of the returns; a sigmoid makes it a probability"
    elif abs(given - odds) < 1e-6:
        say = "these are the odds; a probability is odds / (1 + odds)"
    elif abs(given - right) > 1e-6:
        say = f"for returns that differ by {gap:+.0f} it is {right:.4f}, yours is {given:.4f}"
    else:
        far = np.array([0.0, 0, 0, 0, 0, 90])
        with np.errstate(all="ignore"):
            given = _answer(function, far, plain, weights), _answer(function, plain, far, weights)
        if None not in given and np.allclose(given, (1, 0)):
            print("right: it depends on the difference of the returns only.")
            return True
        say = (f"for returns about 900 apart it gives {given[0]} and {given[1]}; take the "
               "difference before the exponential")
    print(f"not right yet: {say}.")
    return False


def check_repaired_cost(function: Callable) -> bool:
    """Exercise 01.2: `function(features)`, a reward per move under which circling never pays."""
    import numpy as np

    from helpers import gridworld

    grids = [gridworld.make_map(seed) for seed in (7, 8, 9)]
    arrived, total = 0, 0
    for grid in grids:
        features = gridworld.moves(grid)[1]
        reward = _answer(function, features)
        if reward is None:
            return False
        if np.shape(reward) != features.shape[:2]:
            print(f"not right yet: the result has shape {np.shape(reward)}; one number per move is "
                  f"{features.shape[:2]}.")
            return False
        there, back = ((features == _plain_move(progress)).all(-1) for progress in (1, -1))
        circle = reward[there].max() + reward[back].max()
        if circle > 0:
            print(f"not right yet: one step there and one back still earn {circle:+.2f}; what a "
                  "step back costs must be at least what the step forward paid.")
            return False
        policy = gridworld.plan(grid, reward)
        for start in gridworld.starts(grid, 5, np.random.default_rng(0)):
            arrived += gridworld.follow(grid, policy, start).success
            total += 1
    if arrived < total:
        print(f"not right yet: circling no longer pays, but only {arrived} of {total} walks "
              "arrive; is there still something to gain on the way to the goal?")
        return False
    print(f"right: a circle earns nothing, and {arrived} of {total} walks arrive.")
    return True


def _plain_move(progress: int):
    import numpy as np

    return np.array([1, progress, 0, 0, 0, 0])


def check_rating_zero(function: Callable) -> bool:
    """Exercise 01.3: `function(ratings)`, rewards from predicted ratings, so that walks arrive."""
    import numpy as np

    from helpers import gridworld

    arrived, total = 0, 0
    for seed in (11, 12, 13):
        grid = gridworld.make_map(seed)
        features = gridworld.moves(grid)[1]
        ratings = np.clip(3.5 + 0.5 * (features @ gridworld.TRUE_WEIGHTS + features[..., 1]), 1, 5)
        reward = _answer(function, ratings.copy())
        if reward is None:
            return False
        if np.shape(reward) != ratings.shape:
            print(f"not right yet: the result has shape {np.shape(reward)}, the ratings "
                  f"{ratings.shape}.")
            return False
        if not np.allclose(np.corrcoef(np.ravel(reward), ratings.ravel())[0, 1], 1):
            print("not right yet: better rated moves must keep the better reward; only shift.")
            return False
        policy = gridworld.plan(grid, reward)
        for start in gridworld.starts(grid, 5, np.random.default_rng(0)):
            arrived += gridworld.follow(grid, policy, start).success
            total += 1
    if arrived < total:
        print(f"not right yet: only {arrived} of {total} walks arrive; while a step forward and "
              "one back earn more than nothing together, going on for ever beats arriving.")
        return False
    print(f"right: {arrived} of {total} walks arrive.")
    return True


# --- 05, PPO --------------------------------------------------------------------------------


def _tell(given: Any, right: Any, mistakes: list[tuple[Any, str]], well_done: str) -> bool:
    """Compare a tensor with the right one and with those of named mistakes, and say which it is."""
    import torch

    given = torch.as_tensor(given, dtype=torch.float32)
    if given.shape != right.shape:
        say = f"the result has shape {tuple(given.shape)}; it must be {tuple(right.shape)}"
    elif torch.allclose(given, right, atol=1e-4):
        print(f"right: {well_done}.")
        return True
    else:
        close = [text for wrong, text in mistakes if torch.allclose(given, wrong, atol=1e-4)]
        where = tuple((given - right).abs().reshape(right.shape).nonzero()[0].tolist())
        say = close[0] if close else (
            f"it first differs at {list(where)}: {given[where].item():.4f}, not "
            f"{right[where].item():.4f}"
        )
    print(f"not right yet: {say}.")
    return False


def check_gae(function: Callable) -> bool:
    """Exercise 05.1: `function(rewards, values, mask, gamma, lam)` -> (advantages, returns)."""
    import torch

    from helpers import ppo

    rewards = torch.tensor([[0.1, -0.2, 1.0, 0.0], [0.3, 0.5, -0.4, 2.0]])
    values = torch.tensor([[0.5, 0.4, 0.8, 9.0], [0.2, -0.6, 0.7, 0.9]])
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    gamma, lam = 0.9, 0.8
    given = _answer(function, rewards, values, mask, gamma, lam)
    if given is None:
        return False
    if not isinstance(given, tuple) or len(given) != 2:
        print("not right yet: return two tensors, (advantages, returns).")
        return False

    def variant(g=gamma, x=lam, m=mask, r=rewards, v=values):
        return ppo.gae(r, v, m, g, x)[0]

    ones = torch.ones_like(mask)
    advantages, returns = ppo.gae(rewards, values, mask, gamma, lam)
    forwards = ppo.gae(rewards.flip(1), values.flip(1), mask.flip(1), gamma, lam)[0].flip(1)
    unmasked = variant(m=ones, r=rewards, v=values)
    mistakes = [
        (unmasked, "the value and reward beyond the end of a response leak in; did you use mask?"),
        (unmasked * mask, "a response's last step still looks at the value of padding after it"),
        (variant(x=1.0), "lam has no effect; each later error counts gamma · lam times less"),
        (variant(g=1.0), "gamma has no effect"),
        (variant(x=0.0), "this is the one-step error only; add gamma · lam · the next advantage"),
        (variant(x=lam / gamma), "the next advantage must be weighted with gamma · lam, not lam"),
        (returns * mask, "these are the returns; subtract the values to get the advantages"),
        (-advantages, "the sign is wrong; is it reward + gamma · next value - value?"),
        (forwards, "the sum runs the wrong way; start at the last step and go backwards"),
    ]
    if not _tell(torch.as_tensor(given[0]) * mask, advantages, mistakes, "these are advantages"):
        return False
    mistakes = [
        (advantages, "the returns are advantages plus values, not the advantages again"),
        (rewards * mask, "the returns are advantages plus values, not the rewards"),
    ]
    return _tell(torch.as_tensor(given[1]) * mask, returns * mask, mistakes,
                 "so are the returns; this can train a model")


def check_clipped_loss(function: Callable) -> bool:
    """Exercise 05.2: `function(logprobs, old_logprobs, advantages, mask, clip_range)`, one loss."""
    import torch

    from helpers import ppo

    logprobs = torch.tensor([[-1.0, -0.2, -2.0], [-1.5, -0.4, -3.0]])
    old = torch.tensor([[-1.5, -0.9, -1.2], [-1.0, -0.5, -0.1]])
    advantages = torch.tensor([[1.0, -1.0, 2.0], [-0.5, 0.8, 5.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    given = _answer(function, logprobs, old, advantages, mask, 0.2)
    if given is None:
        return False

    def mean(x, m=mask):
        return (x * m).sum() / m.sum()

    def surrogate(ratio):
        clipped = ratio.clamp(0.8, 1.2)
        return ratio * advantages, clipped * advantages

    right = ppo.policy_loss(logprobs, old, advantages, mask, 0.2)
    plain, clipped = surrogate((logprobs - old).exp())
    lower = torch.minimum(plain, clipped)
    inverted = torch.minimum(*surrogate((old - logprobs).exp()))
    difference = torch.minimum(*surrogate(logprobs - old))
    mistakes = [
        (-right, "the sign is wrong: a loss is minimised, so it is minus the surrogate"),
        (-mean(torch.maximum(plain, clipped)),
         "of the two terms take the worse one for the policy: min of the gains, max of the losses"),
        (-mean(plain), "nothing is clipped; compare with the ratio held within 1 ± clip_range"),
        (-mean(clipped), "only the clipped term is used; then a bad step is never undone"),
        (-mean(inverted), "the ratio is upside down; it is new over old"),
        (-mean(difference), "the ratio is exp(logprobs - old_logprobs); the exp is missing"),
        (-mean(lower, torch.ones_like(mask)), "padding counts; average over the mask only"),
        (-(lower * mask).sum() / mask.numel(), "divide by the number of real tokens"),
        (-(lower * mask).sum(), "this is a sum; take the mean over real tokens"),
        (-((lower * mask).sum(1) / mask.sum(1)).mean(),
         "this is the mean of each response's mean; every token should weigh the same"),
    ]
    return _tell(given, right, mistakes, "clipped, pessimistic and masked")


def check_token_rewards(function: Callable) -> bool:
    """Exercise 05.3: `function(scores, logprobs, reference_logprobs, mask, kl_coef)`."""
    import torch

    from helpers import ppo

    scores = torch.tensor([2.0, -1.0])
    logprobs = torch.tensor([[-1.0, -0.2, -2.0], [-1.5, -0.4, -9.0]])
    reference = torch.tensor([[-1.5, -0.9, -1.2], [-1.0, -0.5, -0.1]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    coef = 0.3
    given = _answer(function, scores, logprobs, reference, mask, coef)
    if given is None:
        return False
    right = ppo.token_rewards(scores, logprobs, reference, mask, coef)
    kl = logprobs - reference
    at_end = right + coef * kl * mask  # the score alone, at the last real token
    last_column = torch.zeros_like(kl)
    last_column[:, -1] = scores
    whole = at_end * (1 - coef * (kl * mask).sum(1, keepdim=True) / scores[:, None])
    mistakes = [
        (at_end + coef * kl * mask, "the sign of the KL term is wrong: distance costs"),
        (at_end - kl * mask, "did you multiply by the KL coefficient?"),
        (at_end, "the KL term is missing"),
        (-coef * kl * mask, "the score is missing; it belongs to the last real token"),
        (-coef * kl * mask + last_column,
         "the score stands in the last column; it belongs to the last token inside the mask"),
        (-coef * kl * mask + scores[:, None] * mask,
         "the score is paid at every token; it is paid once, at the last real one"),
        (-coef * kl + at_end, "padding has a KL term; nothing happens beyond the end"),
        (whole, "the whole KL is paid at the end; pay it where it arises, token by token"),
        (at_end - coef * kl.exp() * mask, "KL per token is the difference of logs, not a ratio"),
    ]
    return _tell(given, right, mistakes, "the KL cost at each token, the score at the last one")


# --- 02 and 03, language models -------------------------------------------------------------


def check_bits_per_byte(function: Callable) -> bool:
    """Exercise 02: `function(token_logprobs, text)`, bits per byte of UTF-8 text."""
    logprobs, text = [-1.0, -2.0, -0.5, -3.5], "a café"
    given = _answer(function, logprobs, text)
    if given is None:
        return False
    nats, size = -sum(logprobs), len(text.encode())
    right = nats / math.log(2) / size
    mistakes = {
        nats / size: "this is in nats; divide by the natural logarithm of 2",
        nats / math.log(2) / len(text): "this counts characters; 'é' is two bytes",
        nats / math.log(2) / len(logprobs): "this is per token; divide by the bytes of the text",
        -right: "the sign is wrong; a surprise is minus a log-probability",
    }
    if math.isclose(float(given), right, rel_tol=1e-6):
        print("right: bits, and bytes.")
        return True
    say = next((t for wrong, t in mistakes.items() if math.isclose(float(given), wrong)),
               f"for log-probabilities {logprobs} and {text!r} it is {right:.4f}, not {given:.4f}")
    print(f"not right yet: {say}.")
    return False


def check_mask_turns(function: Callable) -> bool:
    """Exercise 03: `function(turns)`, the labels of a dialogue with several turns."""
    turns = [("user", [5, 6]), ("assistant", [7, 8, 0]), ("user", [9]), ("assistant", [10, 0])]
    given = _answer(function, turns)
    if given is None:
        return False
    given = list(given)
    flat = [t for _, ids in turns for t in ids]
    speakers = [who for who, ids in turns for _ in ids]
    right = [t if who == "assistant" else -100 for t, who in zip(flat, speakers, strict=True)]
    last = [-100] * 6 + [10, 0]
    mistakes = [
        (flat, "the human turns count too; their labels must be -100"),
        ([t if who == "user" else -100 for t, who in zip(flat, speakers, strict=True)],
         "the human turns are learned and the assistant's masked; it is the other way round"),
        (last, "only the last answer counts; every assistant turn should"),
        ([-100 if t == 0 else t for t in right],
         "the end-of-text tokens are masked, so the model never learns to stop"),
        ([0 if t == -100 else t for t in right],
         "a masked label must be -100; 0 is a token and would be learned"),
    ]
    if given == right:
        print("right: every answer counts, and its end with it.")
        return True
    say = next((t for wrong, t in mistakes if given == wrong),
               f"for {turns} the labels are {right}, not {given}")
    print(f"not right yet: {say}.")
    return False
