"""The loop closes: ratings change the reward model, and the answers that follow it.

People rate answers; `feedback.ratings_to_pairs` makes pairs of what they said; here the reward
model is updated on these pairs, and what changed is measured. Raters may value something the
first reward model never heard of. So that the change can be checked, that something is a *named
property*: a question about a text that has a yes or no for an answer.

Arrays over sampled answers have shape (questions, n): row q holds the n answers to question q.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from random import Random
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers import evaluation, feedback, generation, reward
from helpers.engine.adapters import has_adapters
from helpers.engine.kinds import EncodedPair, PairText
from helpers.engine.place import reuse_memory
from helpers.engine.tokens import check_tokenizer
from helpers.errors import UserError
from helpers.models import disable_dropout

_NUMBER = "two three four five six seven eight nine ten eleven twelve dozen hundred thousand"
PROPERTIES: dict[str, tuple[str, re.Pattern]] = {
    "reason": ("says why", re.compile(r"\b(?:because|since)\b", re.I)),
    "example": ("announces an example", re.compile(r"\bfor (?:example|instance)\b", re.I)),
    "place": ("names a place or a month", re.compile(r"(?<=[a-z,;] )(?!I\b)[A-Z][a-z]+")),
    "number": ("gives a number", re.compile(rf"\d|\b(?:{_NUMBER.replace(' ', '|')})\b", re.I)),
    "question": ("ends with a question", re.compile(r"\?\s*$")),
}


def has_property(name: str, text: str) -> bool:
    """Whether a text has one of `PROPERTIES`.

    Raises:
        UserError: no property of that name; the message lists them.
    """
    if name not in PROPERTIES:
        known = ", ".join(PROPERTIES)
        raise UserError(f"feedback.property is {name!r}; it must be one of {known}.")
    return bool(PROPERTIES[name][1].search(text))


def property_marks(name: str, answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Which answers have the property: (questions, n), bool."""
    return np.array([[has_property(name, text) for text in row] for row in answers])


def choose_property(wanted: str, answers: Sequence[Sequence[str]]) -> str:
    """`wanted`, or another property where no question has answers with and without it.

    The other one is that which most questions differ in; a printed sentence says so.

    Raises:
        UserError: no property of that name, or answers that differ in no property.
    """
    def split(name):
        marks = property_marks(name, answers)
        return int((marks.any(axis=1) & ~marks.all(axis=1)).sum())

    if split(wanted):
        return wanted
    other = max(PROPERTIES, key=split)
    if not split(other):
        raise UserError("the answers to each question are alike in every property that can be "
                        "named; sample more of them (feedback.best_of, feedback.held_out).")
    print(f"No question has answers both with and without the property {wanted!r}; {other!r} "
          "takes its place.")
    return other


# ------------------------------------------------------------------------------------- answers


def sample_answers(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], n: int,
    max_new_tokens: int, temperature: float = 1.0, seed: int = 0,
) -> list[list[str]]:
    """n independent answers to each prompt: one list of n texts per prompt."""
    rollout = generation.sample(policy, tokenizer, [p for p in prompts for _ in range(n)],
                                max_new_tokens, temperature, seed=seed, batch_size=128)
    texts = [text.strip() for text in rollout.texts]
    return [texts[i : i + n] for i in range(0, len(texts), n)]


def score_answers(
    reward_fn: Callable[[list[str], list[str]], Sequence[float]], prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
) -> np.ndarray:
    """Scores of sampled answers by any function of (prompts, responses): (questions, n)."""
    asked = [prompt for prompt, row in zip(prompts, answers, strict=True) for _ in row]
    scores = reward_fn(asked, [text for row in answers for text in row])
    return np.asarray(scores, dtype=float).reshape(len(answers), -1)


# ------------------------------------------------------------------------------------- ratings


def items_to_rate(
    prompts: Sequence[str], answers: Sequence[Sequence[str]], marks: np.ndarray, count: int,
    per_question: int = 4, model: str = "", seed: int = 0,
) -> list[dict[str, str]]:
    """About `count` answers to rate, `per_question` to a question, half of them with the property.

    Only questions are asked whose answers differ in the property, since nobody can prefer what is
    in every answer or in none. Returns items `prompt, response, model`, the answers to one
    question in random order; fewer than `count` when the questions do not suffice.
    """
    rng, items = Random(seed), []
    half = per_question // 2
    for prompt, row, mark in zip(prompts, answers, marks, strict=True):
        kinds = {text: bool(m) for text, m in zip(row, mark, strict=True) if text.strip()}
        having = [text for text, m in kinds.items() if m][:half]
        lacking = [text for text, m in kinds.items() if not m][: per_question - half]
        if len(having) < half or len(having) + len(lacking) < per_question:
            continue
        texts = having + lacking
        rng.shuffle(texts)
        items += [{"prompt": prompt, "response": text, "model": model} for text in texts]
        if len(items) >= count:
            break
    return items


