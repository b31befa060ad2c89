"""How far a reward model can be pushed: proxy and gold along best-of-n and along PPO without a KL.

    python benchmarks/over_optimisation.py [--seeds 0 1 2] [--only pool rl 04 m0 …] [--threads 2]

Needs the stages `sft` and `reward_model` of the embedded profile and makes them if they are
missing. One pool serves all: `DRAWS` answers of the SFT model to each of `QUESTIONS` held-out
questions, other questions for every seed. A reward model only scores it, so that one more variant
costs its training and its reading. Pool, models and scores are kept in `runs/over_optimisation/`:
what is there is not made again, and a study that was stopped goes on; `--anew` forgets it.

`JUDGES` has the variants. All but `04` (the stage of notebook 04) are trained here, by its recipe:
the backbone's likelihood and a head, on some of the shipped pairs, with more passes where these
are few. `m0` to `m3` share no pair and are an ensemble too. `noise`: share of the labels turned
round on purpose, beyond the annotators' own. `zoo-…`: backbones that `data/build.py` pretrained,
without fine-tuning. `fresh` has m0's pairs and half as many new ones, labelled by simulated
annotators: pairs among the answers that m0 likes best of 64 to other questions; `more` has as many
shipped ones in their place. `second` learned from test pairs, on the base model before fine-tuning.

`rl` is PPO paid by the reward model of 04 without a KL term, with half the batch of notebook 05 and
more updates; every second one answers held-out questions, which all judges then read.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from safetensors.torch import load_model, save_model

from benchmarks.shared import store
from helpers import course, data, evaluation, generation, models, reward, world
from helpers.paths import DATA, ROOT
from helpers.ppo_trainer import PPO, PPOConfig

CACHE = ROOT / "runs" / "over_optimisation"
QUESTIONS, DRAWS, FEWER = 16, 1024, 256  # answers to a question that most variants read
CHUNK = 8  # questions whose answers are stored at once
AT_LEAST = 1000  # pairs seen in training: few are passed over several times
RL_UPDATES, RL_EVERY, RL_QUESTIONS = 24, 2, 64
RL_SEED = 100  # and the study's; benchmarks/checkpoints.py has the run of seed 0
RL_BATCH = {"batch_size": 64, "mini_batch_size": 32, "micro_batch_size": 32}
FRESH_QUESTIONS, FRESH_DRAWS, FRESH_BEST = 64, 64, 16  # eight pairs to a question
MORE = 500  # pairs that `fresh` and `more` have beyond m0's
JUDGED_PAIRS = 600  # of the test split, none of them in the training of `second`


@dataclass(frozen=True)
class Judge:
    """What a reward model is trained on, and how many of the pool's answers it reads."""

    first: int = 0  # its pairs begin here in the shuffled training split
    pairs: int = 1000
    noise: float = 0.0
    backbone: str = "sft"
    also: str = ""  # "fresh" or "more": MORE pairs besides
    split: str = "train"
    draws: int = FEWER


JUDGES = {
    "04": Judge(pairs=8000, draws=DRAWS), "m0": Judge(), "m1": Judge(1000), "m2": Judge(2000),
    "m3": Judge(3000), "second": Judge(pairs=2000, split="test", backbone="base"),
    "250": Judge(pairs=250), "4000": Judge(pairs=4000), "fresh": Judge(also="fresh"),
    "more": Judge(also="more"), "noise 30": Judge(noise=0.3),
    "zoo-0.2m": Judge(backbone="gpt2-0.2m"), "zoo-1.9m": Judge(backbone="gpt2-1.9m"),
    "noise 15": Judge(noise=0.15), "zoo-0.6m": Judge(backbone="gpt2-0.6m"),
    "zoo-5.9m": Judge(backbone="gpt2-5.9m")}
ENSEMBLE = ("m0", "m1", "m2", "m3")
RL_JUDGES = ("04", "second", *ENSEMBLE, "fresh", "more")


