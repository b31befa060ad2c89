"""The reward model: a language model whose last hidden state feeds one linear unit, and its loss.

It turns a prompt and a response into one number, and is trained on pairs of which people preferred
one (Christiano et al. 2017, arXiv:1706.03741; Stiennon et al. 2020, arXiv:2009.01325).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from helpers.engine.heads import float32_logits
from helpers.engine.packing import windowed
from helpers.engine.place import backbone, inner_model
from helpers.engine.scale import read_as, scale_of
from helpers.engine.tokens import (
    check_tokenizer,
    encode_response,
    last_tokens,
    pad_responses,
    position_ids,
)
from helpers.errors import UserError
from helpers.reward.pairs import PairBatch, SharedBatch, collate_shared, moved, shared_length

UNTRAINED = 2048  # tokens of a text that a model may score that does not know its training's limit
AT_LEAST = 256


def last_token_index(attention_mask: torch.Tensor) -> torch.Tensor:
    """Position of the last real token of every row, whichever side is padded.

    attention_mask: (batch, length), 1 for a real token and 0 for padding. Returns (batch,).
    """
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask * positions).argmax(dim=1)


def pool_last_token(values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The value at the last real token.

    values: (batch, length) or (batch, length, width); attention_mask: (batch, length).
    Returns (batch,) or (batch, width).
    """
    rows = torch.arange(values.shape[0], device=values.device)
    return values[rows, last_token_index(attention_mask)]


def bradley_terry_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """Mean of -log sigmoid(r_chosen - r_rejected - margin), in nats.

    chosen, rejected: (batch,) rewards; margin: a number or (batch,). A margin asks for more than
    the right order: the loss falls below log 2 only once the gap exceeds it (Touvron et al. 2023,
    arXiv:2307.09288, section 3.2.2). A constant added to every reward changes nothing.
    """
    return -F.logsigmoid(chosen - rejected - margin).mean()


