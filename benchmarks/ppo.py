"""Episodes per second of the course's PPO trainer and of TRL's, run in turn on the same work.

    python benchmarks/ppo.py [--rounds 3] [--updates 4] [--threads 2]

Needs the stage `sft` of the embedded profile and makes it if it is missing: that model ends its
answers by itself, so that responses have their natural length. Same model, prompts, reward model,
response length, batch, epochs, optimiser steps and precision. Three trainers: TRL's PPOTrainer;
ours with a separate value model, as TRL has one; ours with the value head on the policy's trunk.
Two precisions: float32, and bfloat16 by autocast, in which the course trains where the processor
has it. Two kinds of responses: of natural length, and always of full length (the end-of-text token
banned). Each round runs every trainer once, its first update is not counted, and the best round of
each stands for it, as on a busy machine the others measure the neighbours. Processor seconds stand
beside: they do not count what else the machine was doing.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import _store
import numpy as np
import torch

from helpers import course, data, models, ppo_trainer, reward, trl_adapter
from helpers.profiles import load_profile

BATCH, EPOCHS, NEW_TOKENS, PROMPT_TOKENS = 64, 4, 48, 32
GOALS = {"ours, separate value model": 2.5, "ours, value head on trunk": 4.0}


def matmul_rate(precision: str, size: int = 1024, seconds: float = 0.5) -> float:
    """GFLOP per second that this machine reaches on square products."""
    a = torch.randn(size, size, dtype=getattr(torch, precision))
    rates = []
    for _ in range(3):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            a @ a
            count += 1
        rates.append(2 * size**3 * count / (time.perf_counter() - start) / 1e9)
    return max(rates)


def episode_gflop(policy, prompt: float, response: float, value_model: bool) -> float:
    """Products that one episode needs at least: no padding, no pass made twice.

    Sampling and the reference read each token once, each epoch goes forward and backward (three
    times one pass); logits are needed at response tokens only. The reward model reads it once.
    """
    c = policy.config
    blocks = 12 * c.n_layer * c.n_embd**2
    head = c.vocab_size * c.n_embd
    tokens = prompt + response
    trunk_passes = 1 + 1 + 1 + 3 * EPOCHS * (2 if value_model else 1)
    head_passes = 1 + 1 + 3 * EPOCHS
    return 2 * (blocks * tokens * trunk_passes + head * response * head_passes) / 1e9


def ban(model, token: int):
    """Make a model's logit of one token very low; returns the hook."""

    def hook(module, inputs, output):
        output = output.clone()
        output[..., token] = -1e4
        return output

    return model.get_output_embeddings().register_forward_hook(hook)


class Job:
    """What all trainers share: models made anew for each run from the same weights."""

    def __init__(self, settings, full_length: bool, precision: str = "float32"):
        self.policy, self.tokenizer = models.load_stage(settings, "sft")
        models.disable_dropout(self.policy)
        self.full_length, self.precision = full_length, precision
        rows = data.load_demonstrations(settings, "train")
        encoded = [self.tokenizer(r["prompt"], add_special_tokens=False)["input_ids"] for r in rows]
        kept = [r["prompt"] for r, ids in zip(rows, encoded, strict=True)
                if len(ids) <= PROMPT_TOKENS]
        self.prompts = list(dict.fromkeys(kept))[:512]
        torch.manual_seed(1)
        self.reward_model = models.new_reward_model(self.policy, self.tokenizer, settings)
        reward.set_normalisation(self.reward_model, [-1.0, 1.0])  # as it is: mean 0, spread 1

    def models(self):
        policy, reference = copy.deepcopy(self.policy), copy.deepcopy(self.policy)
        if self.full_length:
            for model in (policy, reference):
                ban(model, self.tokenizer.eos_token_id)
        return policy, reference


def run_ours(job: Job, updates: int, separate: bool) -> dict:
    """One run of our trainer; the first update is left out of the rate."""
    policy, reference = job.models()
    value_model = None
    if separate:
        value_model = trl_adapter.new_value_model(job.policy, job.tokenizer.pad_token_id)
    config = ppo_trainer.PPOConfig(
        updates=updates + 1, batch_size=BATCH, epochs=EPOCHS, max_new_tokens=NEW_TOKENS,
        learning_rate=1e-6, normalise_reward=False, missing_eos_penalty=0.0,
        precision=job.precision,
    )
    clock: list[tuple[float, float]] = []
    trainer = ppo_trainer.PPO(
        policy, reference, reward.reward_function(job.reward_model, job.tokenizer), job.tokenizer,
        config, value_model=value_model,
        callbacks=[lambda t, row: clock.append((time.perf_counter(), time.process_time()))],
    )
    history = trainer.train(job.prompts)[1:]
    parts = ("generation_seconds", "scoring_seconds", "optimisation_seconds")
    return {
        **_rates(clock, updates),
        **{part: float(np.mean([row[part] for row in history])) for part in parts},
        "response_length": float(np.mean([row["response_length"] for row in history])),
    }


