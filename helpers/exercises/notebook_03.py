"""Checkers of notebook 03: labels of a dialogue, loss of ignorance, broken labels, no mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from helpers.exercises.frame import Exercise, check_diagnosis, check_guess, checker

IGNORED = -100

# --- 03.1 ------------------------------------------------------------------------------------

LABELS = {
    "user too": "the human turns count too; their labels must be -100",
    "other way":
        "the human turns are learned and the assistant's masked; it is the other way round",
    "last only": "only the last answer counts; every assistant turn should",
    "first only": "only the first answer counts; every assistant turn should",
    "no end": "the end-of-text tokens are masked, so the model never learns to stop",
    "zero": "a masked label must be -100; 0 is a token and would be learned",
    "shifted": "the labels are one place early; the loss shifts them, so each stands at its token",
}
END = 0  # the end-of-text token of the cases


def _labels(turns: Sequence[tuple[str, list[int]]], wrong: frozenset[str] = frozenset()) -> list:
    answers = [i for i, (who, _) in enumerate(turns) if who == "assistant"]
    labels = []
    for i, (who, ids) in enumerate(turns):
        learned = who == ("user" if "other way" in wrong else "assistant") or "user too" in wrong
        learned = learned and not ("last only" in wrong and i in answers[:-1])
        learned = learned and not ("first only" in wrong and i in answers[1:])
        labels += [t if learned and not ("no end" in wrong and t == END) else IGNORED for t in ids]
    if "shifted" in wrong:
        labels = [*labels[1:], IGNORED]
    return [0 if "zero" in wrong and t == IGNORED else t for t in labels]


@checker
def check_mask_turns(function: Callable) -> str:
    """Exercise 03.1: `function(turns)`, the labels of a dialogue with several turns."""
    return Exercise(
        _labels, LABELS,
        [([("user", [5, 6]), ("assistant", [7, 8, END]), ("user", [9]), ("assistant", [10, END])],),
         ([("user", [3]), ("assistant", [4, END])],),
         ([("user", [11, 12, 13]), ("assistant", [14, END]), ("user", [15, 16]),
           ("assistant", [17, 18, 19, END]), ("user", [20])],)],
        "every answer counts, and its end with it",
        hint="one label for each token of all turns together", precision=1e-9,
    ).check(function)


# --- 03.2 ------------------------------------------------------------------------------------


@checker
def check_untrained_loss(guess: Any, vocabulary: int) -> str:
    """Exercise 03.2: foretell the loss, in nats per token, of a model that knows nothing.

    It gives each of `vocabulary` tokens the same probability, so the loss is log(vocabulary).
    """
    check_guess(guess, math.log(vocabulary), {
        "bits": (math.log2(vocabulary), "this is in bits; the loss is in nats"),
        "tens": (math.log10(vocabulary), "this is a logarithm to base 10; the loss is in nats"),
        "perplexity": (vocabulary, "this is the perplexity; the loss is its logarithm"),
        "probability": (1 / vocabulary, "this is the probability of a token; take minus its log"),
        "sign": (-math.log(vocabulary), "a loss is *minus* the log-probability"),
        "two": (math.log(2), "log 2 is for a choice between two; here are more tokens than that"),
        "one": (1.0, "so far down only a model that knows much gets"),
    }, within=0.03)
    return (f"{math.log(vocabulary):.2f} nats; a loss far above it says that something is broken, "
            "not untrained")


# --- 03.3 ------------------------------------------------------------------------------------

CAUSES = {
    "prompt not masked": "the question's tokens would have labels too",
    "end masked": "the end-of-text token would have no label and all else would be right",
    "shifted twice": "each label would be the token after its own place",
    "padding learned": "the filling after the end would have labels",
    "everything masked": "there would be no label at all",
    "answer masked": "the question would have labels and the answer none",
}
BROKEN = {"A": "end masked", "B": "shifted twice", "C": "padding learned", "D": "prompt not masked"}


def broken_labels(
    tokenizer: Any, ids: Sequence[int], labels: Sequence[int], pads: int = 2
) -> dict[str, list[str]]:
    """One demonstration as four collators with a fault each would label it; see exercise 03.3.

    Args:
        tokenizer: with end-of-text and padding tokens that differ.
        ids, labels: what `sft.encode_example` makes of the demonstration.
        pads: tokens of padding behind the end.

    Returns:
        `token`, the texts of prompt, response, end and padding, and for each of A to D the text
        of every label, "" where there is none.
    """
    padding = [tokenizer.pad_token_id] * pads
    right, ids = [*labels, *[IGNORED] * pads], [*ids, *padding]
    faulty = {
        "prompt not masked": [*ids[:len(labels)], *[IGNORED] * pads],
        "end masked": [IGNORED if t == tokenizer.eos_token_id else t for t in right],
        "shifted twice": [*right[1:], IGNORED],
        "padding learned": [*labels, *padding],
    }

    def texts(labels: Sequence[int]) -> list[str]:
        return ["" if t == IGNORED else repr(tokenizer.decode([t])) for t in labels]

    return {"token": texts(ids), **{name: texts(faulty[cause]) for name, cause in BROKEN.items()}}


@checker
def check_broken_labels(diagnosis: Any) -> str:
    """Exercise 03.3: `{"A": cause, …}` for the columns of `broken_labels`; causes are `CAUSES`."""
    check_diagnosis(diagnosis, BROKEN, CAUSES, what="collator")
    return "none of the four stops a run, and no loss curve would tell you; reading one row does"

# --- 03.4 ------------------------------------------------------------------------------------

SHARE = {
    "first": "the first token of a row is predicted by nothing, so it has no loss",
    "mean of rows":
        "this is the mean of the rows' shares; the loss is a mean over tokens, where long rows "
        "weigh more",
    "other way": "this is the share of the answers; the prompts have the rest",
    "ratio": "this is prompt over answer; divide by all tokens that count",
}


def _prompt_share(
    prompts: Sequence[int], answers: Sequence[int], wrong: frozenset[str] = frozenset()
) -> float:
    parts = [(p if "first" in wrong else p - 1, a) for p, a in zip(prompts, answers, strict=True)]
    if "other way" in wrong:
        parts = [(a, p) for p, a in parts]

    def share(prompt: int, answer: int) -> float:
        return prompt / (answer if "ratio" in wrong else prompt + answer)

    if "mean of rows" in wrong:
        return sum(share(*one) for one in parts) / len(parts)
    return share(sum(p for p, _ in parts), sum(a for _, a in parts))


@checker
def check_prompt_share(function: Callable) -> str:
    """Exercise 03.4: `function(prompts, answers)`, the share of an unmasked loss that is prompts.

    Both are lengths in tokens, row by row; the end of text counts with its answer.
    """
    return Exercise(
        _prompt_share, SHARE,
        [([20, 5, 60], [10, 30, 12]), ([19], [6]), ([3, 40], [25, 4])],
        "so much of every step goes into writing questions", hint="one number for the batch",
    ).check(function)
