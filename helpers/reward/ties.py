"""Comparison classifiers: shown two responses, which one wins, or is it a tie?

Where judgements have ties, a classifier can read prompt and both responses at once and say three
probabilities. It judges pairs only: unlike a reward, it puts no number on one response. Beside it
stands Davidson's (1970) extension of Bradley-Terry, which gets ties out of a reward model.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer

from helpers import world
from helpers.engine.place import device, one_device, without_wrappers
from helpers.engine.tokens import check_tokenizer, encode_response, last_tokens, pad
from helpers.errors import UserError
from helpers.models import with_new_head
from helpers.profiles import Settings
from helpers.reward.model import reward_logits
from helpers.reward.training import LengthGroupedSampler, RewardConfig, training_arguments

WINNERS = ("a", "b", "tie")


def new_comparison_model(
    source: str | Path, tokenizer: PreTrainedTokenizerBase, settings: Settings
) -> nn.Module:
    """A language model's backbone with a head of three logits: a wins, b wins, tie.

    Raises:
        UserError: the folder or hub id is not to be had, or damaged.
    """
    model: Any = with_new_head(source, tokenizer, settings, WINNERS, "comparison model")
    nn.init.normal_(model.score.weight, std=1 / math.sqrt(model.score.in_features + 1))
    return model.to(device(settings))


def encode_comparison(
    tokenizer: PreTrainedTokenizerBase, prompt: str, first: str, second: str, max_length: int
) -> list[int] | None:
    """Prompt, first response, second response, an end-of-text token after each response.

    A long prompt loses its beginning; None where the responses alone leave less than a quarter of
    `max_length` for it.
    """
    prompt_ids, first_ids = encode_response(tokenizer, prompt, first)
    second_ids = encode_response(tokenizer, "", second)[1]
    responses = first_ids + second_ids
    if len(responses) > 0.75 * max_length:
        return None
    return last_tokens(tokenizer, prompt_ids, max_length - len(responses)) + responses


def encode_comparisons(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict], max_length: int, *,
    longest_first: bool = False,
) -> list[dict]:
    """Token ids and label of comparisons; those whose responses are too long are left out.

    rows: dictionaries `prompt` (rendered), `response_a`, `response_b`, `winner` ("a", "b" or
    "tie"). Returns dictionaries `ids`, `length`, `label` (place in WINNERS) and `row`. Raises
    UserError for an empty response or another winner, naming the row.
    """
    encoded = []
    for number, row in enumerate(rows):
        if row["winner"] not in WINNERS:
            raise UserError(
                f"comparison {number}: the winner is {row['winner']!r}; it must be a, b or tie."
            )
        for side in ("response_a", "response_b"):
            if not row[side].strip():
                raise UserError(f"comparison {number}: {side} is empty; both need text.")
        ids = encode_comparison(
            tokenizer, row["prompt"], row["response_a"], row["response_b"], max_length
        )
        if ids is not None:
            label = WINNERS.index(row["winner"])
            encoded.append({"ids": ids, "length": len(ids), "label": label, "row": number})
    if not encoded:
        raise UserError(f"none of the {len(rows)} comparisons fits into {max_length} tokens.")
    if longest_first:
        encoded.sort(key=lambda row: -row["length"])
    return encoded


def swapped(rows: Sequence[dict]) -> list[dict]:
    """The same comparisons with the responses in the other order."""
    other = {"a": "b", "b": "a"}
    return [
        row | {
            "response_a": row["response_b"], "response_b": row["response_a"],
            "winner": other.get(str(row.get("winner")), row.get("winner")),
        }
        for row in rows
    ]


def simulated_comparisons(pairs: Sequence[dict], seed: int = 0, ties: float = 1.5) -> list[dict]:
    """Pairs of the embedded world judged anew, in the arena's manner: ties allowed, and scored.

    Each pair goes to one simulated annotator, in random order, who decides by Davidson's rule with
    weight `ties`, so that ties are likeliest between equals, and who also rates both responses.

    Returns dictionaries `prompt, response_a, response_b, winner`, `score_gap` (mean rating of a
    less that of b, in points of 1 to 5) and `probability` that an annotator prefers a.
    """
    rng, rows = random.Random(f"comparisons:{seed}"), []
    for pair in pairs:
        sides, probability = [pair["chosen"], pair["rejected"]], pair["probability"]
        if rng.random() < 0.5:
            sides, probability = sides[::-1], 1 - probability
        rater = rng.choice(world.ANNOTATORS)
        ratings = [rater.rate(pair["prompt"], response, rng).values() for response in sides]
        p = min(max(rater.probability(pair["prompt"], *sides), 1e-9), 1 - 1e-9)
        chances = davidson([math.log(p / (1 - p))], ties)[0]
        rows.append({
            "prompt": pair["prompt"], "response_a": sides[0], "response_b": sides[1],
            "winner": rng.choices(WINNERS, chances)[0],
            "score_gap": sum(ratings[0]) / len(ratings[0]) - sum(ratings[1]) / len(ratings[1]),
            "probability": probability,
        })
    return rows


def as_pairs(rows: Sequence[dict]) -> list[dict]:
    """The comparisons that were decided, as preference pairs; a pair has no word for a tie.

    Returns dictionaries `prompt, chosen, rejected`, and `score_gap` and `probability`, which are
    None where the comparisons have none.
    """
    pairs = []
    for row in rows:
        if row["winner"] == "tie":
            continue
        won, gap, probability = row["winner"] == "a", row.get("score_gap"), row.get("probability")
        pairs.append({
            "prompt": row["prompt"],
            "chosen": row["response_a" if won else "response_b"],
            "rejected": row["response_b" if won else "response_a"],
            "score_gap": gap if gap is None or won else -gap,
            "probability": probability if probability is None or won else 1 - probability,
        })
    return pairs


class ComparisonTrainer(Trainer):
    """`transformers.Trainer` on comparisons: cross-entropy over a wins, b wins, tie."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False
        inner: Any = self.model
        inner.forward = functools.partial(reward_logits, inner)  # as in `PairTrainer`

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        logits = model(inputs["input_ids"], inputs["attention_mask"])
        loss = F.cross_entropy(logits, inputs["label"])
        if not torch.isfinite(loss):
            rows = ", ".join(str(row) for row in inputs["row"].tolist())
            raise UserError(
                f"the loss became {loss.item()} on the comparisons in rows {rows}; training "
                "stopped before the update. Lower the learning rate or look at these rows."
            )
        return (loss, logits) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: Any, prediction_loss_only: bool,
                        ignore_keys: list[str] | None = None) -> Any:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, logits = self.compute_loss(model, inputs, return_outputs=True)
        return loss, logits.detach(), inputs["label"]

    def _get_train_sampler(self, train_dataset=None):
        rows: Any = train_dataset if train_dataset is not None else self.train_dataset
        size = self._train_batch_size * max(1, self.args.world_size)
        return LengthGroupedSampler([r["length"] for r in rows], size, self.args.seed)


