"""PPO for language models: rollouts, rewards, updates, checkpoints, logging.

The mathematics is in `ppo.py`; this file decides what is computed when. Three sizes are told apart:

- batch: episodes (prompt and response) sampled with one state of the policy;
- mini-batch: episodes whose loss makes one optimiser step;
- micro-batch: episodes whose forward pass is in memory at once (gradient accumulation).

Rows are sorted by length before they are cut into micro-batches, and a micro-batch is computed as
one row without padding (`engine/packing.py`) or, where the model cannot do that, as several padded
ones of similar length. Logits are computed at response tokens only, and their softmax is taken a
few rows at a time (`engine/token_logprobs.py`). Where one mini-batch is the whole batch and fits in
memory, the first epoch's forward pass is also the pass that records the old log-probabilities
and values, which are the same numbers.

Under several processes (`accelerate launch`) every process samples, scores and differentiates its
share of each batch; the numbers per token are exchanged, so that whitening, means and the KL
controller see the whole batch, and the run equals that of one process. On CPUs (gloo, PyTorch
2.13) a process now and then aborts or hangs while the interpreter shuts down, after training, even
when the process group was closed; a script that is judged by its exit status should save what it
made, wait for the others and leave by `os._exit`.
"""

from __future__ import annotations

import contextlib
import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import nn

from helpers import ppo
from helpers.engine import checkpoints
from helpers.engine.adapters import has_adapters
from helpers.engine.heads import float32_logits
from helpers.engine.kinds import RewardFn
from helpers.engine.packing import Layout, can_pack, packed_attention
from helpers.engine.place import (
    backbone,
    forget_precision,
    inner_model,
    mixed_precision,
    plain_attention,
    reuse_memory,
)
from helpers.engine.token_logprobs import chosen_logprobs, entropy_and_kl
from helpers.engine.tokens import check_tokenizer, decode
from helpers.errors import UserError
from helpers.generation import sample, uniform_noise
from helpers.models import disable_dropout, freeze
from helpers.profiles import Count, CountOrZero, Limit, Number, Positive, Whole, check_fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class NonFiniteError(UserError):
    """A loss, ratio or reward that is not a finite number. Training stopped before the step."""


@dataclass
class PPOConfig:
    """Everything that PPO can be told. Lengths are in tokens, KL and log-probabilities in nats."""

    updates: Count = 40  # batches to sample and learn from
    batch_size: Count = 64  # episodes per batch
    mini_batch_size: Count | None = None  # episodes per optimiser step; None: the whole batch
    micro_batch_size: Count | None = None  # most episodes in memory at once; None: the mini-batch
    # Groups of similar length, to save padding. None: 8 where only attention is padded, else 4.
    length_buckets: Count | None = None
    epochs: Count = 4  # passes over each batch
    max_new_tokens: Count = 48
    temperature: Positive = 1.0  # of sampling and of every log-probability
    learning_rate: Positive = 3e-4
    anneal: bool = True  # learning rate falls to 0 in a straight line, after the warm-up
    warmup_updates: CountOrZero = 0  # before the learning rate is full; the first of them at 0
    adam_epsilon: Number = 1e-5
    max_grad_norm: Limit = 1.0
    clip_range: Positive = 0.2  # of the probability ratio
    value_clip_range: Limit = 0.2
    value_coef: Number = 0.1
    entropy_coef: Number = 0.0  # bonus for entropy of the next token
    gamma: Number = 1.0
    lam: Number = 0.95
    kl_coef: Number = 0.05  # reward lost per nat away from the reference
    kl_target: Positive | None = None  # nats per response; a number makes kl_coef adaptive
    kl_horizon: Positive = 10_000  # episodes over which the adaptive controller acts
    kl_estimator: Literal["k1", "k3"] = "k1"  # of the penalty
    missing_eos_penalty: Number = 1.0  # off the normalised score of a response that was cut off
    normalise_reward: bool = True  # mean 0, standard deviation 1 on reference samples
    normalise_samples: Whole = 256
    whiten_rewards: bool = False  # scale only: the mean stays
    # Tokens after which the judge is asked again and pays what changed; None: at the end only.
    score_every: Count | None = None
    whiten_advantages: bool = True
    stop_epoch_kl: Number | None = None  # end a batch's epochs beyond this KL(old ‖ new) per token
    stop_kl: Number | None = None  # end training beyond this KL to the reference per response
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast
    gradient_checkpointing: bool = False
    checkpoint_every: Whole | None = None  # updates
    seed: Whole = 0

    def __post_init__(self) -> None:
        self.mini_batch_size = self.mini_batch_size or self.batch_size
        self.micro_batch_size = self.micro_batch_size or self.mini_batch_size
        check_fields(self, "PPO")
        if self.batch_size % self.mini_batch_size:
            raise UserError(
                f"PPO: batch_size {self.batch_size} is not a multiple of mini_batch_size "
                f"{self.mini_batch_size}."
            )

    @classmethod
    def from_settings(cls, settings: Any, **changes: Any) -> PPOConfig:
        """The `ppo:` section of a profile, its seed and precision, and `changes` on top.

        `checkpoint_every` stays None unless it is given: only a run with a folder can keep any.
        """
        known = {f.name for f in fields(cls)} - {"checkpoint_every"}
        values = {k: v for k, v in settings.ppo.as_dict().items() if k in known}
        precision = "bfloat16" if mixed_precision(settings) else "float32"
        own = {"seed": settings.seed, "precision": precision,
               "gradient_checkpointing": settings.models.gradient_checkpointing}
        return cls(**{**own, **values, **changes})


