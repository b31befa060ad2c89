"""Supervised fine-tuning: go on predicting the next token, but only of the answers.

The training itself is TRL's `SFTTrainer`; this module prepares rows for it, measures the loss on
held-out demonstrations and shows which tokens count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.engine.checkpoints import newest_of_trainer
from helpers.engine.heads import next_logits
from helpers.engine.place import (
    backbone,
    inner_model,
    mixed_precision,
    one_device,
    plain_attention,
    reuse_memory,
    share_of_batch,
    without_wrappers,
)
from helpers.engine.tokens import encode_response
from helpers.errors import UserError
from helpers.profiles import Settings

IGNORED = -100
LOGITS_AT_ONCE = 2**26  # numbers; 256 MB in float32


def encode_example(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str
) -> tuple[list[int], list[int]]:
    """Token ids of prompt, response and end of text, and their labels.

    Returns:
        ids and labels, equally long; a label is the token itself inside the response and its
        end-of-text token, and -100, which the loss leaves out, inside the prompt.
    """
    question, answer = encode_response(tokenizer, prompt, response)
    return question + answer, [IGNORED] * len(question) + answer


@torch.no_grad()
def response_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]],
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each row's response in nats, summed over its tokens, and the number of tokens.

    Args:
        rows: with `prompt` (rendered) and `response`.

    Returns:
        nats: (rows,) and tokens: (rows,), the end-of-text token counted.
    """
    where = next(model.parameters()).device
    encoded = [encode_example(tokenizer, r["prompt"], r["response"]) for r in rows]
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i][0]))
    nats, tokens = np.zeros(len(rows)), np.zeros(len(rows), dtype=int)
    model.eval()
    for start in range(0, len(rows), batch_size):
        index = order[start:start + batch_size]
        width = max(len(encoded[i][0]) for i in index)
        pad = [width - len(encoded[i][0]) for i in index]
        ids = torch.tensor([encoded[i][0] + [tokenizer.pad_token_id] * n
                            for i, n in zip(index, pad, strict=True)])
        labels = torch.tensor([encoded[i][1] + [IGNORED] * n
                               for i, n in zip(index, pad, strict=True)])
        losses = _token_losses(model, ids.to(where), labels[:, 1:].to(where))
        nats[index] = losses.sum(1).cpu().numpy()
        tokens[index] = (labels[:, 1:] != IGNORED).sum(1).numpy()
    return nats, tokens


def _token_losses(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss of every token after the first, 0 where its label is ignored: (n, length - 1).

    Logits of a whole batch take four bytes for each row, token and word of the vocabulary, three
    times over: 20 GB for 64 rows of 500 tokens of GPT-2. Where they are many they are made for
    tokens that count, a few at a time.
    """
    words = inner_model(model).get_output_embeddings().weight.shape[0]
    if ids.numel() * words <= LOGITS_AT_ONCE:
        logits = model(input_ids=ids).logits[:, :-1].float()
        return nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    hidden = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
    rows, places = (labels != IGNORED).nonzero(as_tuple=True)
    losses = torch.zeros(labels.shape, device=ids.device)
    for some in torch.arange(len(rows), device=ids.device).split(max(1, LOGITS_AT_ONCE // words)):
        row, place = rows[some], places[some]
        logits = next_logits(model, hidden[row, place]).float()
        losses[row, place] = nn.functional.cross_entropy(
            logits, labels[row, place], reduction="none")
    return losses


def response_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]],
) -> float:
    """Mean loss per response token over all rows, in nats."""
    nats, tokens = response_losses(model, tokenizer, rows)
    return float(nats.sum() / tokens.sum())


def short_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], max_length: int
) -> list[dict[str, Any]]:
    """The rows whose prompt and response fit into `max_length` tokens.

    Raises:
        UserError: none does.
    """
    kept = [r for r in rows
            if len(encode_example(tokenizer, r["prompt"], r["response"])[0]) <= max_length]
    if not kept:
        raise UserError(f"no demonstration fits into sft.max_length={max_length} tokens; raise it.")
    return kept


def train_sft(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, train: Sequence[dict[str, Any]],
    settings: Settings, *, seed: int = 0, callbacks: Sequence[Any] = (),
    checkpoints: str | Path | None = None,
) -> list[dict[str, float]]:
    """Fine-tune in place with TRL's SFTTrainer on rows with `prompt` and `response`.

    What requires a gradient is trained: all weights, or the adapters that a model has when it was
    loaded with `trains=True` under `models.lora`. TRL computes the loss of response tokens only,
    256 at a time, so that logits are never there whole. `sft.batch_size` counts the rows of all
    processes together.

    Args:
        checkpoints: a folder for one checkpoint every `sft.checkpoint_every` steps; where one is
            there already, training goes on from it and ends as if it had never stopped.

    Returns:
        the trainer's log, one row per logged step with `step` and `loss` (nats per token).
    """
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import SFTConfig  # pyright: ignore[reportPrivateImportUsage]

    reuse_memory()
    bf16 = mixed_precision(settings)
    if bf16:
        plain_attention(model)
    disable_progress_bars()
    rows = Dataset.from_list([_tokens(tokenizer, r) for r in train])
    section = settings.sft
    steps = max(1, section.epochs * len(rows) // section.batch_size)
    every = section.checkpoint_every if checkpoints else None
    with tempfile.TemporaryDirectory() as folder:
        place = str(checkpoints if every else folder)
        config = SFTConfig(
            output_dir=place, seed=seed, data_seed=seed, num_train_epochs=section.epochs,
            per_device_train_batch_size=share_of_batch(section.batch_size, "sft.batch_size"),
            learning_rate=section.learning_rate,
            lr_scheduler_type="cosine", warmup_steps=round(section.warmup_share * steps),
            weight_decay=0.0, max_length=None, packing=False, completion_only_loss=True,
            train_sampling_strategy="group_by_length", logging_steps=max(1, steps // 30),
            save_strategy="steps" if every else "no", save_steps=every or 1, save_total_limit=1,
            report_to="none", disable_tqdm=True, bf16=bf16,
            gradient_checkpointing=cast(Any, None),  # off, by a name old and new releases take
            use_cpu=next(model.parameters()).device.type == "cpu", dataloader_pin_memory=False,
            eos_token=cast(str, tokenizer.eos_token))
        trainer = _trainer()(model=model, args=one_device(config), train_dataset=rows,
                             processing_class=tokenizer, callbacks=list(callbacks))
        for parameter in model.parameters():  # TRL made bfloat16 of adapters on a quantised model
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        trainer.remove_callback(PrinterCallback)
        last = newest_of_trainer(place)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    without_wrappers(model).eval()
    return [{"step": r["step"], "loss": r["loss"]} for r in trainer.state.log_history
            if "loss" in r]


def _trainer() -> Any:
    """TRL's trainer; however many processes there are, a step sees the same rows."""
    from trl import SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

    class Trainer(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            sampler: Any = super()._get_train_sampler(train_dataset)
            sampler.batch_size *= self.args.world_size  # it groups the rows of one process
            return sampler

    return Trainer


def _tokens(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> dict[str, list[int]]:
    ids, labels = encode_example(tokenizer, row["prompt"], row["response"])
    return {"input_ids": ids, "completion_mask": [int(y != IGNORED) for y in labels]}