def reward_logits(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    pool: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = pool_last_token,
    response_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Raw rewards of a batch: backbone, last real token, head.

    input_ids, attention_mask: (batch, length), padded on either side; response_mask, of the same
    shape, is 1 on the tokens of the response, and needed where the model has a
    `likelihood_weight` (`use_likelihood`). Returns (batch,) in float32. The positions are counted
    from the mask, so padding moves no token to another position.
    """
    trunk = backbone(model)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if _takes_positions(type(trunk)):
        inputs["position_ids"] = position_ids(attention_mask)
    hidden = trunk(**inputs, use_cache=False).last_hidden_state
    rewards = _head(model, pool(hidden, attention_mask))
    if not likelihood_weight(model):
        return rewards
    if response_mask is None:
        raise ValueError("a model with a likelihood weight needs the response_mask")
    rows, place = response_mask[:, 1:].nonzero(as_tuple=True)
    told = next_token_logprobs(model, hidden[rows, place], input_ids[rows, place + 1])
    return rewards + likelihood_weight(model) * _means(told, rows, len(rewards))


def _head(model: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """What the head adds to the reward: hidden states (n, width) to (n,) in float32."""
    head = inner_model(model).score
    rewards = head(values.to(head.weight.dtype))  # of a frozen backbone in bfloat16, say
    return scale_of(model).head_weight * rewards.squeeze(-1).float()


def likelihood_weight(model: nn.Module) -> float:
    """What one nat per token of likelihood adds to the reward; 0 where it adds nothing."""
    return scale_of(model).likelihood_weight


def use_likelihood(model: nn.Module, weight: float) -> nn.Module:
    """Let a reward model add `weight` times the mean log-probability of the response, in place.

    The head reads one hidden state; the mean over the response's tokens of log p(token | before)
    says what the same backbone thinks of every word on the way. It is the reward of SimPO (Meng et
    al. 2024, arXiv:2405.14734), trained on together with the head. `weight` is in units of reward
    per nat; 0 leaves the head alone. Raises UserError for a backbone whose output embedding is not
    its input embedding, since a reward model does not keep the former.
    """
    if weight and not getattr(inner_model(model).config, "tie_word_embeddings", True):
        raise UserError(
            "reward.likelihood needs a backbone that shares input and output embeddings, and this "
            "one does not; set reward.likelihood=0."
        )
    scale_of(model).likelihood_weight = weight
    return model


def likelihood_aside(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Inside the block the reward is the head's alone."""
    return read_as(model, likelihood_weight=0.0)


def next_token_logprobs(model: nn.Module, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log p(next token) by a backbone with tied embeddings, in nats: (n,) in float32.

    hidden: (n, width), last hidden states; ids: (n,), the tokens that followed them. A soft cap or
    a scale that the backbone's family puts on its logits is kept; so are their digits, in whatever
    precision the backbone computes.
    """
    return -F.cross_entropy(float32_logits(model, hidden), ids, reduction="none")


def _means(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    sums = values.new_zeros(count).index_add_(0, rows, values)
    return sums / torch.bincount(rows, minlength=count).clamp(min=1)


def pair_rewards(
    model: nn.Module,
    batch: PairBatch | SharedBatch,
    pool: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = pool_last_token,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of the chosen and the rejected responses of a collated batch, each (n,).

    Of either kind of batch; the result is the same.
    """
    if isinstance(batch, PairBatch):
        rewards = reward_logits(
            model, batch["input_ids"], batch["attention_mask"], pool, batch["response_mask"])
        return _halves(rewards)
    segment = batch["segment"]
    n, length = segment.shape
    ones = torch.ones(length, length, dtype=torch.bool, device=segment.device)
    reader, read = segment.unsqueeze(2), segment.unsqueeze(1)
    visible = ones.tril() & ((read == 0) | (read == reader))
    dtype = inner_model(model).get_input_embeddings().weight.dtype
    if torch.is_autocast_enabled(segment.device.type):
        dtype = torch.get_autocast_dtype(segment.device.type)
    hidden = backbone(model)(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=torch.zeros(n, 1, length, length, dtype=dtype, device=segment.device)
        .masked_fill_(~visible.unsqueeze(1), torch.finfo(dtype).min),
        use_cache=False,
    ).last_hidden_state
    of_chosen, of_rejected = ((segment == 0) | (segment == side) for side in (1, 2))
    values = torch.cat([pool(hidden, of_chosen.long()), pool(hidden, of_rejected.long())])
    rewards = _head(model, values)
    if likelihood_weight(model):
        rows, place = (segment > 0).nonzero(as_tuple=True)
        side = segment[rows, place] - 1
        # The rejected response follows the prompt, although the chosen one stands between them.
        jump = (side == 1) & (segment[rows, place - 1] == 1)
        before = torch.where(jump, (segment == 0).sum(dim=1)[rows] - 1, place - 1)
        told = next_token_logprobs(model, hidden[rows, before], batch["input_ids"][rows, place])
        rewards = rewards + likelihood_weight(model) * _means(told, side * n + rows, 2 * n)
    return _halves(rewards)


def _halves(rewards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    chosen, rejected = rewards.chunk(2)
    return chosen, rejected


def can_share_prompts(model: nn.Module) -> bool:
    """Whether `pair_rewards` may use `collate_shared` with this model.

    It needs explicit positions and full attention: a window counted in columns would reach over
    from one response into the other, and recurrent models have no mask at all.
    """
    config = inner_model(model).config
    attention = getattr(config, "_attn_implementation", "eager")
    return (
        attention in ("eager", "sdpa") and _takes_positions(type(backbone(model)))
        and not windowed(config)
    )


@functools.cache
def _takes_positions(kind: type[nn.Module]) -> bool:
    return "position_ids" in inspect.signature(kind.forward).parameters


def position_limit(model: nn.Module) -> int | None:
    """The most tokens that a model can read at once; None where it sets no limit."""
    return getattr(inner_model(model).config, "max_position_embeddings", None)


def scoring_limit(model: nn.Module, max_length: int | None = None) -> int:
    """The most tokens of a text that are scored: `max_length`, never more than the positions.

    None: the limit of the model's training, beyond which it has learned nothing, or `UNTRAINED`
    where it does not know one; but not below `AT_LEAST`, which any memory holds.
    """
    if max_length is None:
        max_length = max(scale_of(model).max_length or UNTRAINED, AT_LEAST)
    return min(max_length, position_limit(model) or max_length)


@torch.no_grad()
def score(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    batch_size: int = 64,
    max_length: int | None = None,
) -> np.ndarray:
    """Raw rewards of responses to rendered prompts: (n,) float64, in the order given.

    Texts are batched longest first to save padding, and their prompts lose their beginning where
    they are longer than `scoring_limit` says. An empty response has a reward too: that of ending
    the text at once.
    """
    if len(prompts) != len(responses):
        raise UserError(f"{len(prompts)} prompts but {len(responses)} responses to score.")
    check_tokenizer(tokenizer)
    limit = scoring_limit(model, max_length)
    parts = [encode_response(tokenizer, p, r) for p, r in zip(prompts, responses, strict=True)]
    texts = [last_tokens(tokenizer, prompt + response, limit) for prompt, response in parts]
    starts = [max(0, len(text) - len(response))
              for text, (_, response) in zip(texts, parts, strict=True)]
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    rewards = np.zeros(len(texts))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        batch = pad_responses(
            [texts[i] for i in index], [starts[i] for i in index], tokenizer.pad_token_id)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        rewards[index] = reward_logits(
            model, batch["input_ids"], batch["attention_mask"],
            response_mask=batch["response_mask"]).double().cpu().numpy()
    model.train(was_training)
    return rewards


def score_pairs(
    model: nn.Module, tokenizer: Any, pairs: Sequence[Any], batch_size: int = 32,
    max_length: int | None = None, bf16: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Raw rewards of the chosen and of the rejected responses, each (n,), as `score` gives them.

    A prompt is read once for both responses where the model allows it and nothing is cut. With
    `bf16` matrices are multiplied in bfloat16, as in training: faster where the processor has it,
    and right to about two decimals.
    """
    check_tokenizer(tokenizer)
    limit = scoring_limit(model, max_length)
    together = []
    if can_share_prompts(model):
        for row, pair in enumerate(pairs):
            prompt, chosen = encode_response(tokenizer, pair["prompt"], pair["chosen"])
            rejected = encode_response(tokenizer, "", pair["rejected"])[1]
            if prompt and len(prompt) + max(len(chosen), len(rejected)) <= limit:
                together.append({"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected,
                                 "prompt_length": len(prompt), "margin": 0.0, "row": row})
    together.sort(key=lambda row: -shared_length(row))
    rewards = np.zeros((2, len(pairs)))
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    for start in range(0, len(together), batch_size):
        rows = together[start : start + batch_size]
        batch = collate_shared(rows, tokenizer.pad_token_id)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            both = pair_rewards(model, moved(batch, device))
        rewards[:, [row["row"] for row in rows]] = torch.stack(both).double().cpu().numpy()
    model.train(was_training)
    shared = {row["row"] for row in together}
    apart = [row for row in range(len(pairs)) if row not in shared]
    if apart:
        prompts = [pairs[row]["prompt"] for row in apart]
        texts = [pairs[row][side] for side in ("chosen", "rejected") for row in apart]
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            alone = score(model, tokenizer, prompts + prompts, texts, 2 * batch_size, max_length)
        rewards[:, apart] = alone.reshape(2, -1)
    return rewards[0], rewards[1]


def likelihood_margins(model: nn.Module, tokenizer: Any, pairs: Sequence[Any]) -> np.ndarray:
    """Mean log-probability of the chosen less that of the rejected response, in nats: (n,).

    By the backbone as it is; the head has no part in it.
    """
    with read_as(model, head_weight=0.0, likelihood_weight=1.0):
        return np.subtract(*score_pairs(model, tokenizer, pairs))
