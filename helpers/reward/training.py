"""Training a reward model by `transformers.Trainer`: both responses of a pair in one pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

from helpers.engine.checkpoints import newest_of_trainer
from helpers.engine.kinds import PairText
from helpers.engine.place import (
    inner_model,
    mixed_precision,
    one_device,
    plain_attention,
    share_of_batch,
    without_wrappers,
)
from helpers.engine.tokens import check_tokenizer
from helpers.errors import UserError
from helpers.profiles import (
    Count,
    CountOrZero,
    Limit,
    NonNegative,
    Positive,
    Settings,
    Share,
    check_fields,
)
from helpers.reward.measures import pair_accuracy
from helpers.reward.model import (
    bradley_terry_loss,
    can_share_prompts,
    pair_rewards,
    pool_last_token,
    position_limit,
)
from helpers.reward.pairs import (
    collate_pairs,
    collate_shared,
    encode_pairs,
    length_grouped_order,
    shared_length,
)


class LengthGroupedSampler(torch.utils.data.Sampler):
    """Yields `length_grouped_order` of the epoch that the Trainer announces by `set_epoch`."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(length_grouped_order(self.lengths, self.batch_size, self.seed, self.epoch))


class PairTrainer(Trainer):
    """`transformers.Trainer` on pairs: both responses of a pair in one forward pass."""

    def __init__(self, *args: Any, loss_fn: Callable, pool_fn: Callable, margin: float,
                 share_prompts: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_fn, self.margin = loss_fn, margin
        self.share_prompts = share_prompts
        self.model_accepts_loss_kwargs = False
        # What is called is the model, in whatever wraps it: autocast, and DDP, which would not
        # average gradients otherwise. `without_wrappers` gives it its own forward back.
        inner: Any = self.model
        inner.forward = functools.partial(pair_rewards, inner, pool=pool_fn)

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:
        chosen, rejected = model(inputs)
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

    def prediction_step(self, model: nn.Module, inputs: Any, prediction_loss_only: bool,
                        ignore_keys: list[str] | None = None) -> Any:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, rewards = self.compute_loss(model, inputs, return_outputs=True)
        return loss, rewards.detach(), inputs["row"]

    def _get_train_sampler(self, train_dataset=None):
        rows: Any = train_dataset if train_dataset is not None else self.train_dataset
        batch_size = self._train_batch_size * max(1, self.args.world_size)
        length = shared_length if self.share_prompts else lambda row: row["length"]
        return LengthGroupedSampler([length(row) for row in rows], batch_size, self.args.seed)


def _pair_metrics(prediction) -> dict[str, float]:
    margins = prediction.predictions[:, 0] - prediction.predictions[:, 1]
    return {"accuracy": float(pair_accuracy(margins).mean()), "margin": float(margins.mean())}


@dataclass
class RewardConfig:
    """How a reward model is trained. Lengths are in tokens, the margin in units of reward."""

    epochs: Positive = 1
    batch_size: Count = 32  # pairs, of all processes together
    gradient_accumulation: Count = 1  # batches per optimiser step
    learning_rate: Positive = 3e-4
    warmup_share: Share = 0.05
    weight_decay: NonNegative = 0.01
    max_grad_norm: Limit = 1.0
    max_length: Count = 256
    margin: NonNegative = 0.0  # asked for beyond the right order, added to a pair's own `margin`
    evaluations: CountOrZero = 4  # times the validation loss is taken; 0: no checkpoints either
    patience: Count | None = None  # stop after so many evaluations without a better one
    bf16: bool = False  # matrices multiplied in bfloat16
    report_to: str | Sequence[str] = "none"
    seed: CountOrZero = 0

    def __post_init__(self) -> None:
        check_fields(self, "reward")

    @classmethod
    def from_settings(cls, settings: Settings, **changes: Any) -> RewardConfig:
        """The `reward:` section of a profile, its seed and precision, and `changes` on top."""
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in settings.reward.as_dict().items() if k in known}
        return cls(**{"seed": settings.seed, "bf16": mixed_precision(settings),
                      **values, **changes})


