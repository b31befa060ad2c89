"""What stands between this course and TRL's PPOTrainer (`trl.experimental.ppo`, TRL 1.12).

TRL's trainer takes no reward function: it wants a module with `base_model_prefix` and `.score`
and feeds it token ids of the *policy's* tokenizer. `TextReward` is such a module around any
`reward_fn(prompts, responses)`, so that a classifier with a tokenizer of its own can judge.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers.engine.adapters import has_adapters, in_four_bits
from helpers.engine.kinds import RewardFn
from helpers.engine.place import backbone, forget_precision, inner_model
from helpers.engine.tokens import bos_in_front as bos_in_front  # handed on
from helpers.engine.tokens import check_tokenizer, decode, encode_prompts, read_as_text
from helpers.errors import UserError

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


class TextReward(nn.Module):
    """A reward on texts in the shape that TRL's `get_reward` expects.

    `get_reward` calls the module named by `base_model_prefix`, feeds the last hidden state to
    `.score`, and reads one position: the last token before the first pad of the response. The
    reader below decodes each row, asks `reward_fn`, and returns the score at *every* position, so
    whichever one is read is the right one.

    Args:
        reward_fn: maps (prompts, responses) to one number per row.
        tokenizer: the policy's, which made the ids.
        prompt_width: every prompt is left-padded to this width; TRL does not pass it on.
    """

    base_model_prefix = "reader"

    def __init__(self, reward_fn: RewardFn, tokenizer: Any, prompt_width: int) -> None:
        super().__init__()
        self.reader = TextReader(reward_fn, tokenizer, prompt_width)
        self.score = nn.Identity()


class TextReader(nn.Module):
    """The `backbone` of `TextReward`: token ids in, one score per row out, at every position.

    `batches` keeps a record of each call (texts, scores, lengths, width), `last` the latest ids
    and masks: TRL's trainer shows neither, and an audit needs both.
    """

    def __init__(self, reward_fn: RewardFn, tokenizer: Any, prompt_width: int) -> None:
        super().__init__()
        self.reward_fn, self.tokenizer, self.prompt_width = reward_fn, tokenizer, prompt_width
        self.batches: list[dict[str, Any]] = []
        self.last: SimpleNamespace | None = None

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any
    ) -> SimpleNamespace:
        """Score a batch.

        Args:
            input_ids: (batch, width); TRL has already rewritten pads to id 0.
            attention_mask: (batch, width), 0 where a pad stood.

        Returns:
            An object with `hidden_states[-1]` of shape (batch, width, 1).

        Raises:
            UserError: a prompt does not end at `prompt_width`, or a score is not finite.
        """
        prompts, responses, mask = split_texts(
            input_ids, attention_mask, self.tokenizer, self.prompt_width)
        scores = np.asarray(self.reward_fn(prompts, responses), dtype=np.float32)
        if scores.shape != (len(prompts),) or not np.isfinite(scores).all():
            raise UserError(
                f"the reward function gave {scores.shape} values, or some that are not finite; it "
                f"must give one finite number for each of the {len(prompts)} responses.")
        self.last = SimpleNamespace(
            prompt_ids=input_ids[:, : self.prompt_width].cpu(),
            prompt_mask=attention_mask[:, : self.prompt_width].long().cpu(),
            response_ids=input_ids[:, self.prompt_width :].cpu(), response_mask=mask.cpu())
        self.batches.append({
            "prompts": prompts, "responses": responses, "scores": scores,
            "lengths": mask.sum(1).cpu().numpy(), "width": mask.shape[1]})
        column = torch.as_tensor(scores, device=input_ids.device)[:, None, None]
        return SimpleNamespace(hidden_states=(column.expand(-1, input_ids.shape[1], 1),))


def split_texts(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, tokenizer: Any, prompt_width: int
) -> tuple[list[str], list[str], torch.Tensor]:
    """Decode the prompt and the response of each row, the response cut at its first pad.

    Returns (prompts, responses, response_mask); the mask is (batch, response_length).
    """
    real = attention_mask.bool().cpu()
    if prompt_width > real.shape[1] or not real[:, prompt_width - 1].all():
        raise UserError(
            f"a prompt does not end at token {prompt_width}; pad every prompt on the left to that "
            "width (helpers.trl_adapter.pad_prompts).")
    # A pad that was sampled ends the response: the loss stops there, so the judge does too.
    mask = real[:, prompt_width:].long().cumprod(1)
    prompts, responses = [], []
    for ids, p, r in zip(input_ids.cpu(), real[:, :prompt_width], mask.bool(), strict=True):
        prompts.append(ids[:prompt_width][p].tolist())
        responses.append(ids[prompt_width:][r].tolist())
    before = [[] for _ in prompts]  # a text of its own; a response follows its prompt
    texts = decode(tokenizer, before, prompts), decode(tokenizer, prompts, responses)
    return *texts, mask.to(input_ids.device)


def pad_prompts(prompts: Sequence[str], tokenizer: Any, width: int) -> list[dict[str, list[int]]]:
    """Rows `{"input_ids": [...]}` of one width, padded on the left, as TRL's trainer wants them.

    The width counts what the tokenizer puts in front of a text (`bos_in_front`).

    Raises:
        UserError: the pad token is missing or is the end token, or a prompt is too long.
    """
    check_tokenizer(tokenizer)  # where pad is end, TRL masks the end of every response
    rows = []
    for text, ids in zip(prompts, encode_prompts(tokenizer, prompts), strict=True):
        if len(ids) > width:
            raise UserError(f"prompt {text!r} has {len(ids)} tokens; it must have 1 to {width}.")
        rows.append({"input_ids": [tokenizer.pad_token_id] * (width - len(ids)) + ids})
    return rows


def new_value_model(policy: Any, pad_token_id: int) -> Any:
    """A separate value model: the policy's backbone, copied, under a score head of zeros.

    It is float32, as all that trains is. With a head of zeros every value starts at 0, so the first
    advantages are not distorted by a random critic.

    Raises:
        UserError: the policy has adapters or is in four bits. TRL reads the value model's backbone
            by its name, which finds another module in a PEFT model.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    if has_adapters(policy) or in_four_bits(policy):
        raise UserError(
            "a value model for TRL is made of plain weights, and this policy has adapters or is in "
            "four bits; give the reference, or the policy with its adapters merged "
            "(helpers.engine.adapters.merged).")
    config = copy.deepcopy(policy.config)
    config.id2label, config.label2id = {0: "value"}, {"value": 0}
    config.pad_token_id = pad_token_id
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    model = AutoModelForSequenceClassification.from_config(config)
    logging.set_verbosity(level)
    model.float()  # whatever the policy's type: it trains
    backbone(model).load_state_dict(backbone(policy).state_dict())
    nn.init.zeros_(model.score.weight)
    return model.to(next(policy.parameters()).device).eval()


