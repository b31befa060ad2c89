"""Supervised fine-tuning: go on predicting the next token, but only of the answers.

The training itself is TRL's `SFTTrainer`; this module prepares rows for it, measures the loss on
held-out demonstrations and shows which tokens count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.engine.place import mixed_precision, plain_attention, reuse_memory, without_wrappers
from helpers.errors import UserError
from helpers.profiles import Settings

IGNORED = -100


def encode_example(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str
) -> tuple[list[int], list[int]]:
    """Token ids of prompt, response and end of text, and their labels.

    Returns:
        ids and labels, equally long; a label is the token itself inside the response and its
        end-of-text token, and -100, which the loss leaves out, inside the prompt.
    """
    question = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(f" {response.strip()}", add_special_tokens=False)["input_ids"]
    answer = [*answer, tokenizer.eos_token_id]
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
        logits = model(input_ids=ids.to(where)).logits[:, :-1].float()
        losses = nn.functional.cross_entropy(
            logits.transpose(1, 2), labels[:, 1:].to(where), ignore_index=IGNORED,
            reduction="none")
        nats[index] = losses.sum(1).cpu().numpy()
        tokens[index] = (labels[:, 1:] != IGNORED).sum(1).numpy()
    return nats, tokens


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
) -> list[dict[str, float]]:
    """Fine-tune in place with TRL's SFTTrainer on rows with `prompt` and `response`.

    Returns:
        the trainer's log, one row per logged step with `step` and `loss` (nats per token).
    """
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import (  # what `trl` hands on stands in a table that Pyright does not read
        SFTConfig,  # pyright: ignore[reportPrivateImportUsage]
        SFTTrainer,  # pyright: ignore[reportPrivateImportUsage]
    )

    reuse_memory()
    bf16 = mixed_precision(settings)
    if bf16:
        plain_attention(model)
    disable_progress_bars()
    rows = Dataset.from_list([_tokens(tokenizer, r) for r in train])
    section = settings.sft
    steps = max(1, section.epochs * len(rows) // section.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, seed=seed, data_seed=seed, num_train_epochs=section.epochs,
            per_device_train_batch_size=section.batch_size, learning_rate=section.learning_rate,
            lr_scheduler_type="cosine", warmup_steps=round(section.warmup_share * steps),
            weight_decay=0.0, max_length=None, packing=False, completion_only_loss=True,
            train_sampling_strategy="group_by_length", logging_steps=max(1, steps // 30),
            save_strategy="no", report_to="none", disable_tqdm=True, activation_checkpointing=False,
            bf16=bf16,
            use_cpu=not next(model.parameters()).is_cuda, dataloader_pin_memory=False,
            eos_token=cast(str, tokenizer.eos_token))
        trainer = SFTTrainer(model=model, args=config, train_dataset=rows,
                             processing_class=tokenizer, callbacks=list(callbacks))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    without_wrappers(model).eval()
    return [{"step": r["step"], "loss": r["loss"]} for r in trainer.state.log_history
            if "loss" in r]


def _tokens(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> dict[str, list[int]]:
    ids, labels = encode_example(tokenizer, row["prompt"], row["response"])
    return {"input_ids": ids, "completion_mask": [int(y != IGNORED) for y in labels]}
