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
    results = [_answer(function, values, mask) for mask in (right, left)]
    if any(result is None for result in results):
        return False
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