def train_reward_model(
    model: nn.Module,
    tokenizer: Any,
    train_pairs: Sequence[PairText],
    validation_pairs: Sequence[PairText],
    folder: str | Path,
    config: RewardConfig | None = None,
    *,
    resume: bool = False,
    share_prompts: bool | None = None,
    loss_fn: Callable = bradley_terry_loss,
    pool_fn: Callable = pool_last_token,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, float]]:
    """Train `model` in place by Bradley-Terry on pairs; the best checkpoint is put back at the end.

    Checkpoints go to `folder`; with `resume` training goes on from the last one there.
    `share_prompts` computes a pair's prompt once (`collate_shared`); by default wherever the model
    allows it. `loss_fn(chosen, rejected, margin)` and `pool_fn(values, attention_mask)` may be the
    reader's.

    Returns the history: one dictionary per evaluation with `step`, `pairs` (seen so far),
    `train_loss` (mean since the row before; absent before training), `loss`, `accuracy`, `margin`
    (mean reward of the chosen less that of the rejected).

    Raises:
        UserError: bad pairs, a tokenizer without padding token, a `max_length` beyond the model's
            positions, or a loss that is not finite (naming the rows of its batch).
    """
    config = config or RewardConfig()
    check_tokenizer(tokenizer)
    limit = position_limit(model)
    if limit is not None and config.max_length > limit:
        raise UserError(
            f"reward.max_length is {config.max_length}, but the model has only {limit} positions."
        )
    config_of_model = inner_model(model).config
    if config_of_model.pad_token_id is None:
        config_of_model.pad_token_id = tokenizer.pad_token_id
    train = encode_pairs(tokenizer, train_pairs, config.max_length)
    validation = encode_pairs(tokenizer, validation_pairs, config.max_length, longest_first=True)
    if share_prompts is None:
        share_prompts = can_share_prompts(model)
    collate = collate_shared if share_prompts else collate_pairs
    if config.bf16:
        plain_attention(model)
    stopping = [EarlyStoppingCallback(config.patience)] if config.patience else []
    trainer = PairTrainer(
        model=model,
        args=one_device(training_arguments(model, folder, len(train), config)),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=functools.partial(collate, pad_token_id=tokenizer.pad_token_id),
        compute_metrics=_pair_metrics,
        callbacks=[*stopping, *callbacks],
        loss_fn=loss_fn,
        pool_fn=pool_fn,
        margin=config.margin,
        share_prompts=share_prompts,
    )
    trainer.remove_callback(PrinterCallback)
    last = newest_of_trainer(folder) if resume else None
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    without_wrappers(model).eval()
    pairs_per_step = config.batch_size * config.gradient_accumulation
    return _history(trainer.state.log_history, pairs_per_step, round(len(train) * config.epochs))


def training_arguments(
    model: nn.Module, folder: str | Path, rows: int, config: RewardConfig
) -> TrainingArguments:
    """Arguments of `transformers.Trainer`: cosine decay after warm-up, evaluation and checkpoint
    at the same steps, the checkpoint with the lowest validation loss put back at the end. With
    `evaluations` 0 there are neither, and the last weights stay."""
    batches = math.ceil(rows / config.batch_size)
    steps = math.ceil(batches / config.gradient_accumulation * config.epochs)
    every = max(1, math.ceil(steps / max(config.evaluations, 1)))
    report_to = config.report_to
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=share_of_batch(config.batch_size, "reward.batch_size"),
        per_device_eval_batch_size=2 * share_of_batch(config.batch_size, "reward.batch_size"),
        gradient_accumulation_steps=config.gradient_accumulation,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(config.warmup_share * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16,
        use_cpu=next(model.parameters()).device.type == "cpu",
        seed=config.seed,
        eval_strategy="steps" if config.evaluations else "no",
        eval_steps=every,
        eval_on_start=config.evaluations > 0,
        logging_steps=every,
        save_strategy="steps" if config.evaluations else "no",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=config.evaluations > 0,
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
