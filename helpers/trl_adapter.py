"""What stands between this course and TRL's PPOTrainer (`trl.experimental.ppo`, TRL 1.12).

TRL's trainer takes no reward function: it wants a module with `base_model_prefix` and `.score`
and feeds it token ids of the *policy's* tokenizer. `TextReward` is such a module around any
`reward_fn(prompts, responses)`, so that a classifier with a tokenizer of its own can judge.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers.errors import UserError

RewardFn = Callable[[list[str], list[str]], Sequence[float]]

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
        prompts.append(decode(tokenizer, ids[:prompt_width][p]))
        responses.append(decode(tokenizer, ids[prompt_width:][r]))
    return prompts, responses, mask.to(input_ids.device)


def decode(tokenizer: Any, ids: Any) -> str:
    """Exact text of some token ids, without special tokens and without prettified spaces."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def sentiment_logit(
    classifier: Any, tokenizer: Any, batch_size: int = 128, progress: Any = None
) -> RewardFn:
    """Reward function: the classifier's logit of the label "positive" for prompt + response.

    The raw logit is what the classic experiment on IMDB uses: unlike the probability it does not
    flatten once the classifier is sure.
    """
    label = positive_label(classifier)

    def reward(prompts: list[str], responses: list[str]) -> np.ndarray:
        texts = [p + r for p, r in zip(prompts, responses, strict=True)]
        return class_logits(classifier, tokenizer, texts, batch_size)[:, label]

    return reward


def chosen_reward(settings: Any, classifier: Any, tokenizer: Any) -> RewardFn:
    """The reward that `ppo_trl.reward` names: `sentiment` or `reward_model` (the stage of 04).

    Raises:
        UserError: another name, or a reward model that has not been made.
    """
    kind = settings.ppo_trl.reward
    if kind == "sentiment":
        return sentiment_logit(classifier, tokenizer)
    if kind == "reward_model":
        from helpers.reward import load_reward_function

        return load_reward_function(settings)
    raise UserError(f"ppo_trl.reward is {kind!r}; it must be one of sentiment, reward_model.")


def class_logits(
    classifier: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 128
) -> np.ndarray:
    """Logits of a sequence classifier, (n, labels); texts are cut to the classifier's length."""
    classifier.eval()
    device = next(classifier.parameters()).device
    limit = min(getattr(classifier.config, "max_position_embeddings", 512), 512)
    order = np.argsort([len(t) for t in texts], kind="stable")  # alike lengths share a batch
    out = np.zeros((len(texts), classifier.config.num_labels), dtype=np.float32)
    with torch.no_grad():
        for i in range(0, len(texts), batch_size):
            rows = order[i : i + batch_size]
            batch = tokenizer([texts[j] for j in rows], padding=True, truncation=True,
                              max_length=limit, return_tensors="pt")
            batch.pop("token_type_ids", None)
            out[rows] = classifier(**batch.to(device)).logits.float().cpu().numpy()
    return out


def positive_label(classifier: Any) -> int:
    """Index of the label that means "positive": by its name, otherwise the second."""
    names = {int(k): str(v).lower() for k, v in (classifier.config.id2label or {}).items()}
    return next((k for k, v in names.items() if v.startswith("pos")), 1)


def cut_prompts(
    reviews: Sequence[str],
    tokenizer: Any,
    count: int,
    min_tokens: int = 2,
    max_tokens: int = 8,
    min_characters: int = 200,
    seed: int = 0,
) -> list[str]:
    """The first few tokens of reviews, as in the classic IMDB experiment.

    Only reviews longer than `min_characters` are cut; the length is drawn evenly between
    `min_tokens` and `max_tokens`. A prompt is kept if its text encodes to the same tokens again,
    so that a text and its ids mean one thing. When there are fewer reviews than prompts, reviews
    are cut again at another length.

    Raises:
        UserError: no review is long enough.
    """
    rng = np.random.default_rng(seed)
    usable = [r for r in reviews if len(r) > min_characters]
    if not usable:
        raise UserError(
            f"none of the {len(reviews)} reviews is longer than {min_characters} characters; "
            "prompts are cut from reviews that are.")
    prompts: list[str] = []
    for _ in range(20):
        for row in rng.permutation(len(usable)):
            length = int(rng.integers(min_tokens, max_tokens + 1))
            ids = tokenizer.encode(usable[row][:400], add_special_tokens=False)[:length]
            text = decode(tokenizer, ids)
            if tokenizer.encode(text, add_special_tokens=False) == ids and len(ids) == length:
                prompts.append(text)
            if len(prompts) == count:
                return prompts
    raise UserError(
        f"only {len(prompts)} prompts of {min_tokens} to {max_tokens} tokens could be cut from "
        f"{len(usable)} reviews; {count} were asked for.")