def sum_of(*rewards: RewardFn, weights: Sequence[float] | None = None) -> RewardFn:
    """A reward function that is the (weighted) sum of several."""
    weights = [1.0] * len(rewards) if weights is None else list(weights)
    if len(weights) != len(rewards):
        raise UserError(f"{len(rewards)} reward functions but {len(weights)} weights.")

    def total(prompts: list[str], responses: list[str]) -> Any:
        parts = [np.asarray(r(prompts, responses), dtype=np.float64) for r in rewards]
        return np.sum([w * part for w, part in zip(weights, parts, strict=True)], axis=0)

    return total


def prompt_rows(n_prompts: int, seed: int, start: int, count: int) -> list[int]:
    """Rows of the prompts for `count` episodes from episode `start`: a new shuffle each round."""
    rows: list[int] = []
    for episode in range(start, start + count):
        round_, place = divmod(episode, n_prompts)
        if not rows or place == 0:
            generator = torch.Generator().manual_seed(seed * 100_003 + round_)
            order = torch.randperm(n_prompts, generator=generator)
        rows.append(int(order[place]))
    return rows


def rate_share(step: int, updates: int, warmup: int = 0, anneal: bool = True) -> float:
    """Share of the full learning rate at update `step`, counted from 0.

    As transformers' linear schedule has it: from 0 up in equal steps over `warmup` updates, full
    at the next one, and down in a straight line to what would be 0 at update `updates`, or level
    without `anneal`. An update at rate 0 moves no weight, but Adam learns from it how large
    gradients are; without it the first steps, in which every weight moves alike, are noise.
    """
    if step < warmup:
        return step / warmup
    return (updates - step) / (updates - warmup) if anneal else 1.0