class Job:
    """Models and questions that all parts of one seed share, and their folder."""

    def __init__(self, threads: int, seed: int) -> None:
        self.settings = course.start("embedded", {"threads": threads}, seed)
        self.seed, self.task = seed, self.settings.ppo
        self.folder = CACHE / str(seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reference, self.tokenizer = models.load_stage(self.settings, "sft")
        models.freeze(self.reference).eval()
        self.prompts, test = data.policy_prompts(self.settings, self.tokenizer)
        places = [(seed * QUESTIONS + i) % len(test) for i in range(QUESTIONS)]
        self.questions = [test[i] for i in places]
        self.test = [q for i, q in enumerate(test) if i not in places][:RL_QUESTIONS]

    def sample(self, model: Any, prompts: list[str], seed: int, batch_size: int = 128) -> Any:
        return generation.sample(model, self.tokenizer, prompts, self.task.max_new_tokens,
                                 self.task.temperature, seed=seed, batch_size=batch_size)

    @functools.cached_property
    def pairs(self) -> dict[str, list[dict]]:
        """Shuffled by the seed; the test split's first rows train `second`, its last ones judge."""
        train, test = (data.load_pairs(self.settings, split) for split in ("train", "test"))
        random.Random(self.seed).shuffle(train)
        random.Random(self.seed).shuffle(test)
        return {"train": train, "test": test,
                "validation": data.load_pairs(self.settings, "validation")[:150]}

    def pool(self, key: str) -> list[list]:
        """Of the pool's DRAWS answers to each question the `answers`, or their `gold`."""
        return [row for start in range(0, QUESTIONS, CHUNK)
                for row in read(self.folder / f"pool-{start}.json")[key]]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, content: Any) -> None:
    """Written aside and renamed: a killed run leaves no half file."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(content), encoding="utf-8")
    aside.replace(path)


def make_pool(job: Job) -> None:
    """Draw the answers and judge them by gold, some questions at a time."""
    for start in range(0, QUESTIONS, CHUNK):
        path = job.folder / f"pool-{start}.json"
        if path.is_file():
            continue
        before = time.process_time()
        asked = [q for q in job.questions[start : start + CHUNK] for _ in range(DRAWS)]
        texts = [t.strip() for t in job.sample(
            job.reference, asked, 40_000 + 100 * job.seed + start).texts]
        gold = [round(world.gold_utility(p, t), 4) for p, t in zip(asked, texts, strict=True)]
        rows = range(0, len(texts), DRAWS)
        write(path, {"answers": [texts[i : i + DRAWS] for i in rows],
                     "gold": [gold[i : i + DRAWS] for i in rows],
                     "seconds": time.process_time() - before, "commit": store.commit()})
        print(f"seed {job.seed} pool: {start + CHUNK} questions, "
              f"{time.process_time() - before:.0f} s", flush=True)


# --- reward models ---------------------------------------------------------------------------


def fresh_pairs(job: Job) -> list[dict]:
    """New pairs near what m0 leads to, a little over MORE, labelled by simulated annotators."""
    path = job.folder / "fresh.json"
    if not path.is_file():
        asked = [q for q in job.prompts[-FRESH_QUESTIONS:] for _ in range(FRESH_DRAWS)]
        texts = [t.strip() for t in job.sample(job.reference, asked, 70_000 + job.seed).texts]
        scores = read_texts(job, trained(job, "m0"), asked, texts)
        rng, rows = random.Random(f"fresh:{job.seed}"), []
        for start in range(0, len(texts), FRESH_DRAWS):
            best = sorted(range(start, start + FRESH_DRAWS), key=lambda i: -scores[i])[:FRESH_BEST]
            rng.shuffle(best)
            for a, b in zip(best[::2], best[1::2], strict=True):
                if not texts[a] or not texts[b] or texts[a] == texts[b]:
                    continue
                rater = world.LABELLERS[rng.randrange(len(world.LABELLERS))]
                if rater.choose(asked[a], texts[a], texts[b], rng) == "b":
                    a, b = b, a
                rows.append({"prompt": asked[a], "chosen": texts[a], "rejected": texts[b]})
        write(path, rows)
    return read(path)


def training_pairs(job: Job, judge: Judge) -> list[dict]:
    """The pairs of a variant, with its share of labels turned round."""
    rows = job.pairs[judge.split]
    if judge.split == "test":  # nothing of the questions that it will judge
        held = {*job.questions, *job.test}
        rows = [row for row in rows[JUDGED_PAIRS:] if row["prompt"] not in held]
    rows = rows[judge.first : judge.first + judge.pairs]
    if judge.also:
        rows = rows + (fresh_pairs(job) if judge.also == "fresh" else
                       job.pairs["train"][4000:])[:MORE]
    rng = random.Random(f"noise:{job.seed}")
    turned = set(rng.sample(range(len(rows)), round(judge.noise * len(rows))))
    return [row | {"chosen": row["rejected"], "rejected": row["chosen"]} if i in turned else row
            for i, row in enumerate(rows)]


def trained(job: Job, name: str) -> Any:
    """The reward model of a variant: from the cache, or trained now."""
    judge, path = JUDGES[name], job.folder / f"{name}.safetensors"
    if name == "04":
        return models.load_stage(job.settings, "reward_model")[0].eval()
    source = {"sft": job.reference, "base": models.base_source(job.settings)}.get(
        judge.backbone, DATA / "models" / "zoo" / judge.backbone)
    torch.manual_seed(1000 * job.seed + judge.first)
    model = models.new_reward_model(source, job.tokenizer, job.settings)
    note = job.folder / f"{name}.model.json"
    if note.is_file():
        reward.use_likelihood(model, read(note)["likelihood"])
        load_model(model, str(path))
        return model.eval()
    before, rows = time.process_time(), training_pairs(job, judge)
    cap = job.settings.reward.likelihood
    weight = min(cap, reward.fit_weight(
        reward.likelihood_margins(model, job.tokenizer, job.pairs["validation"])))
    reward.use_likelihood(model, weight)
    config = reward.RewardConfig.from_settings(
        job.settings, epochs=max(1, math.ceil(AT_LEAST / len(rows))), evaluations=2, patience=None,
        seed=1000 * job.seed + judge.first)
    with tempfile.TemporaryDirectory() as folder:
        reward.train_reward_model(
            model, job.tokenizer, rows, job.pairs["validation"], folder, config)
    save_model(model, str(path))
    write(note, {"likelihood": weight, "pairs": len(rows),
                 "parameters": models.count_parameters(model)["total"],
                 "seconds": time.process_time() - before, "commit": store.commit()})
    return model.eval()


def read_texts(job: Job, model: Any, prompts: list[str], texts: list[str]) -> np.ndarray:
    """Raw rewards, (texts,): two answers to one prompt at a time, since it is read once for both.

    In bfloat16 where the machine has it, right to about two decimals of a unit."""
    rows = [{"prompt": prompts[i], "chosen": texts[i], "rejected": texts[i + 1]}
            for i in range(0, len(texts), 2)]
    both = reward.score_pairs(model, job.tokenizer, rows, batch_size=16,
                              bf16=models.mixed_precision(job.settings))
    return np.stack(both, 1).ravel()


def judge_pool(job: Job, name: str) -> None:
    """A variant's rewards of the pool, and how often it is right on held-out pairs."""
    path, judge = job.folder / f"{name}.scores.npz", JUDGES[name]
    if path.is_file():
        return
    model, before = trained(job, name), time.process_time()
    answers = [row[: judge.draws] for row in job.pool("answers")]
    asked = [q for q in job.questions for _ in range(judge.draws)]
    scores = read_texts(job, model, asked, [text for row in answers for text in row])
    held = job.pairs["test"][:JUDGED_PAIRS]
    margins = np.subtract(*reward.score_pairs(model, job.tokenizer, held))
    right = reward.expected_accuracy(margins, [row["probability"] for row in held])
    np.savez_compressed(path, scores=scores.reshape(len(answers), -1).astype(np.float32),
                        accuracy=right.mean(),
                        ceiling=reward.bayes_ceiling([r["probability"] for r in held]).mean())
    print(f"seed {job.seed} {name}: expected accuracy {right.mean():.3f}, "
          f"{time.process_time() - before:.0f} s of reading", flush=True)


