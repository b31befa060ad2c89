"""Log-probability, entropy and KL of single tokens, from logits of a whole vocabulary.

The functions of `ppo.py` say the same more plainly, and write the log-probability of every token of
the vocabulary in float32: for a thousand response tokens and 4,096 tokens to choose from these are
16 MB, once for the result, which is kept for the way back, and there once filled with zeros and
once with gradients. Here a few rows are computed at a time, and what is kept are the logits, in
their own precision, and one number per row. `benchmarks/token_logprobs.py` measures the difference.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.autograd.function import once_differentiable

from helpers import ppo

# Numbers computed at once: 1 MB of float32 stays in a processor's cache; a GPU wants more work.
NUMBERS_AT_ONCE = {"cpu": 2**18}
NUMBERS_AT_ONCE_ELSEWHERE = 2**26


def chosen_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probability of each token in nats: logits (N, vocabulary), tokens (N,) -> (N,).

    `ppo.logprobs_from_logits` up to rounding, in float32 at least, with a gradient to the logits.
    """
    return _Chosen.apply(logits, tokens, temperature)


@torch.no_grad()
def entropy_and_kl(
    logits: torch.Tensor, reference_logits: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Entropy of the next token and exact KL (policy ‖ reference), nats: (N, vocabulary) -> (N,).

    `ppo.entropy_from_logits` and `ppo.exact_kl` up to rounding, without gradients.
    """
    columns = []
    for rows in _pieces(logits):
        policy = ppo.all_logprobs(logits[rows], temperature)
        reference = ppo.all_logprobs(reference_logits[rows], temperature)
        p = policy.exp()
        negative_entropy = torch.linalg.vecdot(p, policy)
        columns.append((-negative_entropy, negative_entropy - torch.linalg.vecdot(p, reference)))
    entropy, kl = (torch.cat(column) for column in zip(*columns, strict=True))
    return entropy, kl


class _Chosen(torch.autograd.Function):
    """What is kept for the way back are the logits; the softmax is made from them again."""

    @staticmethod
    def forward(ctx, logits, tokens, temperature):
        ctx.save_for_backward(logits, tokens)
        ctx.temperature = temperature
        return torch.cat([
            ppo.all_logprobs(logits[rows], temperature).gather(-1, tokens[rows, None]).squeeze(-1)
            for rows in _pieces(logits)
        ])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        logits, tokens = ctx.saved_tensors
        out = torch.empty_like(logits)
        gradient = (gradient / ctx.temperature)[:, None]
        for rows in _pieces(logits):
            some = ppo.all_logprobs(logits[rows], ctx.temperature).exp_().mul_(-gradient[rows])
            out[rows] = some.scatter_add_(-1, tokens[rows, None], gradient[rows])
        return out, None, None


def _pieces(logits: torch.Tensor) -> Iterator[slice]:
    """Rows of logits (N, vocabulary), a few at a time."""
    numbers = NUMBERS_AT_ONCE.get(logits.device.type, NUMBERS_AT_ONCE_ELSEWHERE)
    size = max(1, numbers // logits.shape[1])
    for start in range(0, len(logits), size):
        yield slice(start, start + size)
