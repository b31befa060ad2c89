"""Supervised fine-tuning: go on predicting the next token, but only of the answers.

The training itself is TRL's `SFTTrainer`; this module prepares rows for it, measures the loss on
held-out demonstrations and shows which tokens count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    answer = tokenizer(f" {response}", add_special_tokens=False)["input_ids"]
    answer = [*answer, tokenizer.eos_token_id]
    return question + answer, [IGNORED] * len(question) + answer


@torch.no_grad()
def response_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]],
    batch_size: int = 64,
) -> float:
    """Mean loss per response token in nats over rows with `prompt` and `response`."""
    where = next(model.parameters()).device
    encoded = sorted((encode_example(tokenizer, r["prompt"], r["response"]) for r in rows),
                     key=lambda pair: len(pair[0]))
    total, count = 0.0, 0
    model.eval()
    for start in range(0, len(encoded), batch_size):
        part = encoded[start:start + batch_size]
        width = max(len(ids) for ids, _ in part)
        ids = torch.tensor([i + [tokenizer.pad_token_id] * (width - len(i)) for i, _ in part])
        labels = torch.tensor([y + [IGNORED] * (width - len(y)) for _, y in part])
        mask = torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i, _ in part])
        logits = model(input_ids=ids.to(where), attention_mask=mask.to(where)).logits
        total += nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(where),
            ignore_index=IGNORED, reduction="sum").item()
        count += int((labels[:, 1:] != IGNORED).sum())
    return total / count


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
    from trl import SFTConfig, SFTTrainer

    from helpers.models import reuse_memory

    reuse_memory()
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
            bf16=next(model.parameters()).is_cuda and torch.cuda.is_bf16_supported(),
            use_cpu=not next(model.parameters()).is_cuda, dataloader_pin_memory=False,
            eos_token=tokenizer.eos_token)
        trainer = SFTTrainer(model=model, args=config, train_dataset=rows,
                             processing_class=tokenizer, callbacks=list(callbacks))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()
    return [{"step": r["step"], "loss": r["loss"]} for r in trainer.state.log_history
            if "loss" in r]


def _tokens(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> dict[str, list[int]]:
    ids, labels = encode_example(tokenizer, row["prompt"], row["response"])
    return {"input_ids": ids, "completion_mask": [int(y != IGNORED) for y in labels]}