def simulated_rows(
    items: Sequence[Mapping[str, str]], raters: Sequence[Any], name: str, bonus: float,
    task: str, seed: int = 0,
) -> list[feedback.Row]:
    """Rating rows by simulated raters who value the property `name`, marked `simulated`.

    Raters take turns, a question each, and rate all its answers by their own taste (`rater.rate`,
    1 to 5 on four dimensions); an answer with the property gets `bonus` points more on each
    dimension, within 1 to 5.
    """
    rows, turn = [], {p: i for i, p in enumerate(dict.fromkeys(item["prompt"] for item in items))}
    for item in items:
        rater = raters[turn[item["prompt"]] % len(raters)]
        rng = Random(f"{seed}:{rater.name}:{item['prompt']}:{item['response']}")
        extra = bonus if has_property(name, item["response"]) else 0.0
        ratings = rater.rate(item["prompt"], item["response"], rng)
        rows.append(feedback.rating_row(
            item["prompt"], item["response"],
            {side: min(5, max(1, round(value + extra))) for side, value in ratings.items()},
            annotator=f"{rater.name}, {name} +{bonus:g}", source="simulated",
            model=item.get("model", ""), task=task))
    return rows


def add_missing(store: feedback.RatingStore, rows: Sequence[feedback.Row]) -> int:
    """Append the rows that the store does not hold yet (same rater, task and answer)."""
    def key(row):
        return row["annotator"], row["task"], row["prompt"], row["response"]

    known = {key(row) for row in store.rows() if "ratings" in row}
    return store.extend([row for row in rows if key(row) not in known])


def rows_about(
    store: feedback.RatingStore, items: Sequence[Mapping[str, str]], task: str,
    simulated: Collection[str] = (),
) -> list[feedback.Row]:
    """The ratings of these items in a store: every person's, and of simulated raters those named.

    A store outlives a run, so it may hold rows about other models' answers, or by simulated
    raters of another taste.
    """
    shown = {(item["prompt"], item["response"]) for item in items}
    return [row for row in store.rows(task=task) if (row["prompt"], row["response"]) in shown
            and (row["source"] == "human" or row["annotator"] in simulated)]


# -------------------------------------------------------------------------------------- update