def run_trl(job: Job, updates: int) -> dict:
    """One run of TRL's trainer on the same work."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, reference = job.models()
    clock: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            clock.append((time.perf_counter(), time.process_time()))

    rows = trl_adapter.pad_prompts(job.prompts, job.tokenizer, PROMPT_TOKENS)
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(), report_to="none", save_strategy="no",
        bf16=job.precision == "bfloat16",
        num_sample_generations=0, disable_tqdm=True, use_cpu=True, gradient_checkpointing=False,
        total_episodes=BATCH * (updates + 1), per_device_train_batch_size=BATCH,
        num_mini_batches=1, num_ppo_epochs=EPOCHS, local_rollout_forward_batch_size=BATCH,
        response_length=NEW_TOKENS, temperature=1.0, stop_token="eos", learning_rate=1e-6,
        kl_coef=0.05, gamma=1.0, lam=0.95, adam_epsilon=1e-5,
    )
    with trl_adapter.quiet():
        trainer = PPOTrainer(
            args=config, processing_class=job.tokenizer, model=policy, ref_model=reference,
            reward_model=copy.deepcopy(job.reward_model), train_dataset=Dataset.from_list(rows),
            value_model=trl_adapter.new_value_model(job.policy, job.tokenizer.pad_token_id),
            callbacks=[Clock()],
        )
        trl_adapter.train_quietly(trainer)
    return _rates(clock, updates)


def _rates(clock: list[tuple[float, float]], updates: int) -> dict:
    wall, cpu = (clock[-1][i] - clock[0][i] for i in (0, 1))
    episodes = BATCH * updates
    return {"episodes_per_second": episodes / wall, "cpu_seconds_per_episode": cpu / episodes}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = load_profile("embedded")
    course.require("sft", settings)
    trainers = {
        "TRL": run_trl,
        "ours, separate value model": lambda job, updates: run_ours(job, updates, True),
        "ours, value head on trunk": lambda job, updates: run_ours(job, updates, False),
    }
    rows, ratios, rates, missed = [], {}, {}, 0
    for precision in ("float32", "bfloat16"):
        rates[precision] = rate = matmul_rate(precision)
        print(f"\nmatrix products in {precision}: {rate:.0f} GFLOP/s, {arguments.threads} threads")
        for kind, full in (("natural length", False), ("full length", True)):
            job = Job(settings, full, precision)
            best: dict[str, dict] = {}
            for round_ in range(arguments.rounds):
                for name, run in trainers.items():
                    row = run(job, arguments.updates)
                    rows.append({"precision": precision, "responses": kind, "trainer": name,
                                 "round": round_, **row})
                    if row["episodes_per_second"] > best.get(name, {}).get(
                            "episodes_per_second", 0):
                        best[name] = row
            found = report(job, f"responses of {kind}, {precision}", best, rate)
            ratios |= {f"{name}, {kind}, {precision}": ratio for name, ratio in found.items()}
            missed += sum(ratio < GOALS[name] for name, ratio in found.items() if not full)
    print("stored:", _store.save(
        "ppo", rows, ratio=ratios, goals=GOALS, batch=BATCH, epochs=EPOCHS,
        max_new_tokens=NEW_TOKENS, matmul_gflops={k: round(v, 1) for k, v in rates.items()},
    ).name)
    return int(missed > 0)


def report(job: Job, title: str, best: dict[str, dict], rate: float) -> dict[str, float]:
    """Print a table of the best rows; returns our trainers' ratios to TRL's episodes per second."""
    print(f"\n{title}\n{'trainer':<28}{'episodes/s':>11}{'against TRL':>13}"
          f"{'CPU ms/episode':>16}{'CPU ratio':>11}{'of peak':>9}")
    ratios = {}
    prompt = np.mean([len(job.tokenizer(p)["input_ids"]) for p in job.prompts])
    for name, row in best.items():
        ratio = row["episodes_per_second"] / best["TRL"]["episodes_per_second"]
        cpu = best["TRL"]["cpu_seconds_per_episode"] / row["cpu_seconds_per_episode"]
        share = ""
        if name != "TRL":
            ratios[name] = round(ratio, 3)
            work = episode_gflop(job.policy, prompt, row["response_length"], "sep" in name)
            share = f"{work * row['episodes_per_second'] / rate:.0%}"
        print(f"{name:<28}{row['episodes_per_second']:>11.1f}{ratio:>13.2f}"
              f"{1000 * row['cpu_seconds_per_episode']:>16.1f}{cpu:>11.2f}{share:>9}", flush=True)
    for name, row in best.items():
        if name != "TRL":
            parts = {k: row[k] for k in row if k.endswith("_seconds")}
            print(f"{name}: " + ", ".join(
                f"{k.removesuffix('_seconds')} {v / sum(parts.values()):.0%}"
                for k, v in parts.items()))
    return ratios


if __name__ == "__main__":
    sys.exit(main())
