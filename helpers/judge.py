"""A language model asked which of two answers is better, and what it prefers for the wrong reason.

No text is sampled: the probabilities that the model gives to the two letters are the answer. Each
pair is asked about in both orders, because many models favour what they read first or second (Zheng
et al. 2023, arXiv:2306.05685).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from helpers import evaluation
from helpers.data import plain_prompt, render_prompt
from helpers.engine.tokens import CHAT, encode_prompts
from helpers.errors import UserError

# Part of every result: with other words the same model is another judge.
QUESTION = """Question: {question}

Answer A: {a}

Answer B: {b}

Which answer is better, A or B? Reply with one letter."""
ROOM = 4  # tokens kept free for the letter


def pairwise_prompt(prompt: str, a: str, b: str, form: str = QUESTION) -> str:
    """The question about two answers, as a dialogue that waits for the assistant.

    It is one human turn, so that a tokenizer with `models.chat_template` writes it in the form that
    its model was trained on.

    Args:
        prompt: the rendered prompt of both answers; its last human turn is quoted.
        form: with `{question}`, `{a}` and `{b}`.
    """
    return render_prompt([{"role": "user", "content": form.format(
        question=plain_prompt(prompt), a=a.strip(), b=b.strip())}])


def judge(
    model: Any, tokenizer: Any, prompts: Sequence[str], first: Sequence[str],
    second: Sequence[str], form: str = QUESTION, batch_size: int = 64,
) -> np.ndarray:
    """Probability that answer `first` is better than `second`, asked in both orders: (pairs, 2).

    Column 0 has `first` shown as A, column 1 as B. The mean of both is the verdict; their
    difference is the order's doing. The two letters' probabilities are made to sum to one.

    Raises:
        UserError: lists of unlike length, or a pair too long for the model (`fits` tells which).
    """
    if not len(prompts) == len(first) == len(second):
        raise UserError(f"{len(prompts)} prompts, {len(first)} and {len(second)} answers; row i of "
                        "all three must belong together.")
    letters = ("A", "B") if getattr(tokenizer, CHAT, False) else (" A", " B")
    found = []
    for a, b in ((first, second), (second, first)):
        asked = [pairwise_prompt(p, x, y, form) for p, x, y in zip(prompts, a, b, strict=True)]
        logprobs = evaluation.choice_logprobs(
            model, tokenizer, asked, [letters] * len(asked), batch_size)
        found.append(1 / (1 + np.exp(logprobs[:, 1] - logprobs[:, 0])))
    return np.stack([found[0], 1 - found[1]], 1)


def fits(
    model: Any, tokenizer: Any, prompts: Sequence[str], first: Sequence[str],
    second: Sequence[str], form: str = QUESTION,
) -> np.ndarray:
    """Whether the model can read the question about each pair, (pairs,) of bool."""
    limit = getattr(model.config, "max_position_embeddings", None) or 10**9
    asked = [pairwise_prompt(p, a, b, form) for p, a, b in zip(prompts, first, second, strict=True)]
    return np.array([len(ids) + ROOM <= limit for ids in encode_prompts(tokenizer, asked)], bool)


def points(verdicts: np.ndarray) -> np.ndarray:
    """1 where `first` wins over both orders together, 0 where it loses, ½ on a tie: (pairs,)."""
    mean = np.asarray(verdicts).mean(1)
    return np.where(np.isclose(mean, 0.5, atol=1e-9), 0.5, (mean > 0.5).astype(float))


def position_bias(verdicts: np.ndarray) -> np.ndarray:
    """What being shown as A adds to an answer's probability, each pair's own: (pairs,).

    0 is a judge that does not mind the order, ½ one that always names A, −½ one that always
    names B.
    """
    shown_first, shown_second = np.asarray(verdicts).T
    return (shown_first - shown_second) / 2


def same_winner(verdicts: np.ndarray) -> np.ndarray:
    """1 where both orders name the same answer as the better one, 0 where not: (pairs,)."""
    first = np.asarray(verdicts) > 0.5
    second = np.asarray(verdicts) < 0.5
    return (np.all(first, axis=1) | np.all(second, axis=1)).astype(float)


def prefers_longer(
    verdicts: np.ndarray, first: Sequence[str], second: Sequence[str]
) -> np.ndarray:
    """1 where the longer answer (in words) won, 0 where the shorter: (pairs of unlike length,).

    Hold it against the share that people give to the longer ones of the same pairs: only what goes
    beyond that is a taste for length.
    """
    longer = np.array([len(a.split()) - len(b.split()) for a, b in zip(first, second, strict=True)])
    won = points(verdicts)
    return np.where(longer > 0, won, 1 - won)[longer != 0]