def ready_for_trl(model: Any, tokenizer: Any, folder: str | Path | None = None) -> Any:
    """What TRL's trainers would take from elsewhere, answered before they are made; in place.

    - Sampling settings that a model brings in its `generation_config` (Qwen's repetition penalty)
      would be at work in rollouts wherever TRL's own say nothing. `helpers.models` loads none; here
      they are removed from any other model, and one token is left that ends a text.
    - A trainer that tokenises prompts itself (`RLOOTrainer`) would take `<|endoftext|>` in one for
      the end of a text: from now on `tokenizer` spells it out. Not for `DPOTrainer`, which writes
      the end token behind each answer as text: there no answer would end. Give it a tokenizer that
      this function has not seen.
    - `PPOTrainer` has no precision of its own: that of an earlier trainer is forgotten.
    - `RLOOTrainer` loads its reference from where the model's config says that it came from. There
      it has no row for a padding token that was added since. With `folder` the model is saved there
      as it is now and its config names the folder. A model with adapters needs none of this.
    """
    from transformers import GenerationConfig

    forget_precision()
    inner = inner_model(model)
    inner.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id)
    read_as_text(tokenizer)
    if folder is not None and inner is model:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model.config._name_or_path = str(folder)
    return model


def trl_config(settings: Any, output_dir: str) -> Any:
    """TRL's `PPOConfig` for the `ppo_trl:` section of a profile, with every trap answered."""
    from trl.experimental.ppo import PPOConfig

    from helpers.models import device

    task = settings.ppo_trl
    return PPOConfig(
        output_dir=output_dir, report_to="none", save_strategy="no", seed=settings.seed,
        num_sample_generations=0, disable_tqdm=True, gradient_checkpointing=False,
        use_cpu=device(settings).type == "cpu", bf16=False,
        total_episodes=task.total_episodes, per_device_train_batch_size=task.batch_size,
        num_mini_batches=task.mini_batches, num_ppo_epochs=task.epochs,
        local_rollout_forward_batch_size=task.batch_size,
        response_length=task.max_new_tokens, temperature=task.temperature, stop_token="eos",
        missing_eos_penalty=task.missing_eos_penalty,
        learning_rate=task.learning_rate, lr_scheduler_type="linear",
        warmup_steps=task.warmup_updates, adam_epsilon=1e-5,
        kl_coef=task.kl_coef, kl_estimator="k1", gamma=1.0, lam=0.95,
        cliprange=0.2, cliprange_value=task.value_clip_range, vf_coef=0.1,
    )


