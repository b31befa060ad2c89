"""Preference pairs as batches: token ids, an order with little padding, a row or two per pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from helpers.engine.tokens import encode_response, pad, pad_responses
from helpers.errors import UserError


def encode_pairs(
    tokenizer, pairs: Sequence[dict], max_length: int, *, longest_first: bool = False
) -> list[dict]:
    """Token ids of preference pairs, none longer than `max_length` tokens.

    A long prompt loses its beginning, for both responses alike; a pair of which a response alone
    takes more than three quarters of `max_length` is left out, since nobody judged half a response.

    pairs: dictionaries with `prompt` (rendered), `chosen` and `rejected`; a `margin`, if there,
    is kept. Returns dictionaries `chosen_ids`, `rejected_ids`, `prompt_length` (tokens that both
    begin with), `length` (of the longer side), `cut` (tokens its prompt lost), `margin` and `row`,
    the pair's place in `pairs`. Raises UserError for an empty or equal response, naming the row,
    and when no pair is left.
    """
    encoded = []
    for row, pair in enumerate(pairs):
        chosen, rejected = pair["chosen"].strip(), pair["rejected"].strip()
        if not chosen or not rejected:
            side = "rejected" if chosen else "chosen"
            raise UserError(f"pair {row}: its {side} response is empty; both need text.")
        if chosen == rejected:
            raise UserError(f"pair {row}: both responses are the same text; one must be better.")
        prompt_ids, chosen_ids = encode_response(tokenizer, pair["prompt"], chosen)
        rejected_ids = encode_response(tokenizer, "", rejected)[1]
        response_length = max(len(chosen_ids), len(rejected_ids))
        if response_length > 0.75 * max_length:
            continue
        cut = max(0, len(prompt_ids) + response_length - max_length)
        encoded.append(
            {
                "chosen_ids": prompt_ids[cut:] + chosen_ids,
                "rejected_ids": prompt_ids[cut:] + rejected_ids,
                "prompt_length": len(prompt_ids) - cut,
                "length": len(prompt_ids) - cut + response_length,
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
    lengths = np.asarray(lengths)
    batches = []
    for start in range(0, len(order), pool * batch_size):
        chunk = order[start : start + pool * batch_size]
        chunk = chunk[np.argsort(-lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    full = [batch for batch in batches if len(batch) == batch_size]
    rest = [batch for batch in batches if len(batch) < batch_size]
    full = [full[i] for i in generator.permutation(len(full))]
    full.sort(key=lambda batch: lengths[batch].max() < lengths.max())  # stable: longest to front
    return [int(i) for batch in full + rest for i in batch]


def collate_pairs(rows: Sequence[dict], pad_token_id: int) -> dict[str, torch.Tensor]:
    """One batch of 2n rows: n chosen texts, then their n rejected ones, padded on the right.

    Returns input_ids, attention_mask and response_mask (2n, length), margin (n,) and row (n,).
    """
    texts = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
    return {
        **pad_responses(texts, [row["prompt_length"] for row in rows] * 2, pad_token_id),
        "margin": torch.tensor([row["margin"] for row in rows]),
        "row": torch.tensor([row["row"] for row in rows]),
    }


def shared_length(row: dict) -> int:
    """Tokens of an encoded pair when its prompt is counted once."""
    return len(row["chosen_ids"]) + len(row["rejected_ids"]) - row["prompt_length"]


def collate_shared(rows: Sequence[dict], pad_token_id: int) -> dict[str, torch.Tensor]:
    """One batch of n rows, each prompt + chosen response + rejected response, padded on the right.

    The prompt is there once. `segment` (n, length) is 0 on the prompt, 1 on the chosen and 2 on
    the rejected response, -1 on padding; positions start again for the rejected response, and
    `pair_rewards` keeps either response from seeing the other. Returns input_ids, position_ids,
    segment (n, length), margin (n,) and row (n,).
    """
    ids, positions, segments = [], [], []
    for row in rows:
        prompt, chosen, rejected = (
            row["prompt_length"], len(row["chosen_ids"]), len(row["rejected_ids"])
        )
        ids.append(row["chosen_ids"] + row["rejected_ids"][prompt:])
        positions.append([*range(chosen), *range(prompt, rejected)])
        segments.append([0] * prompt + [1] * (chosen - prompt) + [2] * (rejected - prompt))
    batch = pad(ids, pad_token_id)
    batch["position_ids"] = pad(positions, 0)["input_ids"]
    batch["segment"] = pad(segments, -1)["input_ids"]
    del batch["attention_mask"]
    return batch | {
        "margin": torch.tensor([row["margin"] for row in rows]),
        "row": torch.tensor([row["row"] for row in rows]),
    }


def padding_share(lengths: Sequence[int], batch_size: int) -> float:
    """Share of padding among all tokens when rows of these lengths are batched in this order.

    `lengths` may be (n,) single texts or (n, 2) pairs, of which each takes two rows of a batch.
    """
    lengths = np.asarray(lengths).reshape(len(lengths), -1)
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    total = sum(batch.max() * batch.size for batch in batches)
    return float(1 - lengths.sum() / total)