# --- PPO without a KL term -------------------------------------------------------------------


def make_rl(job: Job) -> None:
    """One run of PPO, paid by the reward model of 04; what its checkpoints write."""
    path = job.folder / "rl.json"
    if path.is_file():
        return
    seed = RL_SEED + job.seed
    config = PPOConfig.from_settings(job.settings, normalise_reward=False, seed=seed, kl_coef=0.0,
                                     kl_target=None, updates=RL_UPDATES, **RL_BATCH)
    policy, _ = models.load_stage(job.settings, "sft", trains=True)
    proxy, rows, before = reward.load_reward_function(job.settings), [], time.process_time()

    def look(step: int, policy: Any, earned: float | None) -> None:
        rollout = job.sample(policy, job.test, 90_000 + job.seed)
        parts = (rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids,
                 rollout.response_mask, job.task.temperature)
        new, old = (evaluation.response_logprobs(m, *parts) for m in (policy, job.reference))
        kl = evaluation.sequence_kl(new, old, rollout.response_mask)
        texts = [text.strip() for text in rollout.texts]
        rows.append({"step": step, "train_reward": earned, "texts": texts,
                     "kl_each": [round(float(x), 3) for x in kl],
                     "gold_each": [round(world.gold_utility(p, t), 4)
                                   for p, t in zip(job.test, texts, strict=True)]})
        print(f"seed {job.seed} rl update {step}: gold {np.mean(rows[-1]['gold_each']):.2f}, "
              f"KL {kl.mean():.1f}, {time.process_time() - before:.0f} s", flush=True)

    def watch(trainer: PPO, row: dict) -> None:
        if row["step"] % RL_EVERY == 0:
            look(row["step"], trainer.policy, row["reward"])

    look(0, job.reference, None)
    torch.manual_seed(seed)
    PPO(policy, job.reference, proxy, job.tokenizer, config, callbacks=[watch]).train(job.prompts)
    write(path, {"rows": rows, "commit": store.commit(), "seconds": time.process_time() - before})


