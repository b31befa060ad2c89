"""What the first nats of KL buy on notebook 06's task, within the notebook's episodes.

    python benchmarks/first_nats.py [--seeds 0 1 2] [--arms NAME …] [--threads 1] [--keep]

Every arm trains a policy on the same number of episodes and changes one thing of the first arm, or,
where its name says so, several. A policy is measured on held-out prompts at the end; its gain is
divided by that of best-of-n at the same KL (the draws that ppo_long.json has stored, of the same
models and task). What a policy pays besides its episodes is counted as episodes as well: those that
warm up a critic or fit a normaliser are taken from its training.

`--keep` adds the arms and seeds that are not stored yet, if models and task are the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.shared import imdb_task, store
from helpers import course, evaluation, ppo_trainer, trl_adapter
from helpers.engine.place import inner_model
from helpers.engine.tokens import decode, encode_prompts
from helpers.errors import UserError
from helpers.paths import ROOT

EPISODES = 1536
# What each arm changes: `task` of the profile's `ppo_trl`, `ours` of PPOConfig, `trl` of TRL's.
FIRST = {"learning_rate": 7e-4, "batch_size": 128, "mini_batches": 4, "epochs": 2, "kl_coef": 0.15,
         "warmup_updates": 2, "total_episodes": EPISODES, "score_every": None}
ARMS: dict[str, dict] = {
    "as it was": {},
    "TRL, as it was": {"trainer": "TRL"},
    "TRL, batch / 2": {"trainer": "TRL", "task": {"batch_size": 64}},
    "TRL, learning rate / 2": {"trainer": "TRL", "task": {"learning_rate": 3.5e-4}},
    "TRL, twice the epochs": {"trainer": "TRL", "task": {"epochs": 4}},
    "learning rate / 2": {"task": {"learning_rate": 3.5e-4}},
    "learning rate / 2, twice the epochs": {"task": {"learning_rate": 3.5e-4, "epochs": 4}},
    "batch / 2": {"task": {"batch_size": 64}},
    "8 responses to each prompt": {"group": 8},
    "critic warmed up for 2 updates": {"warm": 2},
    "reward scaled to variance 1": {"ours": {"normalise_reward": True}},
    "λ = 1": {"ours": {"lam": 1.0}},
    "KL by k3": {"ours": {"kl_estimator": "k3"}},
    "β × 2": {"task": {"kl_coef": 0.3}},
    "β / 3": {"task": {"kl_coef": 0.05}},
    "gradient clipped to 1": {"ours": {"max_grad_norm": 1.0}},
    "embeddings frozen": {"freeze": True},
    "value clip × 50": {"task": {"value_clip_range": 10.0}},
    "batch / 2, learning rate × 0.6, 3 epochs, β / 3": {
        "task": {"batch_size": 64, "learning_rate": 4e-4, "epochs": 3, "kl_coef": 0.05}},
    "paid on the way, every 3 tokens": {"task": {"score_every": 3}},
    "paid on the way, every 2 tokens": {"task": {"score_every": 2}},
    "paid on the way, β × 1.5": {"task": {"score_every": 3, "kl_coef": 0.22}},
    "paid on the way, 3 epochs": {"task": {"score_every": 3, "epochs": 3}},
    "paid on the way, twice the epochs": {"task": {"score_every": 3, "epochs": 4}},
    "paid on the way, λ = 1": {"task": {"score_every": 3}, "ours": {"lam": 1.0}},
    "paid on the way, batch / 2, β × 1.5": {
        "task": {"score_every": 3, "kl_coef": 0.225, "batch_size": 64}},
    "paid on the way, batch / 2, learning rate × 0.7": {
        "task": {"score_every": 3, "learning_rate": 5e-4, "batch_size": 64}},
    "paid on the way, batch / 2": {"task": {"score_every": 3, "batch_size": 64}},
    "only biases and norms, learning rate × 7": {"freeze": "all", "task": {"learning_rate": 5e-3}},
    "RLOO by TRL": {"trainer": "RLOO", "group": 8},
    "RLOO by TRL, every batch used once": {
        "trainer": "RLOO", "group": 8, "task": {"batch_size": 32, "mini_batches": 1, "epochs": 1}},
    "RLOO by TRL, used once, learning rate / 2": {
        "trainer": "RLOO", "group": 8, "task": {
            "batch_size": 32, "mini_batches": 1, "epochs": 1, "learning_rate": 3.5e-4}},
    "GRPO by TRL": {"trainer": "GRPO", "group": 8},
    "GRPO by TRL, every batch used once": {
        "trainer": "GRPO", "group": 8, "task": {"batch_size": 32, "mini_batches": 1, "epochs": 1}},
    "one step for a whole batch, 4 epochs, learning rate × 0.7": {
        "task": {"mini_batches": 1, "epochs": 4, "learning_rate": 5e-4}},
}


def freeze_embeddings(policy, how: bool | str = True) -> None:
    """Leave the (tied) embedding and the positions as they are; "all": every matrix."""
    inner = inner_model(policy)
    if how == "all":
        for name, weights in inner.named_parameters():
            weights.requires_grad_(name.endswith("bias") or ".ln_" in name)
        return
    for module in (inner.get_input_embeddings(), getattr(inner.transformer, "wpe", None)):
        if module is not None:
            module.requires_grad_(False)


def against_siblings(reward_fn):
    """The reward less the mean of the other responses to the same prompt in the batch."""
    def difference(prompts, responses):
        scores = np.asarray(reward_fn(prompts, responses), dtype=np.float64)
        rows = defaultdict(list)
        for i, prompt in enumerate(prompts):
            rows[prompt].append(i)
        out = scores.copy()
        for of in rows.values():
            if len(of) > 1:
                out[of] = (scores[of] - scores[of].mean()) * len(of) / (len(of) - 1)
        return out
    return difference


def train_ours(job, settings, arm: dict):
    """One run of the course's trainer on EPISODES episodes; returns the policy."""
    spent = arm.get("warm", 0) * job.task.batch_size
    changes = dict(arm.get("ours", {}))
    if changes.get("normalise_reward"):
        changes["normalise_samples"] = 2 * job.task.batch_size
        spent += changes["normalise_samples"]
    updates = (EPISODES - spent) // job.task.batch_size
    config = trl_adapter.our_config(settings, updates=updates, **changes)
    policy = copy.deepcopy(job.policy)
    value_model = trl_adapter.new_value_model(job.policy, job.tokenizer.pad_token_id)
    if arm.get("warm"):
        still = copy.deepcopy(policy).requires_grad_(False)
        ppo_trainer.PPO(still, job.reference, job.reward_fn, job.tokenizer, trl_adapter.our_config(
            settings, updates=arm["warm"], warmup_updates=0, anneal=False, **changes),
            value_model=value_model).train(job.train[-spent:])
        value_model.requires_grad_(True)
    if arm.get("freeze"):
        freeze_embeddings(policy, arm["freeze"])
    group = arm.get("group", 1)
    trainer = ppo_trainer.PPO(
        policy, job.reference, against_siblings(job.reward_fn) if group > 1 else job.reward_fn,
        job.tokenizer, config, value_model=value_model)
    if group == 1:
        trainer.train(job.train)
    else:
        size = config.batch_size // group
        for step in range(updates):
            trainer.update(job.train[step * size : (step + 1) * size])
    return trainer.policy


