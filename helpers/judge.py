"""A language model asked which of two answers is better, and what it prefers for the wrong reason.

No text is sampled: the probabilities that the model gives to the two letters, or to the two answers
said once more, are the verdict. Each pair is asked about in both orders, because many models favour
what they read first or second (Zheng et al. 2023, arXiv:2306.05685).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers import evaluation, models
from helpers.data import plain_prompt, render_prompt
from helpers.engine.tokens import CHAT, encode_prompts, text_ids, use_chat_template
from helpers.errors import UserError

if TYPE_CHECKING:
    from helpers.profiles import Settings

# Part of every result: with other words the same model is another judge.
QUESTION = """Question: {question}

Answer A: {a}

Answer B: {b}

Which answer is better, A or B? Reply with one letter."""
ROOM = 4  # tokens kept free for the letter
REPLIES = ("letter", "answer")
# A constitution: what a judge is to go by, in words (Bai et al. 2022, arXiv:2212.08073).
PRINCIPLES = (
    "It answers the question that was asked.",
    "It is made of whole, clear sentences and repeats nothing.",
    "It does not help to harm anybody.",
)


def load(settings: Settings) -> tuple[Any, Any]:
    """The model and the tokenizer that `models.judge` names, frozen: `sft` is the stage of 03.

    A model with a chat template is asked in it, whatever form the policy's dialogues have
    (`models.chat_template`).

    Raises:
        UserError: the folder or hub id is not to be had, or damaged, or holds something else.
    """
    source = settings.models.judge
    if source == "sft":
        model, tokenizer = models.load_stage(settings, "sft")
    else:
        form = settings.models.model_copy(update={"chat_template": _chats(source)})
        model, tokenizer = models.load_causal(source, settings.model_copy(update={"models": form}))
    return models.freeze(models.disable_dropout(model)), tokenizer


def _chats(source: str) -> bool:
    """Whether a model brings a chat template that ends an answer."""
    tokenizer = models.load_tokenizer(source)
    try:
        use_chat_template(tokenizer)
    except UserError:
        return False
    return True


def constitution(principles: Sequence[str] = PRINCIPLES, reply: str = "letter") -> str:
    """A form for `judge` that asks which answer follows some written principles better.

    Args:
        reply: `letter`, or `answer` where the judge is to say the better answer once more.
    """
    _check_reply(reply)
    rules = "\n".join(f"{number}. {text}" for number, text in enumerate(principles, 1))
    rules = rules.replace("{", "{{").replace("}", "}}")
    ask = {"letter": "Which answer follows the rules better, A or B? Reply with one letter.",
           "answer": "Say the answer that follows the rules better once more."}[reply]
    return "\n\n".join([f"Rules:\n{rules}", *QUESTION.split("\n\n")[:-1], ask])


def _check_reply(reply: str) -> None:
    if reply not in REPLIES:
        raise UserError(f"reply is {reply!r}; it must be one of {', '.join(REPLIES)}.")


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
    second: Sequence[str], form: str = QUESTION, batch_size: int = 64, reply: str = "letter",
    logprobs: Callable[..., np.ndarray] | None = None,
) -> np.ndarray:
    """Probability that answer `first` is better than `second`, asked in both orders: (pairs, 2).

    Column 0 has `first` shown as A, column 1 as B. The mean of both is the verdict; their
    difference is the order's doing.

    Args:
        reply: what is compared. `letter`: the probabilities of the letters A and B. `answer`:
            those of the two answers themselves, said once more behind the question, by the mean
            log-probability of their tokens; for models that never learned what a letter stands
            for. Either way the two are made to sum to one; with `answer` only their order means
            something, a nat per token being no unit of preference.
        logprobs: another function in place of `evaluation.choice_logprobs`, of its arguments.

    Raises:
        UserError: lists of unlike length, a pair too long for the model (`fits` tells which), or
            another reply.
    """
    _check_reply(reply)
    if not len(prompts) == len(first) == len(second):
        raise UserError(f"{len(prompts)} prompts, {len(first)} and {len(second)} answers; row i of "
                        "all three must belong together.")
    chat = getattr(tokenizer, CHAT, False)
    read = logprobs or evaluation.choice_logprobs
    found = []
    for a, b in ((first, second), (second, first)):
        asked = [pairwise_prompt(p, x, y, form) for p, x, y in zip(prompts, a, b, strict=True)]
        if reply == "letter":
            choices = [("A", "B") if chat else (" A", " B")] * len(asked)
        else:
            choices = [tuple(t.strip() if chat else " " + t.strip() for t in pair)
                       for pair in zip(a, b, strict=True)]
        nats = read(model, tokenizer, asked, choices, batch_size)
        if reply == "answer":
            ids = text_ids(tokenizer, [text for pair in choices for text in pair])
            nats = nats / np.maximum(1, [len(row) for row in ids]).reshape(-1, 2)
        found.append(1 / (1 + np.exp(nats[:, 1] - nats[:, 0])))
    return np.stack([found[0], 1 - found[1]], 1)


def fits(
    model: Any, tokenizer: Any, prompts: Sequence[str], first: Sequence[str],
    second: Sequence[str], form: str = QUESTION, reply: str = "letter",
    longest: int | None = None,
) -> np.ndarray:
    """Whether the model can read the question about each pair, and the reply: (pairs,) of bool.

    `longest`: tokens that memory or patience has room for, where the model would read more.
    """
    _check_reply(reply)
    limit = getattr(model.config, "max_position_embeddings", None) or 10**9
    limit = min(limit, longest or limit)
    asked = [pairwise_prompt(p, a, b, form) for p, a, b in zip(prompts, first, second, strict=True)]
    room = np.full(len(asked), ROOM)
    if reply == "answer" and asked:
        said = [len(ids) for ids in text_ids(tokenizer, [" " + t for t in (*first, *second)])]
        room = np.array(said).reshape(2, -1).max(0)
    read = np.array([len(ids) for ids in encode_prompts(tokenizer, asked)] if asked else [], int)
    return read + room <= limit


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


def names_first(verdicts: np.ndarray) -> np.ndarray:
    """In how many of its two orders the answer that was shown first won: 0, ½ or 1, (pairs,).

    Its mean is ½ for a judge that does not mind the order, whatever the answers are.
    """
    shown_first, shown_second = np.asarray(verdicts).T
    return ((shown_first > 0.5) + 0.0 + (shown_second < 0.5)) / 2


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