def rewards_on_the_way(opinions: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """What a judge who is asked during a response pays there: the changes of its opinion.

    `opinions`: (batch, steps), the judge's score of prompt and response up to each token, read
    where `asked` is 1; before the first token it is 0, so subtract the score of the prompt alone.
    Returns (batch, steps), 0 where nobody asked. What is paid here is taken off the score at the
    end, so that a response earns the same in all: potential-based shaping, which at γ = 1
    changes no policy's rank (Ng, Harada and Russell 1999). It helps only where the judge's opinion
    of half a text, and of none, says something.
    """
    paid, held = torch.zeros_like(opinions), torch.zeros_like(opinions[:, 0])
    for step in range(opinions.shape[1]):
        now = torch.where(asked[:, step].bool(), opinions[:, step], held)
        paid[:, step], held = now - held, now
    return paid


def step_seed(seed: int, step: int) -> int:
    """Seed of the sampling noise of one update; differs between updates and between runs."""
    return (seed * 1_000_003 + step) * 2 + 1


class ActorCritic(nn.Module):
    """A policy and its critic behind one `forward`, so that Accelerate wraps one module.

    The critic is a linear head on the policy's trunk, starting at 0, or a model of its own with a
    `score` head (a reward model, say).
    """

    def __init__(self, policy: Any, value_model: Any | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.value_model = value_model
        inner = inner_model(policy)
        width = inner.get_output_embeddings().weight.shape[1]
        self.value_head: Any = None
        if value_model is None:
            self.value_head = nn.Linear(width, 1)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
            self.value_head.to(inner.get_output_embeddings().weight.device)

    def forward(
        self, inputs: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor,
        critic: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits (N, vocabulary) and values (N,) at N positions (rows, columns) of input_ids.

        Both are float32, whatever the precision of the layers below. `inputs`: what a trunk is
        called with. A row is one sequence, padded on the right, or several that are packed. A
        causal model's real tokens never look at what follows them, so no mask is needed and none
        is made.
        """
        states = states_at(self.policy, inputs, rows, columns)
        logits = float32_logits(self.policy, states)
        if not critic:
            return logits, None
        head = self.value_head
        if self.value_model is not None:
            states = states_at(self.value_model, inputs, rows, columns)
            head = inner_model(self.value_model).score
        with torch.autocast(states.device.type, enabled=False):
            return logits, head(states.to(head.weight.dtype)).squeeze(-1).float()


def states_at(
    model: Any, inputs: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Last hidden states (N, width) at N positions (rows, columns) of a trunk's input_ids."""
    return backbone(model)(**inputs, use_cache=False).last_hidden_state[rows, columns]


UNKNOWN = torch.empty(0)  # of a batch: not yet computed


@dataclass
class Batch:
    """All episodes of one update, on the CPU, the same in every process.

    `ids` (n, L): prompt and response without padding between them, padded on the right with the
    row's last token. `mask` (n, T) marks response tokens; per-token tensors are (n, T) like it.
    """

    prompts: list[str]
    responses: list[str]
    ids: torch.Tensor
    starts: torch.Tensor  # (n,) length of the prompt
    tokens: torch.Tensor
    mask: torch.Tensor
    finished: torch.Tensor
    early: torch.Tensor  # (n, T) what the judge paid before the last token, 0 unless it was asked
    prompt_scores: torch.Tensor  # (n,) of the prompt alone, where it was asked; else 0
    scores: torch.Tensor = UNKNOWN
    logprobs: torch.Tensor = UNKNOWN
    values: torch.Tensor = UNKNOWN
    reference_logprobs: torch.Tensor = UNKNOWN
    entropy: torch.Tensor = UNKNOWN
    kl: torch.Tensor = UNKNOWN
    advantages: torch.Tensor = UNKNOWN
    returns: torch.Tensor = UNKNOWN

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of prompt and response together, (n,)."""
        return self.starts + self.mask.sum(1)


def make_batch(
    prompts: Sequence[str], episodes: Sequence[tuple[list[int], list[int], str, bool]]
) -> Batch:
    """Assemble a batch from (prompt ids, response ids, text, finished) of every episode."""
    n = len(episodes)
    width = max(len(e[1]) for e in episodes)
    length = max(len(e[0]) + len(e[1]) for e in episodes)
    ids, tokens = torch.zeros(n, length, dtype=torch.long), torch.zeros(n, width, dtype=torch.long)
    mask = torch.zeros(n, width)
    for row, (prompt, response, _, _) in enumerate(episodes):
        whole = prompt + response
        ids[row, : len(whole)] = torch.tensor(whole)
        ids[row, len(whole) :] = whole[-1]
        tokens[row, : len(response)] = torch.tensor(response)
        mask[row, : len(response)] = 1
    return Batch(
        prompts=list(prompts), responses=[e[2] for e in episodes], ids=ids,
        starts=torch.tensor([len(e[0]) for e in episodes]), tokens=tokens, mask=mask,
        finished=torch.tensor([e[3] for e in episodes]),
        early=torch.zeros_like(mask), prompt_scores=torch.zeros(n),
    )


class PPO:
    """Trains `policy` to raise `reward_fn` while staying close to `reference`.

    Args:
        policy: a causal language model, or a PEFT model with adapters.
        reference: a frozen model of the same vocabulary. None: with adapters, the policy with its
            adapters switched off; otherwise a copy of the policy as it is now.
        reward_fn: any callable on (prompts, responses), lists of strings, that returns one number
            per response; a list of such callables is summed.
        tokenizer: the policy's; its pad token must differ from its end-of-text token.
        config: a PPOConfig, or a dictionary of its fields.
        value_model: a model with a `score` head whose values are trained in place of the head on
            the policy's trunk.
        advantage_fn: replaces `ppo.gae`; called as (rewards, values, mask, gamma, lam) and returns
            (advantages, returns), each (batch, response_length).
        policy_loss_fn, reward_tokens_fn: replace `ppo.policy_loss` and `ppo.token_rewards`.
        callbacks: called as callback(trainer, row) after every update; a true result ends training.
        checkpoint_dir: where checkpoints go; needed with `config.checkpoint_every`.
        log_with: "tensorboard", "wandb" or "trackio", through Accelerate's trackers.

    Raises:
        UserError: whatever in the arguments cannot be meant.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any | None,
        reward_fn: RewardFn | Sequence[RewardFn],
        tokenizer: PreTrainedTokenizerBase,
        config: PPOConfig | Mapping[str, Any] | None = None,
        value_model: Any | None = None,
        advantage_fn: Callable = ppo.gae,
        policy_loss_fn: Callable = ppo.policy_loss,
        reward_tokens_fn: Callable = ppo.token_rewards,
        callbacks: Sequence[Callable[[PPO, dict], Any]] = (),
        checkpoint_dir: str | Path | None = None,
        log_with: str | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        from accelerate import Accelerator

        self.config = config if isinstance(config, PPOConfig) else PPOConfig(**(config or {}))
        check_tokenizer(tokenizer)
        if reference is policy:
            raise UserError(
                "The reference is the policy itself, so KL would always be 0: pass a copy, or None."
            )
        self.tokenizer, self.advantage_fn = tokenizer, advantage_fn
        self.policy_loss_fn, self.reward_tokens_fn = policy_loss_fn, reward_tokens_fn
        self.reward_fn = reward_fn if callable(reward_fn) else sum_of(*reward_fn)
        self.callbacks = list(callbacks)
        self.checkpoint_dir = Path(checkpoint_dir) if checkpoint_dir else None
        if self.config.checkpoint_every and self.checkpoint_dir is None:
            raise UserError("PPO: checkpoint_every needs checkpoint_dir, a folder to write to.")
        forget_precision()  # this trainer has its own; an earlier one's would be inherited
        self.accelerator = Accelerator(
            mixed_precision="no",
            cpu=policy.device.type == "cpu",
            log_with=log_with, project_dir=str(log_dir) if log_dir else None,
        )
        self._log = log_with is not None
        # `PPOConfig` has filled in what was left to it.
        self.mini_batch_size = cast(int, self.config.mini_batch_size)
        self.micro_batch_size = cast(int, self.config.micro_batch_size)
        if self.accelerator.num_processes > self.mini_batch_size:
            raise UserError(
                f"PPO: {self.accelerator.num_processes} processes share mini-batches of "
                f"{self.mini_batch_size}; mini_batch_size must be at least as large."
            )
        adapters = has_adapters(policy)
        if reference is None and not adapters:
            reference = copy.deepcopy(policy)
        self.reference = None if reference is None else freeze(disable_dropout(reference)).eval()
        if self.reference is not None:
            self.reference.to(self.accelerator.device)
        for model in (policy, value_model):
            if model is not None:
                disable_dropout(model)
        model = ActorCritic(policy, value_model)
        if self.config.gradient_checkpointing:
            policy.gradient_checkpointing_enable({"use_reentrant": False})
            if adapters and hasattr(policy, "enable_input_require_grads"):
                policy.enable_input_require_grads()
        parts = (policy, self.reference, value_model)
        self._models = [inner_model(part) for part in parts if part is not None]
        self.packs = all(can_pack(m) for m in self._models)
        if self.config.precision == "bfloat16" and not self.packs:
            for part in self._models:
                plain_attention(part)
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        if not self._trainable:
            raise UserError("PPO: no parameter of the policy requires a gradient; unfreeze some.")
        optimiser = torch.optim.Adam(
            self._trainable, lr=self.config.learning_rate, eps=self.config.adam_epsilon, fused=True
        )
        self.model, self.optimiser = self.accelerator.prepare(model, optimiser)
        if self.accelerator.device.type == "cpu":
            reuse_memory()
        # Evaluation mode switches off every dropout that is not a module of its own.
        self.model.train(self.config.gradient_checkpointing)
        self.length_buckets = self.config.length_buckets or (8 if self.packs else 4)
        c = self.config
        self.controller = (
            ppo.FixedKLController(c.kl_coef) if c.kl_target is None
            else ppo.AdaptiveKLController(c.kl_coef, c.kl_target, c.kl_horizon)
        )
        self.reward_mean, self.reward_sd = 0.0, 1.0
        self.step = 0
        self.history: list[dict[str, float]] = []

    # ------------------------------------------------------------------ what the outside uses

    @property
    def policy(self) -> Any:
        """The policy, without the wrappers of distributed training."""
        return self.accelerator.unwrap_model(self.model).policy

    def train(self, prompts: Sequence[str], resume: bool = False) -> list[dict[str, float]]:
        """Run all updates; returns one dictionary of measures per update.

        With `resume`, goes on after the last checkpoint in `checkpoint_dir`, and ends with the
        weights of a run that was never interrupted.
        """
        prompts = list(prompts)
        if not prompts:
            raise UserError("PPO: there are no prompts to train on.")
        resumed = resume and self._load_checkpoint()
        if not resumed and self.config.normalise_reward and self.step == 0:
            self._fit_normaliser(prompts)
        if self._log and self.step == 0:
            self.accelerator.init_trackers("ppo", config=_flat(asdict(self.config)))
        while self.step < self.config.updates:
            row = self.update(prompts)
            self.history.append(row)
            if self._log:
                self.accelerator.log(row, step=self.step)
            every = self.config.checkpoint_every
            if every and self.step % every == 0:
                self.save_checkpoint()
            stop = [callback(self, row) for callback in self.callbacks]
            if any(stop):
                break
            if self.config.stop_kl is not None and row["kl"] > self.config.stop_kl:
                warnings.warn(
                    f"PPO stopped after update {self.step}: KL {row['kl']:.1f} nats per response "
                    f"is beyond stop_kl = {self.config.stop_kl}.", stacklevel=2,
                )
                break
        if self._log:
            self.accelerator.end_training()
        return self.history

    def update(self, prompts: Sequence[str]) -> dict[str, float]:
        """One update: sample a batch, score it, learn from it. Returns its measures."""
        clock = [time.perf_counter()]
        c, step = self.config, self.step
        rows = prompt_rows(len(prompts), c.seed, step * c.batch_size, c.batch_size)
        batch = self._sample([prompts[r] for r in rows], step_seed(c.seed, step))
        clock.append(time.perf_counter())
        raw = self._score(batch)
        batch.scores = ppo.penalise_missing_eos(
            (raw - self.reward_mean) / self.reward_sd, batch.finished, c.missing_eos_penalty
        )
        if c.score_every:
            self._score_on_the_way(batch, c.score_every)
        clock.append(time.perf_counter())
        rate = c.learning_rate * rate_share(step, c.updates, c.warmup_updates, c.anneal)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        kl_coef = self.controller.coef
        measures = self._learn(batch, kl_coef)
        self.controller.update(measures["kl"], c.batch_size)
        clock.append(time.perf_counter())
        self.step += 1
        lengths = batch.mask.sum(1)
        return {
            "step": self.step,
            "episodes": self.step * c.batch_size,
            "reward": raw.mean().item(),
            "reward_sd": raw.std(correction=0).item(),
            "score": batch.scores.mean().item(),
            **measures,
            "kl_coef": kl_coef,
            "response_length": lengths.mean().item(),
            "eos_rate": batch.finished.float().mean().item(),
            "learning_rate": rate,
            "generation_seconds": clock[1] - clock[0],
            "scoring_seconds": clock[2] - clock[1],
            "optimisation_seconds": clock[3] - clock[2],
            "episodes_per_second": c.batch_size / (clock[3] - clock[0]),
        }

    def save(self, folder: str | Path) -> Path:
        """Write policy and tokenizer as Hugging Face folders do, and the value head beside them."""
        from safetensors.torch import save_file

        folder = Path(folder)
        self.policy.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        model = self.accelerator.unwrap_model(self.model)
        if model.value_model is None:
            save_file(model.value_head.state_dict(), folder / "value_head.safetensors")
        return folder

    # ------------------------------------------------------------------ rollout

    def _sample(self, prompts: list[str], seed: int, policy: Any | None = None) -> Batch:
        """Sample a response to every prompt: each process its share, returned to all."""
        c = self.config
        noise = uniform_noise(len(prompts), c.max_new_tokens, seed)
        mine = self._share(list(range(len(prompts))))
        # On a CPU one token per row at a time is slower in bfloat16.
        cpu = self.accelerator.device.type == "cpu"
        with contextlib.nullcontext() if cpu else self._autocast():
            rollout = sample(
                policy or self.policy, self.tokenizer, [prompts[r] for r in mine],
                c.max_new_tokens, c.temperature, batch_size=max(64, c.batch_size),
                noise=noise[mine],
            )
        episodes = [
            (
                row, rollout.prompt_ids[i][rollout.prompt_mask[i].bool()].tolist(),
                rollout.response_ids[i][rollout.response_mask[i].bool()].tolist(),
                rollout.texts[i], bool(rollout.finished[i]),
            )
            for i, row in enumerate(mine)
        ]
        return make_batch(prompts, [e[1:] for e in sorted(self._gather(episodes))])

    def _score(self, batch: Batch) -> torch.Tensor:
        """Rewards of all episodes, (n,) float32, each process asking for its share."""
        return self._rewards(batch.prompts, batch.responses)

    def _score_on_the_way(self, batch: Batch, every: int) -> None:
        """Ask for prompts alone, and for responses after every so many tokens."""
        rows = range(len(batch.prompts))
        places = [(i, t) for i in rows
                  for t in range(every - 1, int(batch.mask[i].sum()) - 1, every)]
        begun = decode(
            self.tokenizer, [batch.ids[i, : batch.starts[i]].tolist() for i, _ in places],
            [batch.tokens[i, : t + 1].tolist() for i, t in places]) if places else []
        found = self._rewards(
            [*batch.prompts, *(batch.prompts[i] for i, _ in places)], [*("" for _ in rows), *begun])
        start, found = found[: len(rows)], found[len(rows) :]
        opinions, asked = torch.zeros_like(batch.mask), torch.zeros_like(batch.mask)
        for (i, t), value in zip(places, found, strict=True):
            opinions[i, t], asked[i, t] = (value - start[i]) / self.reward_sd, 1
        batch.early = rewards_on_the_way(opinions, asked)
        batch.prompt_scores = (start - self.reward_mean) / self.reward_sd

    def _rewards(self, all_prompts: list[str], all_responses: list[str]) -> torch.Tensor:
        """What the reward function gives, (n,) float32, each process asking for its share."""
        mine = self._share(list(range(len(all_prompts))))
        prompts, responses = [all_prompts[r] for r in mine], [all_responses[r] for r in mine]
        values = torch.as_tensor(np.asarray(self.reward_fn(prompts, responses), dtype=np.float64))
        if values.shape != (len(mine),):
            raise UserError(
                f"The reward function returned shape {tuple(values.shape)} for {len(mine)} "
                "responses; it must return one number per response."
            )
        pairs = sorted(self._gather(list(zip(mine, values.tolist(), strict=True))))
        scores = torch.tensor([value for _, value in pairs], dtype=torch.float64)
        bad = (~scores.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteError(
                f"PPO stopped at update {self.step + 1}: the reward function gave "
                f"{scores[bad[0]].item()} for the response {all_responses[bad[0]][:60]!r} to the "
                f"prompt {all_prompts[bad[0]][-60:]!r}; rewards must be finite numbers."
            )
        return scores.float()

    def _fit_normaliser(self, prompts: list[str]) -> None:
        """Mean and standard deviation of the reward on responses of the reference."""
        c = self.config
        count = min(max(c.normalise_samples, 2), max(len(prompts), c.batch_size))
        rows = prompt_rows(len(prompts), c.seed + 1, 0, count)
        with self._reference_mode():
            batch = self._sample([prompts[r] for r in rows], step_seed(c.seed, -1), self.reference)
        scores = self._score(batch).double()
        spread = scores.std(correction=0).item()
        if spread == 0:
            raise UserError(
                f"The reward function gave {scores[0].item():g} for all {count} responses of the "
                "reference: with no difference between responses there is nothing to learn."
            )
        self.reward_mean, self.reward_sd = scores.mean().item(), spread

    # ------------------------------------------------------------------ learning

    def _learn(self, batch: Batch, kl_coef: float) -> dict[str, float]:
        """Old log-probabilities, rewards, advantages, then all epochs over the batch."""
        c = self.config
        n = len(batch.prompts)
        everyone = list(range(n))
        # The graph of the whole batch is held from the recording pass to the first backward pass.
        held = self._with_less_memory(lambda: self._record(
            batch, everyone, keep_graph=self.mini_batch_size == n and self.micro_batch_size >= n
        ))
        kl_k1 = ppo.kl_estimate(batch.logprobs, batch.reference_logprobs, "k1") * batch.mask
        kl_k3 = ppo.kl_estimate(batch.logprobs, batch.reference_logprobs, "k3") * batch.mask
        rewards = batch.early + self.reward_tokens_fn(
            batch.scores - batch.prompt_scores - batch.early.sum(1), batch.logprobs,
            batch.reference_logprobs, batch.mask, kl_coef, c.kl_estimator,
        )
        if c.whiten_rewards:
            rewards = ppo.whiten(rewards, batch.mask, shift_mean=False)
        advantages, batch.returns = self.advantage_fn(
            rewards, batch.values, batch.mask, c.gamma, c.lam
        )
        batch.advantages = ppo.whiten(advantages, batch.mask) if c.whiten_advantages else advantages
        real = advantages[batch.mask.bool()]
        measures = {
            "kl": kl_k1.sum(1).mean().item(),
            "kl_k3": kl_k3.sum(1).mean().item(),
            "kl_exact": (batch.kl * batch.mask).sum(1).mean().item(),
            "entropy": ppo.masked_mean(batch.entropy, batch.mask).item(),
            "explained_variance": ppo.explained_variance(batch.values, batch.returns, batch.mask),
            "advantage_mean": real.mean().item(),
            "advantage_sd": real.std(correction=0).item(),
        }
        steps: list[dict[str, float]] = []
        for epoch in range(c.epochs):
            generator = torch.Generator().manual_seed(step_seed(c.seed, self.step) + 1 + epoch)
            order = torch.randperm(n, generator=generator).tolist()
            for start in range(0, n, self.mini_batch_size):
                rows = order[start : start + self.mini_batch_size]
                whole = self.mini_batch_size >= n
                steps.append(self._step(batch, everyone if whole else rows, held))
                held = None
            limit = c.stop_epoch_kl
            if limit is not None and steps[-1]["approx_kl"] > limit:
                break
        return {
            **measures,
            **{key: float(np.mean([s[key] for s in steps])) for key in steps[0]},
            "ratio_max": max(s["ratio_max"] for s in steps),
            "optimiser_steps": len(steps),
        }

    def _record(self, batch: Batch, rows: list[int], keep_graph: bool):
        """Log-probabilities of policy and reference, values, entropy and exact KL per token."""
        names = ("logprobs", "values", "reference_logprobs", "entropy", "kl")
        recorded = {name: torch.zeros_like(batch.mask) for name in names}
        held, t = [], self.config.temperature
        with self._packed():
            for part in self._parts(batch, rows):
                with torch.no_grad(), self._reference_mode():
                    reference = self._logits(batch, part)
                with contextlib.nullcontext() if keep_graph else torch.no_grad():
                    where, tokens, logits, values = self._forward(batch, part, sync=False)
                    logprobs = chosen_logprobs(logits, tokens, t)
                theirs = chosen_logprobs(reference, tokens, t)
                numbers = (logprobs, values, theirs, *entropy_and_kl(logits, reference, t))
                for name, column in zip(names, numbers, strict=True):
                    recorded[name][where] = column.detach().float().cpu()
                if keep_graph:
                    held.append((part, where, logits, logprobs, values))
        for name in names:
            setattr(batch, name, self._reduce(recorded[name]))
        self._check_finite(batch, rows, batch.logprobs, "log-probability")
        return held if keep_graph else None

    def _step(self, batch: Batch, rows: list[int], held: list | None) -> dict[str, float]:
        """One optimiser step on a mini-batch, in micro-batches; smaller ones if memory runs out."""
        parts = [held]

        def attempt() -> dict[str, float]:
            self.optimiser.zero_grad(set_to_none=True)
            with self._packed():
                return self._try_step(batch, rows, parts.pop() if parts else None)

        return self._with_less_memory(attempt)

    def _with_less_memory(self, attempt: Callable[[], Any]) -> Any:
        """Call `attempt`, and again with half the micro-batch each time memory runs out."""
        while True:
            try:
                return attempt()
            except RuntimeError as error:
                if not _out_of_memory(error) or self.accelerator.num_processes > 1:
                    raise
                if self.micro_batch_size == 1:
                    raise UserError(
                        f"PPO ran out of memory at update {self.step + 1} with micro-batches of "
                        "one episode; use shorter prompts or responses, LoRA, bfloat16 or "
                        "gradient_checkpointing."
                    ) from error
            self.micro_batch_size = max(1, min(self.micro_batch_size, self.config.batch_size) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(
                f"PPO ran out of memory at update {self.step + 1}; trying again with "
                f"micro_batch_size = {self.micro_batch_size}.", stacklevel=2,
            )

    def _try_step(self, batch: Batch, rows: list[int], held: list | None) -> dict[str, float]:
        c = self.config
        total = batch.mask[rows].sum().item()
        world = self.accelerator.num_processes
        sums = torch.zeros(6, dtype=torch.float64)
        ratio_max, problem = 0.0, torch.zeros(len(batch.prompts))
        parts = [h[0] for h in held] if held else self._parts(batch, rows)
        # A graph that was recorded in pieces is differentiated in one pass over all of them.
        joint = 0.0
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            if held:
                _, where, logits, logprobs, values = held[i]
                tokens = None
            else:
                where, tokens, logits, values = self._forward(batch, part, sync=last)
                logprobs = chosen_logprobs(logits, tokens, c.temperature)
            device = logprobs.device
            old, advantages, old_values, returns = (
                tensor[where].to(device)
                for tensor in (batch.logprobs, batch.advantages, batch.values, batch.returns)
            )
            ones = torch.ones_like(logprobs)
            share = len(logprobs) / total
            policy = self.policy_loss_fn(logprobs, old, advantages, ones, c.clip_range)
            value = ppo.value_loss(values, old_values, returns, ones, c.value_clip_range)
            loss = policy + c.value_coef * value
            if c.entropy_coef:
                entropy = ppo.entropy_from_logits(logits, c.temperature).mean()
                loss = loss - c.entropy_coef * entropy
            with torch.no_grad():
                difference = logprobs - old
                ratio = difference.exp()
                finite = ratio.isfinite() & values.isfinite() & advantages.isfinite()
                problem[where[0][(~finite).cpu()]] = 1
                ratio_max = max(ratio_max, ratio.max().item())
                sums += share * torch.tensor([
                    policy.item(), value.item(),
                    ((ratio - 1).abs() > c.clip_range).float().mean().item(),
                    ((values - old_values).abs() > c.value_clip_range).float().mean().item(),
                    (torch.expm1(difference) - difference).mean().item(),
                    ratio.mean().item(),
                ], dtype=torch.float64)
            # DDP averages over processes what this sum over the mini-batch must add up.
            loss = loss * share * world
            if held:
                joint = joint + loss
            else:
                with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                    self.accelerator.backward(loss)
        if held:
            self.accelerator.backward(joint)
            self._average_gradients()
        self._check_step(batch, rows, problem, sums)
        clipped = self.accelerator.clip_grad_norm_(self._trainable, c.max_grad_norm)
        norm = cast(torch.Tensor, clipped)  # None under DeepSpeed and the like
        if not torch.isfinite(norm):
            self._stop(rows, f"the gradient's norm is {norm.item()}")
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        sums = self._reduce(sums)
        names = ("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction",
                 "approx_kl", "ratio_mean")
        return {
            **dict(zip(names, sums.tolist(), strict=True)),
            "ratio_max": max(self._gather([ratio_max])),
            "grad_norm": norm.item(),
        }

    # ------------------------------------------------------------------ passes through the models

    def _parts(self, batch: Batch, rows: list[int]) -> list[list[int]]:
        """This process's rows of a mini-batch, longest first, cut into micro-batches."""
        rows = self._share(sorted(rows, key=lambda row: (-int(batch.lengths[row]), row)))
        buckets = 1 if self.packs else min(self.length_buckets, len(rows))
        count = max(-(-len(rows) // self.micro_batch_size), buckets)
        size = -(-len(rows) // count)
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def _inputs(self, batch: Batch, part: list[int]):
        """What a trunk is called with for some rows, and where it predicts their response tokens.

        Returns where (rows and columns in the batch's per-token tensors), the trunk's inputs, rows
        and columns in its input_ids, and the response tokens (N,).
        """
        index = torch.tensor(part)
        lengths = batch.lengths[index]
        row, column = batch.mask[index].nonzero(as_tuple=True)
        where = (index[row], column)
        columns = batch.starts[index][row] + column - 1
        device = self.accelerator.device
        ids = batch.ids[index, : int(lengths.max())]
        inputs = {"input_ids": ids.to(device)}
        if self.packs:
            layout = Layout(lengths.long().tolist(), self.length_buckets, device)
            real = torch.arange(ids.shape[1]) < lengths[:, None]
            inputs = {"input_ids": ids[real][None].to(device), "position_ids": layout.positions,
                      "layout": layout}
            columns = (lengths.cumsum(0) - lengths).long()[row] + columns
            row = torch.zeros_like(row)
        return where, inputs, row.to(device), columns.to(device), batch.tokens[where].to(device)

    def _forward(self, batch: Batch, part: list[int], sync: bool):
        where, inputs, rows, columns, tokens = self._inputs(batch, part)
        with contextlib.nullcontext() if sync else self.accelerator.no_sync(self.model):
            with self._autocast():
                logits, values = self.model(inputs, rows, columns)
        return where, tokens, logits, values

    def _logits(self, batch: Batch, part: list[int]) -> torch.Tensor:
        """The reference's logits at the response tokens of some rows."""
        _, inputs, rows, columns, _ = self._inputs(batch, part)
        model = self.accelerator.unwrap_model(self.model)
        with self._autocast():
            if self.reference is None:
                return model(inputs, rows, columns, critic=False)[0]
            states = states_at(self.reference, inputs, rows, columns)
            return float32_logits(self.reference, states)

    def _packed(self):
        """Within it, attention is that of packed rows, on the way back too."""
        return packed_attention(*self._models) if self.packs else contextlib.nullcontext()

    def _reference_mode(self):
        """Within it, a policy without a separate reference has its adapters switched off."""
        if self.reference is not None:
            return contextlib.nullcontext()
        return self.policy.disable_adapter()

    def _autocast(self):
        return torch.autocast(
            self.accelerator.device.type, torch.bfloat16, self.config.precision == "bfloat16"
        )

    # ------------------------------------------------------------------ several processes

    def _share(self, rows: list[int]) -> list[int]:
        return rows[self.accelerator.process_index :: self.accelerator.num_processes]

    def _gather(self, items: list) -> list:
        if self.accelerator.num_processes == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def _reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over processes; each has filled in its own rows and left 0 elsewhere."""
        if self.accelerator.num_processes == 1:
            return tensor
        summed = self.accelerator.reduce(tensor.to(self.accelerator.device), "sum")
        return cast(torch.Tensor, summed).cpu()

    def _average_gradients(self) -> None:
        """What DDP does after a backward pass, for a graph recorded outside its bookkeeping."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in self._trainable:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            mean = self.accelerator.reduce(parameter.grad, "mean")
            parameter.grad = cast(torch.Tensor, mean)

    # ------------------------------------------------------------------ stopping and going on

    def _check_finite(self, batch: Batch, rows, numbers: torch.Tensor, what: str) -> None:
        bad = (~numbers.isfinite()).any(1).nonzero().flatten().tolist()
        if bad:
            self._stop(bad, f"a {what} is not a finite number")

    def _check_step(self, batch: Batch, rows, problem: torch.Tensor, sums: torch.Tensor) -> None:
        bad = self._reduce(problem).nonzero().flatten().tolist()
        if bad:
            self._stop(bad, "a ratio, value or advantage is not a finite number")
        if not self._reduce(sums.clone()).isfinite().all():
            self._stop(rows, "the loss is not a finite number")

    def _stop(self, rows: list[int], what: str) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        kept = self.last_checkpoint()
        raise NonFiniteError(
            f"PPO stopped at update {self.step + 1}, before its step was taken: {what}, in "
            f"episodes {sorted(rows)[:8]} of the batch; lower learning_rate (now "
            f"{self.config.learning_rate:g}) or raise kl_coef, and look at those prompts and "
            "rewards. " + (f"The last good checkpoint is {kept}." if kept else "No checkpoint yet.")
        )

    def last_checkpoint(self) -> Path | None:
        """Folder of the newest complete checkpoint."""
        return checkpoints.newest(self.checkpoint_dir)

    def save_checkpoint(self) -> Path:
        """Write all that a resumed run needs, aside and then renamed; earlier ones are removed."""
        if self.checkpoint_dir is None:
            raise UserError("PPO: a checkpoint needs checkpoint_dir, a folder to write to.")
        if self.accelerator.is_main_process:
            checkpoints.write(
                self.checkpoint_dir, self.step, self._trained_tensors(),
                self.optimiser.state_dict(), {
                    "step": self.step, "kl_coef": self.controller.coef, "history": self.history,
                    "reward_mean": self.reward_mean, "reward_sd": self.reward_sd,
                    "micro_batch_size": self.micro_batch_size, "config": asdict(self.config)})
        self.accelerator.wait_for_everyone()
        return checkpoints.place(self.checkpoint_dir, self.step)

    def _trained_tensors(self) -> dict[str, torch.Tensor]:
        """What training changes: with adapters, the adapters and the critic alone."""
        model = self.accelerator.unwrap_model(self.model)
        return {name: p.data for name, p in model.named_parameters() if p.requires_grad}

    def _load_checkpoint(self) -> bool:
        folder = self.last_checkpoint()
        if folder is None:
            return False
        tensors, optimiser, state = checkpoints.read(
            folder, asdict(self.config), may_differ=("checkpoint_every",))
        with torch.no_grad():
            for name, tensor in self._trained_tensors().items():
                tensor.copy_(tensors[name])
        self.optimiser.load_state_dict(optimiser)
        self.step, self.history = state["step"], state["history"]
        self.reward_mean, self.reward_sd = state["reward_mean"], state["reward_sd"]
        self.controller.coef = state["kl_coef"]
        self.micro_batch_size = state["micro_batch_size"]
        return True


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values that every tracker accepts."""
    return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in config.items()}
