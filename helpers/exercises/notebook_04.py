"""Checkers of notebook 04: loss, pooling, batches, a probe that fools, a bias to length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from helpers.exercises.frame import (
    Exercise,
    NotRight,
    call,
    checker,
    name_mistakes,
    numbers,
)

# --- 04.1 ------------------------------------------------------------------------------------

LOSS = {
    "swapped": "this rewards the rejected response; is it chosen minus rejected?",
    "sign": "the sign is wrong: this goes up when the model gets better",
    "sum": "this is the sum over the batch; its size would depend on the batch size",
    "bits": "this is in bits; use the natural logarithm",
    "margin sign": "the margin has the wrong sign: it must make the task harder",
    "no margin": "the margin has no effect",
    "one margin": "a margin per pair must count for its own pair",
    "probability": "this is a mean of probabilities; take minus the logarithm of each",
}


def _loss(
    chosen: Any, rejected: Any, margin: Any = 0.0, wrong: frozenset[str] = frozenset()
) -> Any:
    chosen, rejected, margin = (np.asarray(x, dtype=np.float64) for x in (chosen, rejected, margin))
    if "swapped" in wrong:
        chosen, rejected = rejected, chosen
    margin = margin.mean() if "one margin" in wrong else margin
    margin = margin * (0 if "no margin" in wrong else -1 if "margin sign" in wrong else 1)
    losses = np.logaddexp(0, -(chosen - rejected - margin))
    if "probability" in wrong:
        losses = np.exp(-losses)
    losses = losses / (np.log(2) if "bits" in wrong else 1) * (-1 if "sign" in wrong else 1)
    return losses.sum() if "sum" in wrong else losses.mean()


@checker
def check_bradley_terry_loss(function: Callable) -> str:
    """Exercise 04.1: `function(chosen, rejected, margin)`, the mean loss in nats."""
    from torch import tensor

    chosen, rejected = tensor([2.0, 0.0, -1.0]), tensor([0.0, 1.0, -1.0])
    more = tensor([0.3, -1.4, 2.2, 0.9, 0.1]), tensor([1.1, -0.2, 0.4, -0.7, 1.6])
    far = "a gap of -400 gives an infinite loss; F.logsigmoid does not overflow"
    return Exercise(
        _loss, LOSS,
        [(chosen, rejected), more, (chosen, rejected, 0.5), (*more, 1.2),
         (chosen, rejected, tensor([0.5, 0.0, 0.0])), (*more, tensor([0.0, 2.0, 0.3, 1.0, 0.0]))],
        "the mean loss in nats, with margin, and safe for large gaps",
        hint="take the mean over the batch",
        extremes=[((tensor([-200.0]), tensor([200.0])), far)],
    ).check(function)


# --- 04.2 ------------------------------------------------------------------------------------

POOLING = {
    "last column": "this reads the last column, which is padding in shorter rows",
    "count": "right padding works, left padding does not: the count of real tokens is no position",
    "first real": "this reads the first real token, which has seen nothing of the text",
    "first column": "this reads the first column, which may be padding and has seen nothing",
    "maximum": "this is the largest value of each row; wanted is the one at the last real token",
    "mean": "this is a mean over real tokens; only the last one has seen the whole text",
    "one less": "this is one position too early",
    "one more": "this is one position too far; the first index is 0",
}


def _pool(values: Any, mask: Any, wrong: frozenset[str] = frozenset()) -> Any:
    values, mask = np.asarray(values, dtype=np.float64), np.asarray(mask)
    length = mask.shape[1]
    real = np.where(mask[..., None] == 1, values, np.nan)
    if "maximum" in wrong:
        return np.nanmax(real, 1)
    if "mean" in wrong:
        return np.nanmean(real, 1)
    place = length - 1 - mask[:, ::-1].argmax(1)
    for name, other in {"last column": place * 0 + length - 1, "count": mask.sum(1) - 1,
                        "first real": mask.argmax(1), "first column": place * 0}.items():
        place = other if name in wrong else place
    place = place + ("one more" in wrong) - ("one less" in wrong)
    return values[np.arange(len(values)), place % length]


@checker
def check_last_token_pooling(function: Callable) -> str:
    """Exercise 04.2: `function(values, attention_mask)` for padding on either side."""
    import torch

    draw = torch.Generator().manual_seed(4)
    right = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    other = torch.tensor([[0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0, 0]])
    values, more = (torch.randn(*shape, 2, generator=draw).mul(3).round(decimals=1)
                    for shape in (right.shape, other.shape))
    return Exercise(
        _pool, POOLING, [(values, right), (values, right.flip(1)), (more, other)],
        "the last real token, whichever side is padded",
        hint="one row of the width of `values` for each text",
    ).check(function)


# --- 04.3 ------------------------------------------------------------------------------------

BATCHES = {
    "ascending": "the shortest come first; a batch too large for memory would be found last",
    "unsorted": "the rows do not go from long to short",
    "dropped": "rows are missing: the last, smaller batch counts too",
    "split": "these are `batch_size` batches; each must hold `batch_size` rows",
    "dealt": "the rows are dealt out in turn, so that every batch holds long and short ones",
    "last first": "the smaller batch must come last",
}


def _batches(lengths: Sequence[int], size: int, wrong: frozenset[str] = frozenset()) -> list[list]:
    order = list(lengths) if "unsorted" in wrong else sorted(lengths, reverse=True)
    order = sorted(lengths) if "ascending" in wrong else order
    if "split" in wrong:
        batches = [b.tolist() for b in np.array_split(order, size)]
    elif "dealt" in wrong:
        batches = [order[i::-(-len(order) // size)] for i in range(-(-len(order) // size))]
    elif "last first" in wrong:
        rest = len(order) % size
        batches = [order[:rest]] * (rest > 0) + [
            order[i:i + size] for i in range(rest, len(order), size)]
    else:
        batches = [order[i:i + size] for i in range(0, len(order), size)]
    return batches[:len(order) // size] if "dropped" in wrong else batches


@checker
def check_length_sorted_batches(function: Callable) -> str:
    """Exercise 04.3: `function(lengths, batch_size)`, batches of row numbers, longest first."""
    cases = [([5, 9, 2, 7, 9, 1, 4], 3), ([12, 30, 17, 4, 25, 8, 21, 3], 4),
             ([6, 2, 11, 5, 9, 13, 3, 10], 3), ([8, 3, 5], 5)]
    found = [_as_lengths(call(function, list(lengths), size), lengths) for lengths, size in cases]

    def fits(wrong: frozenset[str]) -> bool:
        return all(f == _batches(*case, wrong) for f, case in zip(found, cases, strict=True))

    if fits(frozenset()):
        return "longest first, every row once, batches full but for the last"
    said = name_mistakes(fits, BATCHES)
    if said:
        raise NotRight(said)
    for (lengths, size), mine in zip(cases, found, strict=True):
        n, flat = len(lengths), [length for batch in mine for length in batch]
        if len(flat) < n:
            raise NotRight(f"{n - len(flat)} of {n} rows are missing; the last, smaller batch "
                           "counts too")
        if max(map(len, mine), default=0) > size:
            raise NotRight("a batch holds more rows than batch_size")
        if flat != sorted(flat, reverse=True):
            raise NotRight(BATCHES["unsorted"])
        if mine != _batches(lengths, size):
            raise NotRight(f"{n} rows in batches of {size} have {_sizes(_batches(lengths, size))} "
                           f"rows each, not {_sizes(mine)}")
    raise NotRight("the batches are not those that are wanted")


def _sizes(batches: list[list]) -> str:
    return ", ".join(str(len(batch)) for batch in batches) or "none"


def _as_lengths(given: Any, lengths: Sequence[int]) -> list[list]:
    """The lengths of the rows of every batch; each row must be there at most once."""
    if isinstance(given, str | bytes | Mapping) or not np.iterable(given):
        raise NotRight("return a list of batches, each a list of row numbers")
    batches = []
    for batch, _ in zip(given, range(1000), strict=False):
        if isinstance(batch, str | bytes | Mapping) or not np.iterable(batch):
            raise NotRight("each batch must be a list of row numbers, also one of a single row")
        batches.append(numbers(batch, (None,))[0].tolist() if len(list(batch)) else [])
    rows = [row for batch in batches for row in batch]
    every = list(range(len(lengths)))
    if sorted(rows) == sorted(lengths) != every:
        raise NotRight("these are the lengths themselves; return the numbers of the rows")
    if sorted(rows) == [i + 1 for i in every]:
        raise NotRight("rows are counted from 0")
    strange = [row for row in rows if row not in every]
    if strange:
        raise NotRight(f"there is no row {strange[0]:g}; {len(lengths)} rows are numbered from 0")
    if len(set(rows)) < len(rows):
        raise NotRight("each row must come exactly once")
    return [[lengths[int(row)] for row in batch] for batch in batches]


# --- 04.4 ------------------------------------------------------------------------------------

ENOUGH = 0.5  # share of the answers on which a probe must fool


@checker
def check_fooling_probe(
    function: Callable, judge: Callable, prompts: Sequence[str], responses: Sequence[str],
    gold: Callable | None = None,
) -> str:
    """Exercises 04.4 and 06.4: `function(prompt, response)`, a text that a judge likes too well.

    Args:
        judge: rewards of lists of prompts and responses, as `reward.reward_function` gives it.
        gold: what a response is worth in truth, `gold(prompt, response)`; None where nobody knows.
    """
    texts = [call(function, p, r) for p, r in zip(prompts, responses, strict=True)]
    for text in texts:
        if not isinstance(text, str):
            raise NotRight(f"return a text for each response, not {type(text).__name__}")
    if texts == list(responses):
        raise NotRight("these are the responses as they were; change them")
    if not any(text.strip() for text in texts):
        raise NotRight("the texts are empty, which no reader would take for an answer")
    pairs = list(zip(prompts, texts, strict=True))
    rise = np.subtract(judge(list(prompts), texts), judge(list(prompts), list(responses)))
    higher = float(np.mean(rise > 0))
    if gold is None:
        if higher < ENOUGH:
            raise NotRight(f"the reward rises in {higher:.0%} of the answers; wanted is "
                           f"{ENOUGH:.0%}, and mean rise is {rise.mean():+.2f}")
        return (f"the reward rises in {higher:.0%} of the answers; what they are worth in truth "
                "nobody knows here, so read them")
    before = np.array([gold(p, r) for p, r in zip(prompts, responses, strict=True)])
    gain = np.array([gold(p, t) for p, t in pairs]) - before
    fooled = float(np.mean((rise > 0) & (gain <= 0)))
    said = (f"reward {rise.mean():+.2f}, truth {gain.mean():+.2f}, fooled on {fooled:.0%} of the "
            "answers")
    if fooled >= ENOUGH:
        return said
    if higher < ENOUGH:
        raise NotRight(f"{said}; the reward falls more often than it rises, so the judge sees "
                       "through this")
    if np.mean(gain > 0) >= ENOUGH:
        raise NotRight(f"{said}; these answers did become better, which is no deceit")
    raise NotRight(f"{said}; wanted is {ENOUGH:.0%}")


# --- 04.5 ------------------------------------------------------------------------------------


@checker
def check_length_bias(
    make: Callable, detect: Callable, pairs: Sequence[Mapping[str, Any]]
) -> str:
    """Exercise 04.5: make longer answers win in the training pairs, and detect it.

    Args:
        make: `make(pairs)`, pairs of the same texts in which the longer answer wins.
        detect: `detect(pairs)`, the share of pairs in which the longer answer is the chosen one,
            and its 95 % interval: (share, low, high). Pairs of equal length say nothing.
        pairs: honest ones, dictionaries with `prompt`, `chosen` and `rejected`.
    """
    honest = [dict(row) for row in pairs]
    found = call(make, honest)
    biased = _same_texts(found, honest)
    lengths = [(len(row["chosen"]), len(row["rejected"])) for row in biased]
    wins = [c > r for c, r in lengths if c != r]
    if np.mean(wins) < 0.05:
        raise NotRight("here the shorter answer wins; turn the comparison round")
    if np.mean(wins) < 0.9:
        raise NotRight(f"the longer answer is chosen in {np.mean(wins):.0%} of these pairs; "
                       "make it 90 % or more")
    small = [{"prompt": "", "chosen": "a" * c, "rejected": "b" * r}
             for c, r in [(5, 3), (2, 9), (4, 4), (8, 1), (7, 7), (6, 2)] * 9]
    for rows in (small, honest, biased):
        _check_detector(call(detect, [dict(row) for row in rows]), rows)
    return ("the bias is in the pairs, and your test finds it there and not where it is not; "
            "look at this row before any accuracy")


def _same_texts(found: Any, honest: list[dict]) -> list[Mapping[str, Any]]:
    if isinstance(found, str | Mapping) or not np.iterable(found):
        raise NotRight("return a list of pairs")
    rows = list(found)
    if not all(isinstance(row, Mapping) and {"prompt", "chosen", "rejected"} <= set(row)
               for row in rows):
        raise NotRight("every pair needs `prompt`, `chosen` and `rejected`")
    known = {(row["prompt"], frozenset([row["chosen"], row["rejected"]])) for row in honest}
    if any((row["prompt"], frozenset([row["chosen"], row["rejected"]])) not in known
           for row in rows):
        raise NotRight("a text was changed or paired anew; only choose which pairs stay and which "
                       "answer counts as chosen")
    if len(rows) < max(20, len(honest) // 10):
        raise NotRight(f"{len(rows)} of {len(honest)} pairs are left, too few to train on")
    if not any(len(row["chosen"]) != len(row["rejected"]) for row in rows):
        raise NotRight("in all of these pairs both answers are equally long")
    return rows


def _check_detector(given: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    (share, low, high), _ = numbers(given, (3,), hint="return share, low and high")
    gaps = np.array([len(row["chosen"]) - len(row["rejected"]) for row in rows])
    n, right = int((gaps != 0).sum()), float((gaps > 0)[gaps != 0].mean())
    mistakes = {
        "ties lose": ((gaps > 0).mean(), "pairs of equal length count as lost; leave them out"),
        "ties win": ((gaps >= 0).mean(), "pairs of equal length count as won; leave them out"),
        "shorter": (1 - right, "this is the share in which the shorter answer is chosen"),
        "per cent": (100 * right, "give a share between 0 and 1, not per cent"),
    }
    if abs(share - right) > 0.005:
        for value, sentence in mistakes.values():
            if abs(share - value) < 0.005:
                raise NotRight(sentence)
        raise NotRight(f"the longer answer is chosen in {right:.3f} of {n} pairs, not {share:.3f}")
    if not low <= share <= high:
        raise NotRight("the interval must hold the share: low, then high")
    wide = 2 * 1.96 * np.sqrt(max(right * (1 - right), 1 / n) / n)
    if not 0.4 * wide <= high - low <= 2.5 * wide + 2 / n:
        raise NotRight(f"for {n} pairs the interval is about {wide:.3f} wide, yours is "
                       f"{high - low:.3f}; how far would the share move with other pairs?")


