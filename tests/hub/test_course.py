"""What `make hub` cuts, and what it must leave alone."""

import sys
from pathlib import Path

import yaml

from helpers.course import cli, execute, plan, runner
from helpers.engine import hub
from helpers.profiles import flatten, load_profile

sys.path.insert(0, str(Path(__file__).parent))
import content
import course

MAY_BE_CUT = ("limit", "_size", "accumulation", "length", "rows", "pairs", "updates", "epochs",
              "tokens", "prompts", "episodes", "batches", "best_of", "resamples", "ratings",
              "questions", "held_out", "steps", "runs", "threads", "draws")


def test_only_rows_steps_lengths_and_batches_are_cut():
    cuts = yaml.safe_load(course.OVERRIDES.read_text(encoding="utf-8"))
    assert all(key.endswith(MAY_BE_CUT) and not key.startswith("models.") for key in cuts)
    for profile in course.PROFILES:
        before = flatten(load_profile(profile).as_dict())
        after = flatten(load_profile(profile, cuts).as_dict())
        assert {key for key in before if before[key] != after[key]} <= set(cuts)
        for key, value in cuts.items():
            assert before[key] is None or value <= before[key], (profile, key)


def test_every_notebook_that_loads_is_run_and_what_another_needs_before_it():
    """10 makes anything of 08 that is missing, which would count as its own time."""
    for profile in course.PROFILES:
        run = course.numbers(profile)
        assert run == sorted(run) and {"02", "03", "04", "05", "06", "07", "08", "10"} <= set(run)
    everywhere = {n for profile in course.PROFILES for n in course.numbers(profile)}
    assert everywhere == set(execute.notebooks()) - {"01"}  # which loads no model
    assert course.numbers("a100", "09,10") == ["09", "10"]
    assert course.numbers(course.LINE, "09") == ["04"]


def test_a_judge_that_was_not_asked_is_told(tmp_path):
    row = {"status": "ok", "peak_memory_mb": 1, "fetched": ["Qwen/Qwen2.5-7B/config.json"]}
    said = course.verdict(row, "a100", "10", tmp_path)
    assert said == "did not ask Qwen/Qwen2.5-7B-Instruct, the profile's judge"
    row["fetched"].append("Qwen/Qwen2.5-7B-Instruct/config.json")
    assert course.verdict(row, "a100", "10", tmp_path) == "ok"


def test_every_id_of_the_profiles_is_served():
    served = {*content.MODELS, *content.DATASETS}
    for (_, name) in content.pins():
        assert name in served
    for profile in course.PROFILES:
        for candidate in load_profile(profile).models.candidates:
            assert hub.parse(candidate).repo in content.MODELS


def test_the_line_of_the_readme_is_a_reward_model_on_what_is_served():
    arguments = cli.parse(course.readme_line())
    assert (arguments.command, arguments.notebooks) == ("run", "04")
    settings = load_profile(arguments.profile, runner.parse_assignments(arguments.settings))
    assert settings.models.base in content.MODELS and settings.models.reward_base == "sft"
    source = hub.parse(settings.data.preferences)
    assert source.repo in content.DATASETS and source.split == "anthropic_hh"
    assert settings.data.pair_limit == 5000
    assert max(plan.peak(plan.plan(settings, stage)) for stage in ("sft", "reward_model")) < 13e9


def test_rows_that_stand_in_for_real_ones_are_read_as_pairs_of_many_prompts(tmp_path):
    from helpers import data

    folder = content.stand_in(tmp_path)
    for name in ("hh-rlhf/harmless-base/train.jsonl.gz", "tulu/anthropic_hh.parquet",
                 "ultrafeedback/train.parquet"):
        settings = load_profile("embedded", {"data.preferences": str(folder / name)})
        pairs = [pair for split in data.SPLITS for pair in data.load_pairs(settings, split)]
        assert len(pairs) >= 390
        assert len({pair["prompt"] for pair in pairs}) > 100, name
        assert all(pair["prompt"].count("Human:") == pair["prompt"].count("Assistant:")
                   for pair in pairs)


def test_models_beside_the_stand_in_fit_its_tokenizer(tmp_path):
    from helpers import models

    real = content.stand_in(tmp_path / "rows")
    for name in ("openai-community/gpt2", "Qwen/Qwen2.5-1.5B", "HuggingFaceTB/SmolLM2-135M"):
        folder = tmp_path / name.replace("/", "--")
        folder.mkdir()
        content.MODELS[name](folder, real)
        model, tokenizer = models.load_causal(folder, load_profile("embedded"))
        assert model.config.vocab_size == len(tokenizer)


class Unsaved:
    def save_pretrained(self, folder):
        pass


def test_what_is_not_as_the_profile_says_is_told(tmp_path, monkeypatch):
    from helpers.engine import adapters, artifacts

    settings = load_profile("a100", {"out": str(tmp_path)})
    right = {"adapters": True, "four_bit_modules": 14, "trained_in": ["float32"],
             "head_trained": True}
    for wrong, said in (({}, None), ({"adapters": False}, "adapters is False"),
                        ({"four_bit_modules": 0}, "four_bit is False"),
                        ({"trained_in": ["bfloat16"]}, "trained_in is ['bfloat16']"),
                        ({"head_trained": False}, "the head was not trained")):
        monkeypatch.setattr(adapters, "made_with", lambda model, w=wrong: {**right, **w})
        artifacts.save_stage("reward_model", settings, Unsaved())
        found = course.not_as_said("reward_model", "a100", tmp_path)
        assert found == said if said is None else found.startswith(said)
