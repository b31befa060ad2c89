"""Sampling responses together with the log-probabilities that PPO needs.

Prompts are padded on the left, so that every row's next token stands in the same column, and
position ids come from the mask, so that padding changes nothing. Tokens are drawn from the full
softmax (no top-k, no top-p): the log-probability that is returned is the one the token was really
drawn with. Rows that have written their end-of-text token are dropped from the batch at once.

Randomness is one uniform number per (row, step), drawn before sampling starts. A row's response
therefore depends on its own prompt and noise only, not on its neighbours or on the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch

from helpers.engine.tokens import check_tokenizer, decode, encode_prompts, pad_left, position_ids
from helpers.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Rollout:
    """Prompts and sampled responses.

    Shapes (n rows, P prompt columns, T response columns):

    - ``prompt_ids``, ``prompt_mask``: (n, P), padded on the left;
    - ``response_ids``, ``response_mask``: (n, T), padded on the right; the end-of-text token of a
      finished response is inside the mask;
    - ``logprobs``: (n, T), log-probability of each sampled token in nats, 0 at padding;
    - ``texts``: the responses as strings as they follow their prompts, without special tokens,
      white space untouched;
    - ``finished``: (n,), whether the row ended with end-of-text within the allowed length.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    response_ids: torch.Tensor
    response_mask: torch.Tensor
    logprobs: torch.Tensor
    texts: list[str]
    finished: torch.Tensor

    def __len__(self) -> int:
        return self.prompt_ids.shape[0]

    def to(self, device: torch.device | str) -> Rollout:
        """The same with its tensors on another device; `sample` leaves them on the CPU."""
        return replace(self, **{
            name: value.to(device) for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)})

    @property
    def lengths(self) -> torch.Tensor:
        """Response tokens per row, (n,), end-of-text included."""
        return self.response_mask.sum(1)


def uniform_noise(rows: int, steps: int, seed: int | None = None) -> torch.Tensor:
    """One uniform number in [0, 1) for every row and step, float32, (rows, steps)."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.rand(rows, steps, generator=generator)


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample one token per row by inverting the cumulative distribution.

    ``logits``: (n, vocabulary); ``uniform``: (n,) in [0, 1). Returns token ids (n,) and the log of
    the probability they were drawn with (n,), nats. Temperature 0 takes the likeliest token and
    reports its log-probability at temperature 1.
    """
    logits = logits.float()
    if temperature == 0:
        logprobs = logits.log_softmax(-1)
        tokens = logits.argmax(-1)
    else:
        logprobs = (logits / temperature).log_softmax(-1)
        cumulative = logprobs.exp().cumsum(-1)
        # Rounding can leave the total a little below 1: scale the draw, not the distribution.
        target = uniform[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).squeeze(1)
        tokens = tokens.clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)


def sample(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int | None = None,
    batch_size: int = 64,
    noise: torch.Tensor | None = None,
) -> Rollout:
    """Sample one response per prompt from a causal language model.

    ``noise`` (n, max_new_tokens) replaces the uniform numbers made from ``seed``; a process that
    holds some rows of a larger batch passes its slice, and gets what one process would have got.
    What `policy.generation_config` holds (temperature, top-k and the like) is not looked at.
    Rows are batched by prompt length; the result is in the order of ``prompts``. Raises UserError
    for an empty prompt, a tokenizer whose pad equals its eos, or a length beyond the model's.
    """
    check_tokenizer(tokenizer)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
    if temperature < 0:
        raise UserError(f"temperature is {temperature}; it must be 0 (greedy) or positive.")
    encoded = encode_prompts(tokenizer, prompts)
    limit = getattr(policy.config, "max_position_embeddings", None)
    longest = max(range(len(encoded)), key=lambda row: len(encoded[row]))
    if limit is not None and len(encoded[longest]) + max_new_tokens > limit:
        raise UserError(
            f"Prompt {longest} has {len(encoded[longest])} tokens, and with {max_new_tokens} new "
            f"ones exceeds the model's {limit} positions; shorten prompts or max_new_tokens."
        )
    n = len(encoded)
    if noise is None:
        noise = uniform_noise(n, max_new_tokens, seed)
    if noise.shape != (n, max_new_tokens):
        raise UserError(
            f"noise has shape {tuple(noise.shape)}; it must be ({n}, {max_new_tokens})."
        )
    pad, end = cast(int, tokenizer.pad_token_id), cast(int, tokenizer.eos_token_id)
    response = torch.full((n, max_new_tokens), pad, dtype=torch.long)
    logprobs = torch.zeros(n, max_new_tokens)
    lengths = torch.zeros(n, dtype=torch.long)
    training = policy.training
    policy.eval()
    # Autocast keeps the weights that it has cast for the next step, but not in inference mode.
    autocast = torch.is_autocast_enabled(policy.device.type)
    quiet = torch.no_grad if autocast else torch.inference_mode
    try:
        order = sorted(range(n), key=lambda row: -len(encoded[row]))
        for start in range(0, n, batch_size):
            rows = torch.tensor(order[start : start + batch_size])
            batch = [encoded[row] for row in rows.tolist()]
            with quiet():
                _sample_batch(
                    policy, tokenizer, batch, rows, noise, temperature, response, logprobs, lengths
                )
    finally:
        policy.train(training)
    width = int(lengths.max())
    response, logprobs = response[:, :width], logprobs[:, :width]
    mask = (torch.arange(width) < lengths[:, None]).long()
    finished = response.gather(1, lengths[:, None] - 1).squeeze(1) == end
    prompt_ids, prompt_mask = pad_left(encoded, pad)
    lists = [row[:length] for row, length in zip(response.tolist(), lengths.tolist(), strict=True)]
    texts = decode(tokenizer, encoded, lists)
    return Rollout(prompt_ids, prompt_mask, response, mask, logprobs, texts, finished)


def _sample_batch(
    policy, tokenizer, encoded, rows, noise, temperature, response, logprobs, lengths
) -> None:
    """Sample the rows of one batch and write them into the three tensors of all rows."""
    device = policy.device
    ids, mask = pad_left(encoded, tokenizer.pad_token_id)
    steps = noise.shape[1]
    full = torch.cat([mask, torch.ones(len(rows), steps, dtype=torch.long)], 1).to(device)
    width = ids.shape[1]
    noise = noise.to(device)
    inputs, positions = ids.to(device), position_ids(mask).to(device)
    padded = bool((mask == 0).any())
    rows = rows.to(device)
    cache = None
    for step in range(steps):
        out = policy(
            input_ids=inputs,
            # Without padding no mask is needed, and attention takes its fast causal path.
            attention_mask=full[:, : width + step] if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        tokens, logprob = draw(out.logits[:, -1], noise[rows, step], temperature)
        where = rows.cpu()
        response[where, step] = tokens.cpu()
        logprobs[where, step] = logprob.cpu()
        lengths[where] = step + 1
        positions = positions[:, -1:] + 1
        alive = (tokens != tokenizer.eos_token_id).nonzero().squeeze(1)
        if len(alive) == 0:
            return
        if len(alive) < len(rows):
            rows, tokens = rows[alive], tokens[alive]
            positions, full = positions[alive], full[alive]
            cache.batch_select_indices(alive)
        inputs = tokens[:, None]