def our_config(settings: Any, **changes: Any) -> Any:
    """The same task for the course's trainer: whatever both can be told has the same value."""
    from helpers.ppo_trainer import PPOConfig

    task = settings.ppo_trl
    same = {
        "updates": -(-task.total_episodes // task.batch_size), "batch_size": task.batch_size,
        "mini_batch_size": task.batch_size // task.mini_batches, "epochs": task.epochs,
        "max_new_tokens": task.max_new_tokens, "temperature": task.temperature,
        "learning_rate": task.learning_rate, "anneal": True, "adam_epsilon": 1e-5,
        "warmup_updates": task.warmup_updates, "gamma": 1.0, "lam": 0.95,
        "kl_coef": task.kl_coef, "kl_target": None, "kl_estimator": "k1",
        "clip_range": 0.2, "value_clip_range": task.value_clip_range,
        "value_coef": 0.1, "max_grad_norm": math.inf, "normalise_reward": False,
        "whiten_rewards": False,
        "missing_eos_penalty": task.missing_eos_penalty or 0.0, "seed": settings.seed,
        "score_every": task.score_every,  # TRL reads one score a response, and cannot
    }
    return PPOConfig(**{**same, **changes})


def undilute(average: float, real_share: float, fill: float) -> float:
    """The mean over real tokens, from a mean that also ran over padding holding the value `fill`.

    TRL averages `policy/approxkl_avg` (fill 0) and `val/ratio` (fill 1) over the whole response
    width. Where a share s of it is real, average = s·mean + (1 − s)·fill.
    """
    return (average - (1 - real_share) * fill) / real_share


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, no banner and no library logging inside; errors still get out."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def train_quietly(trainer: Any, every: int = 0) -> list[dict[str, float]]:
    """`trainer.train()` without its printing; one line each `every` updates instead.

    Returns:
        One row per update: TRL's own metrics, plus `seconds` since the start.
    """
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    out, start = sys.stdout, time.perf_counter()

    class Rows(TrainerCallback):
        def on_log(self, args, state, control, **_):
            row = state.log_history[-1]
            reward = row.get("objective/scores", row.get("reward"))
            if reward is None:  # the summary that some trainers log at the end
                return
            row["seconds"] = time.perf_counter() - start
            if every and (state.global_step % every == 0 or state.global_step == state.max_steps):
                nats = row.get("objective/kl")
                print(f"update {state.global_step:3d}/{state.max_steps}   reward {reward:6.2f}"
                      + ("" if nats is None else f"   KL {nats:5.2f} nats")
                      + f"   {row['seconds']:4.0f} s", file=out, flush=True)

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Rows())
    with quiet():
        trainer.train()
    return [dict(row) for row in trainer.state.log_history if "seconds" in row]


def snapshot_before_last(store: dict[str, Any]) -> Any:
    """A callback that copies the policy which samples the last batch into `store["policy"]`.

    With it the KL that TRL logs last can be computed again on the very same responses.
    """
    from transformers import TrainerCallback

    class Snapshot(TrainerCallback):
        def on_step_end(self, args, state, control, model: Any = None, **_):
            if state.global_step == state.max_steps - 1:
                store["policy"] = copy.deepcopy(model.policy).eval()

    return Snapshot()