def train_comparison_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: Sequence[dict],
    validation_rows: Sequence[dict],
    folder: str | Path,
    *,
    epochs: float = 1,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
    max_length: int = 256,
    bf16: bool = False,
    seed: int = 0,
    evaluations: int = 4,
) -> list[dict]:
    """Train a comparison classifier in place; every row is shown in both orders.

    Shown in one order only, a classifier may learn that the first response wins more often, which
    says nothing about the responses. Returns one dictionary per evaluation: `step`, `loss` (nats)
    and `accuracy` over the three outcomes. Raises UserError as `encode_comparisons` does.
    """
    check_tokenizer(tokenizer)
    train = encode_comparisons(tokenizer, [*train_rows, *swapped(train_rows)], max_length)
    validation = encode_comparisons(tokenizer, validation_rows, max_length, longest_first=True)

    padding = cast(int, tokenizer.pad_token_id)

    def collate(rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        batch = pad([row["ids"] for row in rows], padding)
        return batch | {
            name: torch.tensor([row[name] for row in rows]) for name in ("label", "row")
        }

    arguments = training_arguments(model, folder, len(train), RewardConfig(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, bf16=bf16, seed=seed,
        evaluations=evaluations))
    arguments.label_names = ["label"]
    trainer = ComparisonTrainer(
        model=model, args=one_device(arguments), train_dataset=train, eval_dataset=validation,
        data_collator=collate,
        compute_metrics=lambda p: {
            "accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())
        },
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    without_wrappers(model).eval()
    return [
        {"step": row["step"], "loss": row["eval_loss"], "accuracy": row["eval_accuracy"]}
        for row in trainer.state.log_history if "eval_loss" in row
    ]


@torch.no_grad()
def compare(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict],
    max_length: int = 256,
    batch_size: int = 64,
    both_orders: bool = True,
) -> np.ndarray:
    """Probabilities of a wins, b wins, tie: (n, 3).

    With `both_orders` each pair is shown in either order and the two answers are averaged, so
    that what stands first has no say.
    """
    limit = min(max_length, getattr(model.config, "max_position_embeddings", max_length))
    texts = []
    for row in rows:
        prompt_ids, first = encode_response(tokenizer, row["prompt"], row["response_a"])
        second = encode_response(tokenizer, "", row["response_b"])[1]
        texts.append(last_tokens(tokenizer, prompt_ids + first + second, limit))
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    probabilities = np.zeros((len(rows), 3))
    model.eval()
    where = next(model.parameters()).device
    for start in range(0, len(order), batch_size):
        index = order[start:start + batch_size]
        batch = pad([texts[i] for i in index], cast(int, tokenizer.pad_token_id))
        inputs = {name: tensor.to(where) for name, tensor in batch.items()}
        logits = reward_logits(model, inputs["input_ids"], inputs["attention_mask"])
        probabilities[index] = logits.double().softmax(-1).cpu().numpy()
    if both_orders:
        other = compare(model, tokenizer, swapped(rows), max_length, batch_size, False)
        probabilities = (probabilities + other[:, [1, 0, 2]]) / 2
    return probabilities


def davidson(margins: Sequence[float], tie: float) -> np.ndarray:
    """Probabilities of a wins, b wins, tie from reward margins r(a) - r(b): (n, 3).

    Davidson (1970): in proportion to exp(m/2), exp(-m/2) and `tie` (>= 0), so that ties are
    likeliest between equals and the two wins keep their Bradley-Terry odds.
    """
    half = np.asarray(margins, dtype=np.float64) / 2
    weights = np.stack([half, -half, np.full_like(half, np.log(max(tie, 1e-12)))], axis=1)
    weights = np.exp(weights - weights.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def fit_tie(margins: Sequence[float], winners: Sequence[str]) -> float:
    """The `tie` of `davidson` with the highest likelihood of these outcomes."""
    grid = np.geomspace(1e-3, 10, 200)
    losses = [log_loss(davidson(margins, tie), winners) for tie in grid]
    return float(grid[int(np.argmin(losses))])


def log_loss(probabilities: np.ndarray, winners: Sequence[str]) -> float:
    """Mean -log probability of what happened, in nats; log 3 for a judge who knows nothing."""
    place = [WINNERS.index(winner) for winner in winners]
    taken = probabilities[np.arange(len(place)), place]
    return float(-np.log(np.maximum(taken, 1e-12)).mean())
