"""Reward models: pooling, Bradley-Terry loss, collation, training, calibration, normalisation.

A reward model is a language model whose last hidden state feeds one linear unit. It turns a
prompt and a response into one number, and is trained on pairs of which people preferred one
(Christiano et al. 2017, arXiv:1706.03741; Stiennon et al. 2020, arXiv:2009.01325).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

from helpers.errors import UserError
from helpers.models import plain_attention, without_wrappers

# ------------------------------------------------------------------------------- the mathematics


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
    backbone = getattr(model, model.base_model_prefix)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if _takes_positions(type(backbone)):
        inputs["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    hidden = backbone(**inputs, use_cache=False).last_hidden_state
    rewards = model.score(pool(hidden, attention_mask)).squeeze(-1).float()
    if not likelihood_weight(model):
        return rewards
    rows, place = response_mask[:, 1:].nonzero(as_tuple=True)
    told = token_logprobs(model, hidden[rows, place], input_ids[rows, place + 1])
    return rewards + likelihood_weight(model) * _means(told, rows, len(rewards))


def likelihood_weight(model: nn.Module) -> float:
    """What one nat per token of likelihood adds to the reward; 0 where it adds nothing."""
    return getattr(model.config, "likelihood_weight", None) or 0.0


def use_likelihood(model: nn.Module, weight: float) -> nn.Module:
    """Let a reward model add `weight` times the mean log-probability of the response, in place.

    The head reads one hidden state; the mean over the response's tokens of log p(token | before)
    says what the same backbone thinks of every word on the way. It is the reward of SimPO (Meng et
    al. 2024, arXiv:2405.14734), trained on together with the head. `weight` is in units of reward
    per nat; 0 leaves the head alone. Raises UserError for a backbone whose output embedding is not
    its input embedding, since a reward model does not keep the former.
    """
    if weight and not getattr(model.config, "tie_word_embeddings", True):
        raise UserError(
            "reward.likelihood needs a backbone that shares input and output embeddings, and this "
            "one does not; set reward.likelihood=0."
        )
    model.config.likelihood_weight = weight
    return model


@contextlib.contextmanager
def likelihood_aside(model: nn.Module) -> Iterator[None]:
    """Inside the block the reward is the head's alone."""
    weight = likelihood_weight(model)
    model.config.likelihood_weight = 0.0
    try:
        yield
    finally:
        model.config.likelihood_weight = weight


def likelihood_margins(model: nn.Module, tokenizer, pairs: Sequence[dict]) -> np.ndarray:
    """Mean log-probability of the chosen less that of the rejected response, in nats: (n,).

    By the backbone as it is; the head has no part in it.
    """
    weight, parts = likelihood_weight(model), []
    for value in (weight + 1.0, weight):  # the reward is linear in the weight
        use_likelihood(model, value)
        parts.append(np.subtract(*score_pairs(model, tokenizer, pairs)))
    return parts[0] - parts[1]


def fit_weight(margins: Sequence[float]) -> float:
    """The weight w >= 0 under which choices are likeliest when P(chosen) = sigmoid(w · margin).

    margins: (n,), chosen less rejected. One unknown, by Newton's method; 0 where the margins
    speak against the choices.
    """
    gaps, weight = np.asarray(margins, dtype=np.float64), 0.0
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(weight * gaps, -30, 30)))
        step = np.mean((1 - p) * gaps) / (np.mean(p * (1 - p) * gaps**2) + 1e-12)
        weight = max(0.0, weight + float(np.clip(step, -1.0, 1.0)))
        if abs(step) < 1e-9:
            break
    return weight