def judge_rl(job: Job, name: str) -> None:
    """A variant's raw rewards of what the run's checkpoints wrote, (checkpoints, questions)."""
    path = job.folder / f"{name}.rl.npz"
    if path.is_file() or not (job.folder / "rl.json").is_file():
        return
    rows = read(job.folder / "rl.json")["rows"]
    texts = [text for row in rows for text in row["texts"]]
    scores = reward.score(trained(job, name), job.tokenizer, job.test * len(rows), texts, 16)
    np.savez_compressed(path, scores=scores.reshape(len(rows), -1).astype(np.float32))


# --- what is stored --------------------------------------------------------------------------


def packed(table: np.ndarray) -> list[str]:
    """Rows of numbers, a text each: one line of the stored file in place of one for each number."""
    return [" ".join(f"{x:.3f}" for x in row) for row in table]


def repeats(texts: list[str]) -> tuple[float, float]:
    """Shares of answers to unlike questions that open (three words) like another, and that hold a
    sentence of another."""
    opens = [" ".join(text.split()[:3]) for text in texts]
    said = [set(evaluation.sentences(text)) for text in texts]
    again = [any(mine & other for j, other in enumerate(said) if j != i)
             for i, mine in enumerate(said)]
    return float(np.mean([opens.count(o) > 1 for o in opens])), float(np.mean(again))


def habits(answers: list[list[str]], scores: np.ndarray, n: int) -> tuple[float, float]:
    """`repeats` of what best-of-n picks, the mean over up to sixteen draws of n."""
    found = []
    for start in range(0, min(scores.shape[1], 16 * n) - n + 1, n):
        picks = start + scores[:, start : start + n].argmax(1)
        found.append(repeats([row[k] for row, k in zip(answers, picks, strict=True)]))
    opening, sentence = np.mean(found, axis=0)
    return round(float(opening), 3), round(float(sentence), 3)


def scaled_scores(job: Job) -> dict[str, np.ndarray]:
    """By judge, rewards of the pool with mean 0 and deviation 1, and three of the ensemble."""
    found = {}
    for name in JUDGES:
        if (path := job.folder / f"{name}.scores.npz").is_file():
            raw = np.load(path)["scores"].astype(float)
            found[name] = (raw - raw.mean()) / raw.std()
    if set(ENSEMBLE) <= set(found):
        members = np.stack([found[name] for name in ENSEMBLE])
        for how in ("mean", "minimum", "mean less spread"):
            found[f"ensemble {how}"] = reward.conservative(members, how)
    return found