def pad_prompts(prompts: Sequence[str], tokenizer: Any, width: int) -> list[dict[str, list[int]]]:
    """Rows `{"input_ids": [...]}` of one width, padded on the left, as TRL's trainer wants them.

    Raises:
        UserError: the pad token is missing or is the end token, or a prompt is too long.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            "the tokenizer's pad token must exist and differ from its end token: TRL would mask "
            "the end of every response; add one with tokenizer.add_special_tokens.")
    rows = []
    for text in prompts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if not 0 < len(ids) <= width:
            raise UserError(f"prompt {text!r} has {len(ids)} tokens; it must have 1 to {width}.")
        rows.append({"input_ids": [tokenizer.pad_token_id] * (width - len(ids)) + ids})
    return rows


def new_value_model(policy: Any, pad_token_id: int) -> Any:
    """A separate value model: the policy's backbone, copied, under a score head of zeros.

    With a head of zeros every value starts at 0, so the first advantages are not distorted by a
    random critic.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    config = copy.deepcopy(policy.config)
    config.id2label, config.label2id = {0: "value"}, {"value": 0}
    config.pad_token_id = pad_token_id
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    model = AutoModelForSequenceClassification.from_config(config)
    logging.set_verbosity(level)
    getattr(model, model.base_model_prefix).load_state_dict(
        getattr(policy, policy.base_model_prefix).state_dict())
    nn.init.zeros_(model.score.weight)
    return model.to(next(policy.parameters()).device).eval()


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
    }
    return PPOConfig(**{**same, **changes})


def measure(
    model: Any, reference: Any, tokenizer: Any, prompts: Sequence[str], reward_fn: RewardFn,
    task: Any, gold_fn: Callable[[str], float] | None = None, repeats: int = 4, seed: int = 0,
) -> dict[str, Any]:
    """What a policy writes to each prompt, what it earns, and how far it is from the reference.

    Args:
        task: the `ppo_trl:` section (response length and temperature).
        gold_fn: true worth of a text (prompt and response together), where it is known.
        repeats: responses per prompt; more of them make the means quieter.

    Returns:
        `texts` and `rollout` of the first response to each prompt; `scores`, `gold` and `kl`
        (nats per response, k1), each (prompts, repeats); `entropy` in nats per token.
    """
    from helpers import evaluation, generation

    prompts = list(prompts)
    rollouts = [
        generation.sample(model, tokenizer, prompts, task.max_new_tokens, task.temperature,
                          seed=seed + 1000 * i, batch_size=256)
        for i in range(repeats)
    ]
    columns: dict[str, list] = {"scores": [], "gold": [], "kl": []}
    nats = tokens = 0.0
    for r in rollouts:
        parts = (r.prompt_ids, r.prompt_mask, r.response_ids, r.response_mask, task.temperature)
        theirs = evaluation.response_logprobs(reference, *parts)
        mine, entropy = evaluation.response_logprobs(model, *parts, with_entropy=True)
        columns["kl"].append(evaluation.sequence_kl(mine, theirs, r.response_mask).numpy())
        columns["scores"].append(np.asarray(reward_fn(prompts, r.texts)))
        if gold_fn is not None:
            columns["gold"].append([gold_fn(p + t) for p, t in zip(prompts, r.texts, strict=True)])
        nats, tokens = nats + float(entropy.sum()), tokens + float(r.response_mask.sum())
    stacked = {k: np.stack(v, axis=1) for k, v in columns.items() if v}
    return {"texts": rollouts[0].texts, "rollout": rollouts[0], "entropy": nats / tokens, **stacked}


def best_of_curve(
    scores: np.ndarray, gold: np.ndarray | None = None, steps: int = 40
) -> dict[str, np.ndarray]:
    """Best-of-n, chosen by `scores`, for many n up to the N responses that each prompt has.

    Args:
        scores, gold: (prompts, N), independent responses of the untouched model.

    Returns:
        `n`, `kl` (nats, at most), `reward` and, with gold, the `gold` of the chosen response.
    """
    from helpers.evaluation import best_of_n_kl, best_of_weights

    total = scores.shape[1]
    ns = np.unique(np.geomspace(1, total, steps).round().astype(int))
    weights = np.array([best_of_weights(total, int(n)) for n in ns])
    order = np.argsort(scores, axis=1, kind="stable")
    out = {"n": ns, "kl": np.array([best_of_n_kl(int(n)) for n in ns]),
           "reward": weights @ np.take_along_axis(scores, order, axis=1).mean(0)}
    if gold is not None:
        out["gold"] = weights @ np.take_along_axis(gold, order, axis=1).mean(0)
    return out


def task_hash(policy: Any, classifier: Any, task: Any) -> str:
    """Hash of what draws for best-of-n depend on: both models' weights and the task's settings.

    Stored draws of another model, judge or task are no yardstick for this one.
    """
    digest = hashlib.sha256()
    for model in (policy, classifier):
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    keys = ("reward", "prompt_tokens_min", "prompt_tokens_max", "max_new_tokens", "temperature")
    digest.update(repr([getattr(task, key) for key in keys]).encode())
    return digest.hexdigest()[:16]


def share_of_best_of_n(gain: float, kl: float, curve: dict[str, np.ndarray]) -> float:
    """A policy's gain in mean reward over that of best-of-n at the same KL from the same model.

    `curve` is what `best_of_curve` returns. Beyond its last n the last one is compared with, which
    asks too little of the policy; below n = 1 there is nothing to compare with, and it is NaN.
    """
    reached = float(np.interp(kl, curve["kl"], curve["reward"] - curve["reward"][0]))
    return gain / reached if reached > 0 else float("nan")


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
        def on_step_end(self, args, state, control, model=None, **_):
            if state.global_step == state.max_steps - 1:
                store["policy"] = copy.deepcopy(model.policy).eval()

    return Snapshot()
