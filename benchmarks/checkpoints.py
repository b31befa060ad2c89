"""The run of notebook 05 and one without its KL term, checkpoint by checkpoint, under three judges.

    python benchmarks/checkpoints.py [--only judge best_of_n kl_0 free_0 kl_1] [--anew]

Needs the stages `sft` and `reward_model` of the embedded profile and makes them if they are
missing. A part takes a few minutes; what is stored is not run again unless `--anew`.

`judge` trains a second reward model on other pairs (of the test split) and on the base model before
fine-tuning, with a head of another seed; on the other test pairs and on the validation pairs both
are measured. It is kept in `runs/`, and no policy is trained on it.
`kl_SEED` is notebook 05's run with that seed; `free_SEED` has no KL term and more updates. Each
checkpoint answers held-out questions once, with the same random numbers: means of `gold`, `reward`
(the judge that PPO is paid by) and `second` (in its own unit), and KL in nats (k1), on the half of
the questions that one may choose a checkpoint by (`chosen_by`) and on the other (`reported`);
`train_reward` is what the trainer saw in that update. `best_of_n` draws from the SFT model, picks
by the reward model, and `at_random` by numbers that know nothing; its KL is the bound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from safetensors.torch import load_model, save_model

from benchmarks.shared import store
from helpers import course, data, evaluation, generation, models, reward, world
from helpers.paths import ROOT
from helpers.ppo_trainer import PPO, PPOConfig

SECOND = ROOT / "runs" / "checkpoints" / "second_judge.safetensors"
SECOND_PAIRS, JUDGED_PAIRS = 3000, 1000  # of the test split, to train on and to measure on
DRAWS = 16
FREE_UPDATES = 20
EVERY = 2  # updates between two checkpoints
PARTS = ("judge", "best_of_n", "kl_0", "free_0", "kl_1")


class Job:
    """Models, judges and questions that all parts share."""

    def __init__(self, threads: int, seed: int = 0) -> None:
        self.settings = course.start("embedded", {"threads": threads}, seed)
        self.seed, self.task = seed, self.settings.ppo
        self.reference, self.tokenizer = models.load_stage(self.settings, "sft")
        models.freeze(self.reference).eval()
        self.proxy = reward.load_reward_function(self.settings)
        self.prompts, self.test = data.policy_prompts(self.settings, self.tokenizer)
        self.second_model = self._new_judge()
        if SECOND.is_file():
            load_model(self.second_model, SECOND)
        self.second_model.eval()

    def _new_judge(self) -> Any:
        torch.manual_seed(1234)
        backbone, tokenizer = models.load_base(self.settings)
        return models.new_reward_model(backbone, tokenizer, self.settings)

    def sample(self, model: Any, seed: int) -> Any:
        """One answer to each held-out question."""
        return generation.sample(model, self.tokenizer, self.test, self.task.max_new_tokens,
                                 self.task.temperature, seed=seed, batch_size=128)

    def judged(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Each judge's scores of one answer to each question, (questions,)."""
        texts = [text.strip() for text in texts]
        return {"gold": np.array([world.gold_utility(p, t)
                                  for p, t in zip(self.test, texts, strict=True)]),
                "reward": np.asarray(self.proxy(self.test, texts)),
                "second": reward.score(self.second_model, self.tokenizer, self.test, texts)}

    def measure(self, policy: Any) -> dict[str, Any]:
        """Means over the two halves of the questions, and the scores of the reported half."""
        rollout = self.sample(policy, 10_000)
        parts = (rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids,
                 rollout.response_mask, self.task.temperature)
        new, old = (evaluation.response_logprobs(m, *parts) for m in (policy, self.reference))
        scores = self.judged(rollout.texts)
        scores["kl"] = evaluation.sequence_kl(new, old, rollout.response_mask).numpy()
        half = len(self.test) // 2
        return {"chosen_by": means({k: v[:half] for k, v in scores.items()}),
                "reported": means({k: v[half:] for k, v in scores.items()}),
                "gold_each": [round(float(x), 3) for x in scores["gold"][half:]],
                "distinct": evaluation.distinct_share(rollout.texts), "sample": rollout.texts[half]}


def means(scores: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: round(float(np.mean(values)), 4) for name, values in scores.items()}


