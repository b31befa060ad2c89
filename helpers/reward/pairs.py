"""Preference pairs as batches: token ids, an order with little padding, a row or two per pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from helpers.engine.kinds import EncodedPair, PairText
from helpers.engine.tokens import encode_responses, last_tokens, pad, pad_responses
from helpers.errors import UserError


def encode_pairs(
    tokenizer: Any, pairs: Sequence[PairText], max_length: int, *, longest_first: bool = False
) -> list[EncodedPair]:
    """Token ids of preference pairs, none longer than `max_length` tokens.

    A long prompt loses its beginning, for both responses alike; a pair of which a response alone
    takes more than three quarters of `max_length` is left out, since nobody judged half a response.

    Raises UserError for an empty or equal response, naming the row, and when there is no pair or
    none is left.
    """
    if not pairs:
        raise UserError("there are no pairs: a split of the preferences is empty; give more rows, "
                        "or a file of its own for each split.")
    encoded: list[EncodedPair] = []
    for row, pair in enumerate(pairs):
        chosen, rejected = pair["chosen"].strip(), pair["rejected"].strip()
        if not chosen or not rejected:
            side = "rejected" if chosen else "chosen"
            raise UserError(f"pair {row}: its {side} response is empty; both need text.")
        if chosen == rejected:
            raise UserError(f"pair {row}: both responses are the same text; one must be better.")
        prompt_ids, (chosen_ids, rejected_ids) = encode_responses(
            tokenizer, pair["prompt"], [chosen, rejected])
        response_length = max(len(chosen_ids), len(rejected_ids))
        if response_length > 0.75 * max_length:
            continue
        cut = max(0, len(prompt_ids) + response_length - max_length)
        kept = last_tokens(tokenizer, prompt_ids, len(prompt_ids) - cut)
        encoded.append(
            {
                "chosen_ids": kept + chosen_ids,
                "rejected_ids": kept + rejected_ids,
                "prompt_length": len(kept),
                "length": len(kept) + response_length,
                "cut": cut,
                "margin": float(pair.get("margin") or 0.0),
                "row": row,
            }
        )
    if not encoded:
        raise UserError(
            f"none of the {len(pairs)} pairs has responses that fit into {max_length} tokens; "
            "raise reward.max_length or give shorter texts."
        )
    if longest_first:
        encoded.sort(key=lambda pair: -pair["length"])
    return encoded


def length_grouped_order(
    lengths: Sequence[int], batch_size: int, seed: int = 0, epoch: int = 0, pool: int = 50
) -> list[int]:
    """An order of the rows in which neighbours have similar lengths but batches come at random.

    The rows are shuffled, sorted inside pools of `pool` batches and cut into batches; then the
    batches are shuffled, with the longest of all moved to the front, so that a batch too large
    for the memory fails at once. The order depends on seed and epoch alone.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    sizes = np.asarray(lengths)
    batches = []
    for start in range(0, len(order), pool * batch_size):
        chunk = order[start : start + pool * batch_size]
        chunk = chunk[np.argsort(-sizes[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    full = [batch for batch in batches if len(batch) == batch_size]
    rest = [batch for batch in batches if len(batch) < batch_size]
    full = [full[i] for i in generator.permutation(len(full))]
    full.sort(key=lambda batch: sizes[batch].max() < sizes.max())  # stable: longest to front
    return [int(i) for batch in full + rest for i in batch]


class PairBatch(dict[str, torch.Tensor]):
    """2n rows of tokens: n prompts with their chosen responses, then n with the rejected ones.

    `input_ids`, `attention_mask`, `response_mask` (2n, length), padded on the right; `margin` and
    `row`, the pair's place in what was encoded (n,).
    """


class SharedBatch(dict[str, torch.Tensor]):
    """n rows of tokens: prompt, chosen response, rejected response, the prompt there once.

    `segment` (n, length) is 0 on the prompt, 1 on the chosen and 2 on the rejected response, -1 on
    padding; `position_ids` (n, length) start again for the rejected response; `input_ids`
    (n, length), padded on the right; `margin` and `row` (n,).
    """


def collate_pairs(rows: Sequence[EncodedPair], pad_token_id: int) -> PairBatch:
    """One batch of two rows a pair."""
    texts = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
    return PairBatch(
        **pad_responses(texts, [row["prompt_length"] for row in rows] * 2, pad_token_id),
        margin=torch.tensor([row["margin"] for row in rows]),
        row=torch.tensor([row["row"] for row in rows]),
    )


def shared_length(row: EncodedPair) -> int:
    """Tokens of an encoded pair when its prompt is counted once."""
    return len(row["chosen_ids"]) + len(row["rejected_ids"]) - row["prompt_length"]


def collate_shared(rows: Sequence[EncodedPair], pad_token_id: int) -> SharedBatch:
    """One batch of one row a pair; `pair_rewards` keeps either response from seeing the other."""
    ids, positions, segments = [], [], []
    for row in rows:
        prompt, chosen, rejected = (
            row["prompt_length"], len(row["chosen_ids"]), len(row["rejected_ids"])
        )
        ids.append(row["chosen_ids"] + row["rejected_ids"][prompt:])
        positions.append([*range(chosen), *range(prompt, rejected)])
        segments.append([0] * prompt + [1] * (chosen - prompt) + [2] * (rejected - prompt))
    return SharedBatch(
        input_ids=pad(ids, pad_token_id)["input_ids"],
        position_ids=pad(positions, 0)["input_ids"],
        segment=pad(segments, -1)["input_ids"],
        margin=torch.tensor([row["margin"] for row in rows]),
        row=torch.tensor([row["row"] for row in rows]),
    )


def moved(batch: PairBatch | SharedBatch, device: torch.device) -> PairBatch | SharedBatch:
    """The same batch on a device."""
    return type(batch)({name: tensor.to(device) for name, tensor in batch.items()})


def padding_share(lengths: Sequence[int] | np.ndarray, batch_size: int) -> float:
    """Share of padding among all tokens when rows of these lengths are batched in this order.

    `lengths` may be (n,) single texts or (n, 2) pairs, of which each takes two rows of a batch.
    """
    sizes = np.asarray(lengths).reshape(len(lengths), -1)
    batches = [sizes[i : i + batch_size] for i in range(0, len(sizes), batch_size)]
    total = sum(batch.max() * batch.size for batch in batches)
    return float(1 - sizes.sum() / total)
