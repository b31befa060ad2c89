"""Which pairs to have labelled: reward heads on a frozen language model, and three ways to choose.

A label costs a person's time; a linear head on features that were computed once costs none. So a
head is fitted anew after every few labels, and asked which pairs it would like to know (uncertainty
sampling: Lewis and Gale 1994, arXiv:cmp-lg/9407020; by the disagreement of several heads: Seung et
al. 1992; for preferences: Christiano et al. 2017, arXiv:1706.03741, section 2.2.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers.engine.place import backbone, inner_model
from helpers.engine.tokens import (
    check_tokenizer,
    encode_response,
    last_tokens,
    pad_responses,
    position_ids,
)
from helpers.errors import UserError
from helpers.evaluation import LOGITS
from helpers.reward.model import next_token_logprobs, pool_last_token, scoring_limit

STRATEGIES = ("random", "uncertainty", "disagreement")


@torch.no_grad()
def features(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], responses: Sequence[str],
    batch_size: int = 32,
) -> np.ndarray:
    """What a frozen causal language model makes of each response: (n, 2 * width + 1), float64.

    The hidden state at its last token, the mean of those at all its tokens, and the mean
    log-probability of its tokens, in nats. Of a text longer than `scoring_limit` the end counts.

    Raises:
        UserError: lists of unlike length.
    """
    if len(prompts) != len(responses):
        raise UserError(f"{len(prompts)} prompts but {len(responses)} responses.")
    check_tokenizer(tokenizer)
    limit, device = scoring_limit(model), next(model.parameters()).device
    parts = [encode_response(tokenizer, p, r) for p, r in zip(prompts, responses, strict=True)]
    texts = [last_tokens(tokenizer, prompt + response, limit) for prompt, response in parts]
    starts = [max(1, len(text) - len(response))
              for text, (_, response) in zip(texts, parts, strict=True)]
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    model.eval()
    trunk = backbone(model)
    tokens_at_once = max(1, LOGITS // model.get_input_embeddings().num_embeddings)
    found: list[np.ndarray] = [np.empty(0)] * len(texts)
    for begin in range(0, len(order), batch_size):
        index = order[begin : begin + batch_size]
        batch = {name: tensor.to(device) for name, tensor in pad_responses(
            [texts[i] for i in index], [starts[i] for i in index], tokenizer.pad_token_id).items()}
        ids, mask, told = batch["input_ids"], batch["attention_mask"], batch["response_mask"]
        hidden = trunk(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask),
                       use_cache=False).last_hidden_state
        weight = told.unsqueeze(-1) / told.sum(1)[:, None, None]
        rows, place = told[:, 1:].nonzero(as_tuple=True)
        logprobs = torch.zeros(ids.shape, device=device)
        for some in torch.arange(len(rows), device=device).split(tokens_at_once):
            row, column = rows[some], place[some]
            logprobs[row, column] = next_token_logprobs(
                inner_model(model), hidden[row, column], ids[row, column + 1]).float()
        columns = torch.cat([
            pool_last_token(hidden, mask).float(), (hidden * weight).sum(1).float(),
            (logprobs.sum(1) / told.sum(1)).unsqueeze(-1)], -1)
        for i, row in zip(index, columns.double().cpu().numpy(), strict=True):
            found[i] = row
    return np.stack(found)


def pair_features(model: nn.Module, tokenizer: Any, pairs: Sequence[Any]) -> np.ndarray:
    """Features of the chosen less those of the rejected response, (pairs, 2 * width + 1)."""
    both = features(model, tokenizer, [pair["prompt"] for pair in pairs] * 2,
                    [pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs])
    return both[: len(pairs)] - both[len(pairs) :]


def fit_head(
    differences: np.ndarray, labels: np.ndarray, strength: float = 0.003,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The linear head that Bradley–Terry likes best on labelled pairs, (width,).

    A logistic regression without a constant, as turning a pair round must turn its verdict round;
    scikit-learn's, with an L2 penalty of 1 / (2 * strength).

    Args:
        differences: (pairs, width), features of the first response less those of the second,
            scaled to about one.
        labels: (pairs,), 1 where the first was preferred, 0 where the second.
        weights: (pairs,), how often each pair counts.
    """
    from sklearn.linear_model import LogisticRegression

    if len(differences) == 0:
        raise UserError("a head needs at least one labelled pair; there are none.")
    x = np.asarray(differences) * np.where(np.asarray(labels) > 0.5, 1.0, -1.0)[:, None]
    own = None if weights is None else np.concatenate([weights, weights])
    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=300)
    model.fit(np.concatenate([x, -x]), np.repeat([1, 0], len(x)), sample_weight=own)
    return model.coef_[0]