def token_logprobs(model: nn.Module, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log p(next token) by a backbone with tied embeddings, in nats: (n,) in float32.

    hidden: (n, width), last hidden states; ids: (n,), the tokens that followed them.
    """
    table = model.get_input_embeddings().weight
    logits = F.linear(hidden.to(table.dtype), table)
    with torch.autocast(logits.device.type, enabled=False):  # no copy of the logits in float32
        return -F.cross_entropy(logits, ids, reduction="none").float()


def _means(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    sums = values.new_zeros(count).index_add_(0, rows, values)
    return sums / torch.bincount(rows, minlength=count).clamp(min=1)


def pair_rewards(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    pool: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = pool_last_token,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of the chosen and the rejected responses of a collated batch, each (n,).

    Takes what `collate_pairs` or `collate_shared` made; the result is the same.
    """
    if "segment" not in batch:
        rewards = reward_logits(
            model, batch["input_ids"], batch["attention_mask"], pool, batch["response_mask"])
        return rewards.chunk(2)
    segment, backbone = batch["segment"], getattr(model, model.base_model_prefix)
    n, length = segment.shape
    ones = torch.ones(length, length, dtype=torch.bool, device=segment.device)
    reader, read = segment.unsqueeze(2), segment.unsqueeze(1)
    visible = ones.tril() & ((read == 0) | (read == reader))
    dtype = model.score.weight.dtype
    if torch.is_autocast_enabled(segment.device.type):
        dtype = torch.get_autocast_dtype(segment.device.type)
    hidden = backbone(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=torch.zeros(n, 1, length, length, dtype=dtype, device=segment.device)
        .masked_fill_(~visible.unsqueeze(1), torch.finfo(dtype).min),
        use_cache=False,
    ).last_hidden_state
    of_chosen, of_rejected = ((segment == 0) | (segment == side) for side in (1, 2))
    values = torch.cat([pool(hidden, of_chosen.long()), pool(hidden, of_rejected.long())])
    rewards = model.score(values).squeeze(-1).float()
    if likelihood_weight(model):
        rows, place = (segment > 0).nonzero(as_tuple=True)
        side = segment[rows, place] - 1
        # The rejected response follows the prompt, although the chosen one stands between them.
        jump = (side == 1) & (segment[rows, place - 1] == 1)
        before = torch.where(jump, (segment == 0).sum(dim=1)[rows] - 1, place - 1)
        told = token_logprobs(model, hidden[rows, before], batch["input_ids"][rows, place])
        rewards = rewards + likelihood_weight(model) * _means(told, side * n + rows, 2 * n)
    return rewards.chunk(2)


def can_share_prompts(model: nn.Module) -> bool:
    """Whether `pair_rewards` may use `collate_shared` with this model.

    It needs explicit positions and full attention: a window counted in columns would reach over
    from one response into the other, and recurrent models have no mask at all.
    """
    config, backbone = model.config, getattr(model, model.base_model_prefix)
    layers = str(getattr(config, "layer_types", "")) + str(getattr(config, "attention_layers", ""))
    windowed = "sliding" in layers or "local" in layers or "linear" in layers
    attention = getattr(config, "_attn_implementation", "eager")
    return (
        _takes_positions(type(backbone)) and not windowed and attention in ("eager", "sdpa")
    )


@functools.cache
def _takes_positions(backbone: type[nn.Module]) -> bool:
    return "position_ids" in inspect.signature(backbone.forward).parameters


# ------------------------------------------------------------------------------ text to tokens


def encode_response(tokenizer, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Token ids of a rendered prompt and of its response, the end-of-text token included.

    The two are tokenised apart, so that a prompt has the same ids whatever follows it, exactly
    as when a policy generates the response token by token.
    """
    ids = tokenizer([prompt, " " + response.strip()], add_special_tokens=False)["input_ids"]
    return list(ids[0]), list(ids[1]) + [tokenizer.eos_token_id]


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


def pad(
    texts: Sequence[Sequence[int]], pad_token_id: int, side: str = "right"
) -> dict[str, torch.Tensor]:
    """Token lists as input_ids and attention_mask, both (len(texts), longest)."""
    width = max(len(text) for text in texts)
    ids = np.full((len(texts), width), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(texts), width), dtype=np.int64)
    for row, text in enumerate(texts):
        place = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[row, place], mask[row, place] = text, 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def pad_responses(
    texts: Sequence[Sequence[int]], prompt_lengths: Sequence[int], pad_token_id: int
) -> dict[str, torch.Tensor]:
    """`pad` with a response_mask, 1 on the tokens behind the prompt, (len(texts), longest)."""
    batch = pad(texts, pad_token_id)
    after = torch.arange(batch["input_ids"].shape[1]) >= torch.tensor(prompt_lengths).unsqueeze(1)
    return batch | {"response_mask": batch["attention_mask"] * after}


def padding_share(lengths: Sequence[int], batch_size: int) -> float:
    """Share of padding among all tokens when rows of these lengths are batched in this order.

    `lengths` may be (n,) single texts or (n, 2) pairs, of which each takes two rows of a batch.
    """
    lengths = np.asarray(lengths).reshape(len(lengths), -1)
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    total = sum(batch.max() * batch.size for batch in batches)
    return float(1 - lengths.sum() / total)


def check_tokenizer(tokenizer) -> None:
    """Raise UserError where padding could not be told from the end of a text."""
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no padding or no end-of-text token; "
            "add them with tokenizer.add_special_tokens and resize the model's embeddings."
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            "the tokenizer pads with its end-of-text token, so the end of a response cannot be "
            "told from padding; give it a padding token of its own."
        )


def _position_limit(model: nn.Module) -> int | None:
    return getattr(model.config, "max_position_embeddings", None)


# --------------------------------------------------------------------------------------- scoring


@torch.no_grad()
def score(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[str],
    responses: Sequence[str],
    batch_size: int = 64,
    max_length: int | None = None,
) -> np.ndarray:
    """Raw rewards of responses to rendered prompts: (n,) float64, in the order given.

    Texts are batched longest first to save padding and cut from the left where they are longer
    than `max_length` or than the model has positions. An empty response has a reward too: that
    of ending the text at once.
    """
    if len(prompts) != len(responses):
        raise UserError(f"{len(prompts)} prompts but {len(responses)} responses to score.")
    check_tokenizer(tokenizer)
    limit = min(max_length or 1 << 30, _position_limit(model) or 1 << 30)
    parts = [encode_response(tokenizer, p, r) for p, r in zip(prompts, responses, strict=True)]
    texts = [(prompt + response)[-limit:] for prompt, response in parts]
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
        rewards[index] = reward_logits(model, **batch).double().cpu().numpy()
    model.train(was_training)
    return rewards


def score_pairs(
    model: nn.Module, tokenizer, pairs: Sequence[dict], batch_size: int = 32,
    max_length: int | None = None, bf16: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Raw rewards of the chosen and of the rejected responses, each (n,), as `score` gives them.

    A prompt is read once for both responses where the model allows it and nothing is cut. With
    `bf16` matrices are multiplied in bfloat16, as in training: faster where the processor has it,
    and right to about two decimals.
    """
    check_tokenizer(tokenizer)
    limit = min(max_length or 1 << 30, _position_limit(model) or 1 << 30)
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
            both = pair_rewards(model, {name: t.to(device) for name, t in batch.items()})
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


def set_normalisation(model: nn.Module, rewards: Sequence[float]) -> tuple[float, float]:
    """Keep mean and standard deviation of reference rewards in the model's configuration.

    A Bradley-Terry reward has no zero and no unit of its own; dividing by its spread on samples
    of the reference policy gives one (Ziegler et al. 2019, arXiv:1909.08593). Returns both.
    """
    mean, std = float(np.mean(rewards)), float(np.std(rewards))
    if not math.isfinite(mean) or not std > 0:
        raise UserError("the reference rewards have no spread, so they cannot set a scale.")
    model.config.reward_mean, model.config.reward_std = mean, std
    return mean, std


def normalise(rewards: Sequence[float], mean: float, std: float) -> np.ndarray:
    """Rewards on the scale where reference samples have mean 0 and variance 1."""
    return (np.asarray(rewards, dtype=np.float64) - mean) / std


def reward_function(
    model: nn.Module, tokenizer, batch_size: int | None = None
) -> Callable[[Sequence[str], Sequence[str]], np.ndarray]:
    """A function from prompts and responses to normalised rewards (n,).

    `batch_size` None: 16 on a CPU, where padding costs more than calls do, and 64 elsewhere.
    """
    mean, std = (getattr(model.config, name, None) for name in ("reward_mean", "reward_std"))
    if mean is None or std is None:
        raise UserError("this reward model has no scale yet; call reward.set_normalisation first.")
    batch_size = batch_size or (16 if next(model.parameters()).device.type == "cpu" else 64)

    def rewards(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        return normalise(score(model, tokenizer, prompts, responses, batch_size), mean, std)

    return rewards


def load_reward_function(settings) -> Callable[[Sequence[str], Sequence[str]], np.ndarray]:
    """The trained stage `reward_model` as a function (prompts, responses) -> rewards (n,).

    Rewards are normalised: mean 0 and variance 1 on samples of the reference (SFT) policy.
    """
    from helpers.course import stage_info
    from helpers.models import load_stage

    model, tokenizer = load_stage(settings, "reward_model")
    if getattr(model.config, "reward_std", None) is None:
        # Adapters are saved without the model's configuration, so the stage keeps the scale too.
        metrics = (stage_info("reward_model", settings) or {}).get("metrics", {})
        for name in ("reward_mean", "reward_std", "likelihood_weight"):
            setattr(model.config, name, metrics.get(name))
    return reward_function(model, tokenizer)


# -------------------------------------------------------------------------------------- measures


def pair_accuracy(margins: Sequence[float]) -> np.ndarray:
    """1 where the margin r(chosen) - r(rejected) is positive, ½ where it is 0: (n,)."""
    return (np.sign(np.asarray(margins, dtype=np.float64)) + 1) / 2


def expected_accuracy(margins: Sequence[float], probabilities: Sequence[float]) -> np.ndarray:
    """Chance that an annotator agrees with the sign of each margin: (n,).

    probabilities: true chance that an annotator prefers `chosen`. Scoring with it instead of with
    one drawn label removes the noise of the draw.
    """
    right, probabilities = pair_accuracy(margins), np.asarray(probabilities)
    return right * probabilities + (1 - right) * (1 - probabilities)


def bayes_ceiling(probabilities: Sequence[float]) -> np.ndarray:
    """Expected accuracy of a judge who knows the true probabilities: max(p, 1 - p), (n,)."""
    probabilities = np.asarray(probabilities)
    return np.maximum(probabilities, 1 - probabilities)


def reliability(
    margins: Sequence[float], right: Sequence[float] | None = None, bins: int = 10
) -> list[dict]:
    """Stated confidence against accuracy, in equal bins from ½ to 1.

    The confidence in the preferred side is sigmoid(|margin|). `right` (n,) is 1 where the sign of
    the margin is right, or the probability that it is; by default `pair_accuracy(margins)`.
    Returns one row per bin that is not empty: `confidence`, `accuracy`, `count`.
    """
    margins = np.asarray(margins, dtype=np.float64)
    right = pair_accuracy(margins) if right is None else np.asarray(right, dtype=np.float64)
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    rows = []
    for i in range(bins):
        inside = place == i
        if inside.any():
            rows.append(
                {
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                    "count": int(inside.sum()),
                }
            )
    return rows


def calibration_error(
    margins: Sequence[float], right: Sequence[float] | None = None, bins: int = 10
) -> float:
    """Expected calibration error: mean |confidence - accuracy| over the bins of `reliability`,
    each weighted by its share of the pairs (Guo et al. 2017, arXiv:1706.04599)."""
    rows = reliability(margins, right, bins)
    gaps = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    return gaps / sum(row["count"] for row in rows)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    ranks = []
    for values in (np.asarray(x), np.asarray(y)):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def length_margins(pairs: Sequence[dict]) -> np.ndarray:
    """The "longer wins" baseline: difference in characters, (n,)."""
    return np.array([len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs], dtype=float)


def bag_of_words_margins(
    train: Sequence[dict], test: Sequence[dict], penalty: float = 1e-3, min_count: int = 3
) -> np.ndarray:
    """A linear Bradley-Terry model on word counts, fitted on `train`: margins on `test`, (n,).

    It sees neither prompt nor word order. What it reaches, a reward model gets without reading.
    """
    words = [[_words(pair[side]) for side in ("chosen", "rejected")] for pair in [*train, *test]]
    counts: dict[str, int] = {}
    for pair in words[: len(train)]:
        for word in pair[0] + pair[1]:
            counts[word] = counts.get(word, 0) + 1
    kept = sorted(word for word, n in counts.items() if n >= min_count)
    index = {word: i for i, word in enumerate(kept)}
    entries: dict[tuple[int, int], float] = {}
    for row, pair in enumerate(words):
        for sign, side in zip((1.0, -1.0), pair, strict=True):
            for word in side:
                if word in index:
                    key = (row, index[word])
                    entries[key] = entries.get(key, 0.0) + sign
    place = torch.tensor(list(entries), dtype=torch.long).reshape(-1, 2).T
    values = torch.tensor(list(entries.values()), dtype=torch.float32)
    fit = place[0] < len(train)
    width = max(len(index), 1)
    features = torch.sparse_coo_tensor(
        place[:, fit], values[fit], (len(train), width), check_invariants=False
    ).coalesce()
    weights = torch.zeros(width, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        margins = torch.sparse.mm(features, weights)
        loss = F.softplus(-margins).mean() + penalty * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    rows = place[0, ~fit] - len(train)
    margins = torch.zeros(len(test)).index_add_(
        0, rows, values[~fit] * weights.detach()[place[1, ~fit], 0]
    )
    return margins.double().numpy()


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "'" else f" {c} " for c in text.lower()).split()


# -------------------------------------------------------------------------------------- training


class LengthGroupedSampler(torch.utils.data.Sampler):
    """Yields `length_grouped_order` of the epoch that the Trainer announces by `set_epoch`."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(length_grouped_order(self.lengths, self.batch_size, self.seed, self.epoch))


class PairTrainer(Trainer):
    """`transformers.Trainer` on pairs: both responses of a pair in one forward pass."""

    def __init__(self, *args, loss_fn, pool_fn, margin: float, share_prompts: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_fn, self.pool_fn, self.margin = loss_fn, pool_fn, margin
        self.share_prompts = share_prompts
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # Trainer's own autocast wraps `model.forward`, which `pair_rewards` does not call.
        kind = inputs["input_ids"].device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.args.bf16):
            chosen, rejected = pair_rewards(model, inputs, pool=self.pool_fn)
        # The margin is a training device: evaluation measures the plain likelihood.
        margin = inputs["margin"] + self.margin if model.training else 0.0
        loss = self.loss_fn(chosen, rejected, margin)
        if not torch.isfinite(loss):
            rows = ", ".join(str(row) for row in inputs["row"].tolist())
            raise UserError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}, on the pairs "
                f"in rows {rows}; training stopped before the update and the last checkpoint is "
                "kept. Lower the learning rate or look at these rows."
            )
        return (loss, torch.stack([chosen, rejected], dim=1)) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, rewards = self.compute_loss(model, inputs, return_outputs=True)
        return loss, rewards.detach(), inputs["row"]

    def _get_train_sampler(self, train_dataset=None):
        rows = train_dataset if train_dataset is not None else self.train_dataset
        batch_size = self._train_batch_size * max(1, self.args.world_size)
        length = shared_length if self.share_prompts else lambda row: row["length"]
        return LengthGroupedSampler([length(row) for row in rows], batch_size, self.args.seed)


def _pair_metrics(prediction) -> dict[str, float]:
    margins = prediction.predictions[:, 0] - prediction.predictions[:, 1]
    return {"accuracy": float(pair_accuracy(margins).mean()), "margin": float(margins.mean())}


def train_reward_model(
    model: nn.Module,
    tokenizer,
    train_pairs: Sequence[dict],
    validation_pairs: Sequence[dict],
    folder: str | Path,
    *,
    epochs: float = 1,
    batch_size: int = 32,
    learning_rate: float = 3e-4,
    max_length: int = 256,
    margin: float = 0.0,
    warmup_share: float = 0.05,
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
    gradient_accumulation: int = 1,
    evaluations: int = 4,
    patience: int | None = None,
    bf16: bool = False,
    seed: int = 0,
    resume: bool = False,
    report_to: str | Sequence[str] = "none",
    share_prompts: bool | None = None,
    loss_fn: Callable = bradley_terry_loss,
    pool_fn: Callable = pool_last_token,
    callbacks: Sequence = (),
) -> list[dict]:
    """Train `model` in place by Bradley-Terry on pairs; the best checkpoint is put back at the end.

    train_pairs, validation_pairs: dictionaries `prompt, chosen, rejected` and optionally `margin`
    (in units of reward, added to the constant `margin`). Checkpoints go to `folder`; with
    `resume` training goes on from the last one there. `evaluations` is the number of times the
    validation loss is taken (0: never, no checkpoints, and the last weights stay); `patience`
    stops after so many evaluations without a better one. `share_prompts` computes a pair's prompt
    once (`collate_shared`); by default wherever the model allows it.
    `loss_fn(chosen, rejected, margin)` and `pool_fn(values, attention_mask)` may be the reader's.

    Returns the history: one dictionary per evaluation with `step`, `pairs` (seen so far),
    `train_loss` (mean since the row before; absent before training), `loss`, `accuracy`, `margin`.
    Raises UserError for bad pairs, a tokenizer without padding token, a `max_length` beyond the
    model's positions, and a loss that is not finite (naming the rows of its batch).
    """
    check_tokenizer(tokenizer)
    limit = _position_limit(model)
    if limit is not None and max_length > limit:
        raise UserError(
            f"reward.max_length is {max_length}, but the model has only {limit} positions."
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    train = encode_pairs(tokenizer, train_pairs, max_length)
    validation = encode_pairs(tokenizer, validation_pairs, max_length, longest_first=True)
    if share_prompts is None:
        share_prompts = can_share_prompts(model)
    collate = collate_shared if share_prompts else collate_pairs
    arguments = training_arguments(
        model,
        folder,
        rows=len(train),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_share=warmup_share,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        gradient_accumulation=gradient_accumulation,
        evaluations=evaluations,
        bf16=bf16,
        seed=seed,
        report_to=report_to,
    )
    if bf16:
        plain_attention(model)
    stopping = [EarlyStoppingCallback(patience)] if patience else []
    trainer = PairTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=functools.partial(collate, pad_token_id=tokenizer.pad_token_id),
        compute_metrics=_pair_metrics,
        callbacks=[*stopping, *callbacks],
        loss_fn=loss_fn,
        pool_fn=pool_fn,
        margin=margin,
        share_prompts=share_prompts,
    )
    trainer.remove_callback(PrinterCallback)
    checkpoints = list(Path(folder).glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=True if resume and checkpoints else None)
    without_wrappers(model).eval()
    pairs_per_step = batch_size * gradient_accumulation
    return _history(trainer.state.log_history, pairs_per_step, round(len(train) * epochs))


def training_arguments(
    model: nn.Module,
    folder: str | Path,
    *,
    rows: int,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    warmup_share: float,
    weight_decay: float,
    max_grad_norm: float,
    gradient_accumulation: int,
    evaluations: int,
    bf16: bool,
    seed: int,
    report_to: str | Sequence[str],
) -> TrainingArguments:
    """Arguments of `transformers.Trainer`: cosine decay after warm-up, evaluation and checkpoint
    at the same steps, the checkpoint with the lowest validation loss put back at the end. With
    `evaluations` 0 there are neither, and the last weights stay."""
    steps = math.ceil(math.ceil(rows / batch_size) / gradient_accumulation * epochs)
    every = max(1, math.ceil(steps / max(evaluations, 1)))
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=2 * batch_size,
        gradient_accumulation_steps=gradient_accumulation,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(warmup_share * steps),
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        bf16=bf16,
        use_cpu=next(model.parameters()).device.type == "cpu",
        seed=seed,
        eval_strategy="steps" if evaluations else "no",
        eval_steps=every,
        eval_on_start=evaluations > 0,
        logging_steps=every,
        save_strategy="steps" if evaluations else "no",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=evaluations > 0,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        remove_unused_columns=False,
        label_names=["row"],
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=report_to if isinstance(report_to, str) else list(report_to),
        log_level="error",
    )


def _history(log: Sequence[dict], pairs_per_step: int, most: int) -> list[dict]:
    rows: dict[int, dict] = {}
    for entry in log:
        row = rows.setdefault(entry["step"], {"step": entry["step"]})
        if "eval_loss" in entry:
            row |= {key: entry[f"eval_{key}"] for key in ("loss", "accuracy", "margin")}
            row["pairs"] = min(entry["step"] * pairs_per_step, most)
        elif "loss" in entry:
            row["train_loss"] = entry["loss"]
    return [row for row in rows.values() if "loss" in row]