def best_of_rows(job: Job) -> list[dict]:
    """A row for each judge: what best-of-n by it picks, at every n, question by question."""
    if not all((job.folder / f"pool-{c}.json").is_file() for c in range(0, QUESTIONS, CHUNK)):
        return []
    answers, scores = job.pool("answers"), scaled_scores(job)
    gold = np.array(job.pool("gold"))
    words = np.array([[len(text.split()) for text in row] for row in answers])
    rows = []
    for name, own in scores.items():
        draws = own.shape[1]
        ns = [2**k for k in range(int(math.log2(draws)) + 1)]
        row: dict[str, Any] = {"part": "best_of_n", "seed": job.seed, "judge": name, "n": ns}
        if name in JUDGES:
            held, judge = np.load(job.folder / f"{name}.scores.npz"), JUDGES[name]
            note = {"commit": "the stage"} if name == "04" else read(
                job.folder / f"{name}.model.json")
            row |= {"noise": judge.noise, "pairs": judge.pairs, "also": judge.also,
                    "backbone": judge.backbone, **note, "accuracy": round(float(
                        held["accuracy"]), 4), "ceiling": round(float(held["ceiling"]), 4)}
        values = {"proxy": own, "gold": gold[:, :draws], "words": words[:, :draws]}
        for what, table in values.items():
            each = reward.best_of_each(own, table, ns)
            row[what] = [round(float(x), 3) for x in each.mean(1)] if what == "words" else packed(
                each)
        few = [n for n in ns if n <= FEWER]
        if "second" in scores and name != "second":
            row["second"] = packed(reward.best_of_each(own[:, :FEWER], scores["second"], few))
        if set(ENSEMBLE) <= set(scores):
            spread = np.stack([scores[m] for m in ENSEMBLE]).std(0, ddof=1)
            row["spread"] = packed(reward.best_of_each(
                own[:, :FEWER], spread, few))
        row["opening"], row["sentence"] = zip(
            *(habits(answers, own, n) for n in ns), strict=True)
        if name == "04":
            top = own.argmax(1)
            row["samples"] = [[q.strip(), r[k], round(float(o[k]), 2), round(float(g[k]), 2)]
                              for q, r, k, o, g in zip(
                                  job.questions, answers, top, own, gold, strict=True)]
        rows.append(row)
    return rows


def rl_rows(job: Job) -> list[dict]:
    """A row for the run: its checkpoints under gold, KL and every judge that has read them."""
    if not (job.folder / "rl.json").is_file():
        return []
    made = read(job.folder / "rl.json")
    points, judges = made["rows"], {}
    for name in RL_JUDGES:
        pool, own = (job.folder / f"{name}.{what}.npz" for what in ("scores", "rl"))
        if pool.is_file() and own.is_file():
            scale = np.load(pool)["scores"].astype(float)
            judges[name] = packed((np.load(own)["scores"] - scale.mean()) / scale.std())
    chance = np.array([[world.preference_probability(q, mine, first) for q, mine, first in zip(
        job.test, point["texts"], points[0]["texts"], strict=True)] for point in points])
    opening, sentence = zip(*(repeats(point["texts"]) for point in points), strict=True)
    return [{
        "part": "rl", "seed": job.seed, "commit": made["commit"],
        "seconds": round(made["seconds"]), "step": [point["step"] for point in points],
        "train_reward": [point["train_reward"] for point in points],
        "gold": packed(np.array([point["gold_each"] for point in points])),
        "kl": packed(np.array([point["kl_each"] for point in points])), "judges": judges,
        "preferred": packed(chance), "opening": [round(x, 3) for x in opening],
        "sentence": [round(x, 3) for x in sentence],
        "distinct": [round(evaluation.distinct_share(point["texts"]), 3) for point in points],
        "words": [round(float(np.mean([len(t.split()) for t in point["texts"]])), 2)
                  for point in points],
        "samples": [[job.test[i].strip(), *(point["texts"][i] for point in points)]
                    for i in range(2)]}]


def gather(jobs: list[Job], threads: int) -> None:
    """Store what the caches hold, and what is stored of other seeds."""
    seeds = {job.seed for job in jobs}
    rows = [row for row in (store.load("over_optimisation") or {"rows": []})["rows"]
            if row["seed"] not in seeds]
    for job in jobs:
        rows += best_of_rows(job) + rl_rows(job)
    store.save("over_optimisation", rows, threads=threads, questions=QUESTIONS, draws=DRAWS,
               rl_questions=RL_QUESTIONS, ensemble=ENSEMBLE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=["pool", "rl", *JUDGES],
                        choices=["pool", "rl", *JUDGES])
    parser.add_argument("--anew", action="store_true", help="forget the caches of these parts")
    arguments = parser.parse_args()
    settings = course.start("embedded", {"threads": arguments.threads}, 0)
    for stage in ("sft", "reward_model"):
        course.require(stage, settings)
    for seed in arguments.seeds:
        job = Job(arguments.threads, seed)
        for part in arguments.only:
            if arguments.anew:
                for path in job.folder.glob(f"{part}[-.]*"):
                    path.unlink()
            if part == "pool":
                make_pool(job)
            elif part == "rl":
                make_rl(job)
            else:
                judge_pool(job, part)
            for name in RL_JUDGES:
                if (job.folder / f"{name}.scores.npz").is_file():
                    judge_rl(job, name)
            gather([job], arguments.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