def committee(
    differences: np.ndarray, labels: np.ndarray, members: int, rng: np.random.Generator,
) -> np.ndarray:
    """Heads on bootstrap samples of the same labelled pairs, (members, width)."""
    n = len(labels)
    drawn = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(members)]
    return np.stack([fit_head(differences[counts > 0], labels[counts > 0],
                              weights=counts[counts > 0].astype(float)) for counts in drawn])


def choose(
    strategy: str, differences: np.ndarray, open_rows: np.ndarray, heads: np.ndarray, count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Which `count` of the unlabelled pairs to ask about: row numbers among `open_rows`.

    `uncertainty`: where the mean margin of the heads is nearest to 0. `disagreement`: where their
    margins spread most for their size. Without heads, or with `random`, chance decides.

    Raises:
        UserError: another strategy.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"strategy is {strategy!r}; it must be one of {', '.join(STRATEGIES)}.")
    if strategy == "random" or not len(heads):
        return rng.permutation(open_rows)[:count]
    margins = differences[open_rows] @ heads.T
    if strategy == "uncertainty":
        worth = -np.abs(margins.mean(1))
    else:
        chance = 1 / (1 + np.exp(-margins))
        worth = chance.std(1)
    return open_rows[np.argsort(-worth, kind="stable")[:count]]


def expected_accuracy(head: np.ndarray, differences: np.ndarray, chances: np.ndarray) -> float:
    """How often a rater is expected to agree with a head; `chances`: of preferring the first."""
    margins = differences @ head
    right = np.where(margins > 0, chances, 1 - chances)
    return float(np.where(margins == 0, 0.5, right).mean())


def label_curve(
    strategy: str, pool: np.ndarray, pool_chances: np.ndarray, test: np.ndarray,
    test_chances: np.ndarray, counts: Sequence[int], members: int = 8, seed: int = 0,
    keep_head: bool = False,
) -> list[dict[str, Any]]:
    """Accuracy after so many labels when `strategy` chooses whom to ask about.

    Each label is one rater's: 1 with the pair's chance. The same seed gives the same pair the same
    label under every strategy, so that these differ in what they ask and not in what they hear.

    Args:
        pool, test: (pairs, width) scaled differences of features.
        pool_chances, test_chances: (pairs,) that a rater prefers the first response.
        counts: numbers of labels, rising; the first are drawn at random under any strategy.
        keep_head: each row has its `head`, (width,), too.

    Returns:
        one row per count: `labels`, `accuracy` (expected, on `test`), and `closeness`, the mean
        over the pairs asked about of how near their chance is to one half (1: even, 0: certain).
    """
    rng = np.random.default_rng(seed)
    labels = (rng.random(len(pool)) < pool_chances).astype(float)
    asked: np.ndarray = np.empty(0, dtype=int)
    heads: np.ndarray = np.empty((0, pool.shape[1]))
    rows = []
    for count in counts:
        open_rows = np.setdiff1d(np.arange(len(pool)), asked)
        new = choose(strategy, pool, open_rows, heads, count - len(asked), rng)
        asked = np.concatenate([asked, new])
        head = fit_head(pool[asked], labels[asked])
        if strategy == "uncertainty":
            heads = head[None]
        elif strategy == "disagreement":
            heads = committee(pool[asked], labels[asked], members, rng)
        rows.append({
            "labels": len(asked), "accuracy": expected_accuracy(head, test, test_chances),
            "closeness": float(np.mean(1 - 2 * np.abs(pool_chances[asked] - 0.5))),
            **({"head": head} if keep_head else {})})
    return rows


def labels_needed(rows: Sequence[dict[str, float]], accuracy: float) -> float:
    """The labels after which a curve first reaches `accuracy`, between counts by a straight line.

    Infinite where it never does.
    """
    before = None
    for row in rows:
        if row["accuracy"] >= accuracy:
            if before is None:
                return float(row["labels"])
            share = (accuracy - before["accuracy"]) / (row["accuracy"] - before["accuracy"])
            return before["labels"] + share * (row["labels"] - before["labels"])
        before = row
    return float("inf")