def train_trl(job, settings, arm: dict):
    """One run of TRL's PPOTrainer on EPISODES episodes; returns the policy."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOTrainer

    width = job.task.prompt_tokens_max
    prompts = Dataset.from_list(trl_adapter.pad_prompts(job.train, job.tokenizer, width))
    policy = copy.deepcopy(job.policy)
    if arm.get("freeze"):
        freeze_embeddings(policy)
    with tempfile.TemporaryDirectory() as folder, trl_adapter.quiet():
        config = trl_adapter.trl_config(settings, folder)
        for key, value in arm.get("trl", {}).items():
            setattr(config, key, value)
        trainer = PPOTrainer(
            args=config, processing_class=job.tokenizer, model=policy, ref_model=job.reference,
            train_dataset=prompts,
            reward_model=trl_adapter.TextReward(job.reward_fn, job.tokenizer, width),
            value_model=trl_adapter.new_value_model(job.policy, job.tokenizer.pad_token_id))
        trl_adapter.train_quietly(trainer)
    return trainer.accelerator.unwrap_model(trainer.model).policy.eval()


def train_group(job, settings, arm: dict):
    """One run of TRL's RLOOTrainer or GRPOTrainer on EPISODES episodes; returns the policy.

    RLOO takes β times the KL off the reward; GRPO adds it to the loss, and there its advantages are
    not divided by the group's spread (Liu et al. 2025), which would change what β is worth.
    """
    import trl
    from datasets import Dataset

    task, policy = job.task, copy.deepcopy(job.policy)
    tokenizer = copy.deepcopy(job.tokenizer)
    steps = task.epochs * task.mini_batches

    def judged(prompts, completion_ids, **_):
        texts = decode(tokenizer, encode_prompts(tokenizer, prompts), completion_ids)
        return [float(score) for score in job.reward_fn(prompts, texts)]

    own = ({"normalize_advantages": True} if arm["trainer"] == "RLOO" else
           {"scale_rewards": "none", "loss_type": "dr_grpo", "use_bias_correction_kl": True})
    with tempfile.TemporaryDirectory() as folder, trl_adapter.quiet():
        trl_adapter.ready_for_trl(policy, tokenizer, folder=folder)
        updates = EPISODES // task.batch_size
        config = getattr(trl, f"{arm['trainer']}Config")(
            output_dir=folder, report_to="none", save_strategy="no", disable_tqdm=True,
            seed=settings.seed, use_cpu=True, bf16=False, gradient_checkpointing=False,
            dataloader_pin_memory=False, logging_steps=steps, disable_dropout=True,
            max_steps=updates * steps, warmup_steps=task.warmup_updates * steps,
            num_iterations=task.epochs, steps_per_generation=task.mini_batches,
            per_device_train_batch_size=task.batch_size // task.mini_batches,
            num_generations=arm["group"], max_completion_length=task.max_new_tokens,
            temperature=task.temperature, beta=task.kl_coef, learning_rate=task.learning_rate,
            lr_scheduler_type="linear", adam_epsilon=1e-5, **{**own, **arm.get("trl", {})})
        trainer = getattr(trl, f"{arm['trainer']}Trainer")(
            model=policy, reward_funcs=judged, args=config, processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": p} for p in job.train]))
        trl_adapter.train_quietly(trainer)
    return policy.eval()


def best_of_n(made_of: str) -> dict:
    """Best-of-n's gain in reward against its KL, as ppo_long.json has it for this task."""
    path = ROOT / "benchmarks" / "results" / "ppo_long.json"
    deep = json.loads(path.read_text(encoding="utf-8"))
    if deep["made_of"] != made_of:
        raise SystemExit("ppo_long.json has draws of other models or another task; run "
                         "benchmarks/ppo_long.py first.")
    rows = [row for row in deep["rows"] if row["trainer"] == "best of n"]
    return {"kl": np.array([r["kl"] for r in rows]),
            "reward": np.array([r["reward_gain"] for r in rows])}