def keep_loss(margins: torch.Tensor, old_margins: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats, of the new choice probabilities against the old model's.

    margins, old_margins: (batch,) rewards of one answer less those of another, by the model that
    is trained and by the model as it was. Up to a constant this is KL(old ‖ new) of the choice:
    smallest where nothing changed, and blind to what the labels said (Li and Hoiem 2016,
    arXiv:1606.09282).
    """
    return F.binary_cross_entropy_with_logits(margins, torch.sigmoid(old_margins))


def update_reward_model(
    model: nn.Module, tokenizer: Any, new_pairs: Sequence[PairText],
    old_pairs: Sequence[PairText], *,
    steps: int = 60, batch_size: int = 16, old_batch_size: int = 32, learning_rate: float = 1e-4,
    keep: float = 1.0, max_length: int = 256, pairs_at_once: int | None = None, seed: int = 0,
    keep_loss_fn: Callable = keep_loss,
) -> list[dict[str, float]]:
    """Teach a trained reward model new pairs, in place, without losing what it knew.

    Each step takes a Bradley-Terry loss on new pairs, plus `keep` times `keep_loss_fn(margins,
    old_margins)` on old pairs, where `old_margins` are those of the model before the first step.
    With `keep` 0 nothing holds the model back. Dropout stays off. What the backbone's likelihood
    adds to the reward (`reward.use_likelihood`) stands aside during the update: it is the head
    that learns from the new pairs and stays with the old ones.

    `pairs_at_once` is what memory holds: a step of more pairs adds up the gradients of several
    passes, by the mean of `keep_loss_fn` over the pairs of each. None: all in one. A model with
    gradient checkpointing uses it.

    new_pairs, old_pairs: dictionaries `prompt, chosen, rejected`; the `rating_gap` of
    `feedback.ratings_to_pairs` is in points, not in reward, and asks for no margin.
    Returns one row per step: `step, new_loss` and `old_loss`, in nats per pair.

    Raises:
        UserError: no pairs, bad pairs, a model of which nothing can be trained, or a loss that is
            not finite.
    """
    if not new_pairs:
        raise UserError("there are no pairs to learn from: rate answers to the same question, "
                        "and rate some higher than others.")
    check_tokenizer(tokenizer)
    reuse_memory()
    parameters = _unfreeze(model)
    enough = min(len(old_pairs), steps * old_batch_size)
    replayed = Random(seed).sample(range(len(old_pairs)), enough)
    new = reward.encode_pairs(tokenizer, new_pairs, max_length)
    old = reward.encode_pairs(tokenizer, [old_pairs[i] for i in replayed], max_length)
    old.sort(key=reward.shared_length, reverse=True)
    pad, device = tokenizer.pad_token_id, next(model.parameters()).device
    model.eval()
    read = 2 * pairs_at_once if pairs_at_once else 64
    with reward.likelihood_aside(model), torch.no_grad():
        before = torch.cat(
            [_margins(model, old[i : i + read], pad) for i in range(0, len(old), read)])
    if getattr(model, "is_gradient_checkpointing", False):  # it works in training mode only
        disable_dropout(model).train()
    draws = zip(_batches(new, batch_size, seed),
                _batches(old, old_batch_size, seed + 1), range(steps), strict=False)
    optimiser = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.0)
    history = []
    for some_new, some_old, step in draws:
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        optimiser.zero_grad()
        new_loss = old_loss = 0.0
        for rows, old_rows in _passes(some_new, some_old, pairs_at_once):
            terms = []
            with reward.likelihood_aside(model):  # the backbone would learn few pairs by heart
                if rows:
                    margins = _margins(model, [new[i] for i in rows], pad)
                    told = reward.bradley_terry_loss(margins, torch.zeros_like(margins))
                    terms.append(told * (len(rows) / len(some_new)))
                    new_loss += terms[-1].item()
                if old_rows:
                    with torch.set_grad_enabled(keep > 0):  # at 0 it is only looked at
                        kept = _margins(model, [old[i] for i in old_rows], pad)
                        told = keep_loss_fn(kept, before[torch.tensor(old_rows, device=device)])
                        told = told * (len(old_rows) / len(some_old))
                    if keep > 0:
                        terms.append(keep * told)
                    old_loss += told.item()
            if terms:
                cast(torch.Tensor, sum(terms)).backward()
        if not math.isfinite(new_loss + keep * old_loss):
            raise UserError(f"the loss became {new_loss + keep * old_loss} at step {step + 1} of "
                            "the update; lower feedback.learning_rate.")
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        history.append({"step": step + 1, "new_loss": new_loss, "old_loss": old_loss})
    model.eval()
    return history


def _unfreeze(model: Any) -> list[nn.Parameter]:
    """What to train: what asks for gradients; with adapters, these and the head and no more."""
    if has_adapters(model):
        model.requires_grad_(False)
        model.set_adapter(model.active_adapter)  # asks for the gradients of all that belongs to it
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UserError("no parameter of the reward model can be trained; it is frozen.")
    return parameters


def _passes(
    new: list[int], old: list[int], at_once: int | None
) -> Iterator[tuple[list[int], list[int]]]:
    """The rows of one step for each pass: all, or where these are too many a few of one kind."""
    if at_once is None or max(len(new), len(old)) <= at_once:
        yield new, old
        return
    for start in range(0, len(new), at_once):
        yield new[start : start + at_once], []
    for start in range(0, len(old), at_once):
        yield [], old[start : start + at_once]


def _margins(model: nn.Module, rows: Sequence[EncodedPair], pad_token_id: int) -> torch.Tensor:
    share = reward.can_share_prompts(model)
    collate = reward.collate_shared if share else reward.collate_pairs
    batch = reward.moved(collate(rows, pad_token_id), next(model.parameters()).device)
    chosen, rejected = reward.pair_rewards(model, batch)
    return chosen - rejected


def _batches(rows: Sequence[EncodedPair], size: int, seed: int) -> Iterator[list[int]]:
    """Row numbers without end, rows of like length together; a new order when all were used."""
    lengths, left, epoch = [reward.shared_length(row) for row in rows], [], 0
    while True:
        while len(left) < size:
            left += reward.length_grouped_order(lengths, size, seed, epoch)
            epoch += 1
        yield left[:size]
        left = left[size:]


# ------------------------------------------------------------------------------------- measures


def matched_pairs(
    marks: np.ndarray, quality: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """One pair of answers per question, the first with the property and the second without.

    marks: (questions, n), bool; quality: (questions, n), true utility where it is known. The two
    answers are those most alike in quality, or without `quality` drawn at random. Questions whose
    answers are all of one kind give no pair. Returns (pairs, 3): question, first, second.
    """
    rng, found = Random(seed), []
    for q, row in enumerate(marks):
        choices = [(i, j) for i in np.flatnonzero(row) for j in np.flatnonzero(~row)]
        if not choices:
            continue
        rng.shuffle(choices)
        if quality is not None:
            choices.sort(key=lambda pair: abs(quality[q][pair[0]] - quality[q][pair[1]]))
        found.append((q, *choices[0]))
    return np.array(found, dtype=int).reshape(-1, 3)


def preferred(scores: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """1 where the answer with the property scores above the other, ½ where equal: (pairs,).

    scores: (questions, n); pairs: (pairs, 3), from `matched_pairs`.
    """
    q, first, second = pairs.T
    return reward.pair_accuracy(scores[q, first] - scores[q, second])


def of_best(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values` of the answer to each question that scores highest: (questions,).

    scores, values: (questions, n). The best of n by one judge, looked at by another.
    """
    return np.asarray(values, dtype=float)[np.arange(len(scores)), np.argmax(scores, axis=1)]


def change(before: Sequence[float], after: Sequence[float], **bootstrap: Any) -> tuple:
    """Mean of after - before on the same rows with its interval: (estimate, low, high)."""
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    return evaluation.bootstrap_interval(difference, **bootstrap)