def judge(job: Job) -> list[dict]:
    """Train the second reward model, and say how often both judges are right and agree."""
    test = data.load_pairs(job.settings, "test")
    validation = data.load_pairs(job.settings, "validation")
    model = job._new_judge()
    config = reward.RewardConfig.from_settings(job.settings, evaluations=2, patience=None, seed=7)
    with tempfile.TemporaryDirectory() as folder:
        reward.train_reward_model(model, job.tokenizer, test[:SECOND_PAIRS], validation[:150],
                                  folder, config)
    SECOND.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(SECOND))
    load_model(job.second_model, SECOND)
    job.second_model.eval()
    first, _ = models.load_stage(job.settings, "reward_model")
    rows = []
    for where, pairs in (("test pairs that neither was trained on",
                          test[SECOND_PAIRS : SECOND_PAIRS + JUDGED_PAIRS]),
                         ("validation pairs", validation[150:])):
        by = [np.subtract(*reward.score_pairs(m, job.tokenizer, pairs)) for m in (first, model)]
        p = np.array([row["probability"] for row in pairs])
        rows.append({"pairs": len(pairs), "where": where,
                     "first": round(float(reward.expected_accuracy(by[0], p).mean()), 4),
                     "second": round(float(reward.expected_accuracy(by[1], p).mean()), 4),
                     "ceiling": round(float(reward.bayes_ceiling(p).mean()), 4),
                     "agreement": round(evaluation.judge_agreement(*by)["agreement"], 4)})
    return rows


def best_of_n(job: Job) -> list[dict]:
    """Best of n of the SFT model's answers, picked by the reward model and by chance."""
    drawn = [job.judged(job.sample(job.reference, 20_000 + k).texts) for k in range(DRAWS)]
    scores = {name: np.stack([d[name] for d in drawn], 1)[len(job.test) // 2 :]
              for name in drawn[0]}
    chance = np.random.default_rng(0).random(scores["reward"].shape)
    curves = {name: evaluation.best_of_curve(by, scores[what], steps=10)["gold"]
              for name, by, what in (
                  ("gold", scores["reward"], "gold"), ("second", scores["reward"], "second"),
                  ("reward", scores["reward"], "reward"), ("at_random", chance, "gold"))}
    curve = evaluation.best_of_curve(scores["reward"], steps=10)
    return [{"n": int(n), "kl": round(float(kl), 4),
             **{name: round(float(values[i]), 4) for name, values in curves.items()}}
            for i, (n, kl) in enumerate(zip(curve["n"], curve["kl"], strict=True))]


def run(job: Job, free: bool) -> list[dict]:
    """One run of the course's PPO; a row for the SFT model and for every second update."""
    more = {"kl_coef": 0.0, "kl_target": None, "updates": FREE_UPDATES} if free else {}
    config = PPOConfig.from_settings(job.settings, normalise_reward=False, seed=job.seed, **more)
    policy, _ = models.load_stage(job.settings, "sft", trains=True)
    rows = [{"step": 0, "train_reward": None, **job.measure(job.reference)}]

    def watch(trainer: PPO, row: dict) -> None:
        if row["step"] % EVERY == 0 or row["step"] == config.updates:
            rows.append({"step": row["step"], "train_reward": round(row["reward"], 4),
                         "train_kl": round(row["kl"], 4), **job.measure(trainer.policy)})
            print({k: rows[-1][k] for k in ("step", "train_reward", "reported")}, flush=True)

    torch.manual_seed(job.seed)
    PPO(policy, job.reference, job.proxy, job.tokenizer, config, callbacks=[watch]).train(
        job.prompts)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--anew", action="store_true", help="forget what is stored of these parts")
    arguments = parser.parse_args()
    settings = course.start("embedded", {"threads": arguments.threads}, 0)
    for stage in ("sft", "reward_model"):
        course.require(stage, settings)
    rows = (store.load("checkpoints") or {"rows": []})["rows"]
    if not SECOND.is_file():  # another copy of the course has made what is stored
        rows = []
        arguments.only = ["judge", *(part for part in arguments.only if part != "judge")]
    for part in arguments.only:
        if any(row["part"] == part for row in rows) and not arguments.anew:
            continue
        name, _, seed = part.rpartition("_")
        seeded = seed.isdigit()
        job = Job(arguments.threads, int(seed) if seeded else 0)
        new = run(job, name == "free") if seeded else {"judge": judge, "best_of_n": best_of_n}[
            part](job)
        at = store.commit()
        rows = [row for row in rows if row["part"] != part]
        rows += [{"part": part, **row, "commit": at} for row in new]
        for row in new:
            print(part, {k: v for k, v in row.items() if k not in ("gold_each", "sample")},
                  flush=True)
        store.save("checkpoints", rows, threads=torch.get_num_threads(),
                   questions=len(job.test), second_pairs=SECOND_PAIRS,
                   kl_coef=settings.ppo.kl_coef, kl_target=settings.ppo.kl_target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