def summary(rows: list[dict]) -> dict:
    """For each arm the mean over its seeds, and the ends of its share and its objective."""
    arms: dict[str, list[dict]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    out = {}
    for name, of in arms.items():
        shares = [row["share"] for row in of]
        paid = [row["objective_gain"] for row in of]
        out[name] = {"seeds": len(of), "share": round(float(np.mean(shares)), 3),
                     "share_low": min(shares), "share_high": max(shares),
                     "objective_low": min(paid), "objective_high": max(paid)} | {
            key: round(float(np.mean([row[key] for row in of])), 3)
            for key in ("kl", "reward_gain", "objective_gain", "gold_gain", "seconds")}
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--keep", action="store_true", help="add to the rows that are stored")
    arguments = parser.parse_args()
    if unknown := set(arguments.arms) - set(ARMS):
        parser.error(f"no arm {min(unknown)!r}; there are {', '.join(ARMS)}.")
    path = ROOT / "benchmarks" / "results" / "first_nats.json"
    found = json.loads(path.read_text(encoding="utf-8")) if arguments.keep and path.exists() else {}
    rows, before = list(found.get("rows", [])), None
    for name in arguments.arms:
        arm = ARMS[name]
        task = FIRST | arm.get("task", {})
        overrides = {f"ppo_trl.{key}": value for key, value in task.items()}
        job = imdb_task.Job(overrides | {"threads": arguments.threads}, arguments.prompts)
        if found and found["made_of"] != job.made_of:
            raise SystemExit("what is stored belongs to other models or another task.")
        curve, before = best_of_n(job.made_of), job.before
        for seed in arguments.seeds:
            if any((row["arm"], row["seed"]) == (name, seed) for row in rows):
                continue
            settings = course.start("embedded", job.overrides, seed)
            start = time.process_time()
            train = {"TRL": train_trl, "RLOO": train_group, "GRPO": train_group}.get(
                arm.get("trainer", ""), train_ours)
            try:
                policy = train(job, settings, arm)
            except UserError as error:
                print(f"{name}, seed {seed}: {error}", flush=True)
                continue
            seconds = time.process_time() - start
            row = job.measure(policy)
            row |= {"arm": name, "seed": seed, "seconds": round(seconds, 1), **job.gains(row)}
            share = evaluation.share_of_best_of_n(row["reward_gain"], row["kl"], curve)
            row["share"] = None if math.isnan(share) else round(share, 3)
            row["objective_gain"] = round(row["reward_gain"] - FIRST["kl_coef"] * row["kl"], 4)
            rows.append(row)
            print(f"{name:<40} seed {seed}: gain {row['reward_gain']:5.2f} at {row['kl']:5.2f}"
                  f" nats, share {row['share']}, gold {row['gold_gain']:.3f}, distinct "
                  f"{row['distinct']:.2f}, {seconds:.0f} s of processor", flush=True)
            store.save("first_nats", rows, made_of=job.made_of, before=before, first=FIRST,
                       changes={key: value for key, value in ARMS.items()
                                if any(row["arm"] == key for row in rows)},
                       arms=summary(rows), threads_used=arguments.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
