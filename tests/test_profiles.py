"""Profiles: what is accepted, what is refused, and in what words."""

import copy
import math
import pickle
import re
from dataclasses import dataclass
from typing import Literal, get_args

import pytest
import yaml

from helpers import feedback_loop
from helpers.course import plan
from helpers.engine import hub
from helpers.errors import UserError
from helpers.profiles import (
    MINUTES,
    SETTINGS,
    Count,
    Feedback,
    Limit,
    Number,
    Positive,
    Section,
    Settings,
    check_fields,
    flatten,
    load_profile,
    profile_names,
)


def test_every_shipped_profile_loads_and_has_the_same_keys():
    keys = {name: set(flatten(load_profile(name).as_dict())) for name in profile_names()}
    assert {"embedded", "quick", "smollm2", "gpt2", "a100"} <= set(keys)
    assert len({frozenset(k) for k in keys.values()}) == 1


def test_every_key_has_a_type_and_every_type_a_key():
    def keys(section):
        return {name: keys(field.annotation) if isinstance(field.annotation, type)
                and issubclass(field.annotation, Section) else None
                for name, field in section.model_fields.items()}

    def names(tree):  # in their order, which `as_dict` has too
        return [(key, names(value) if isinstance(value, dict) else None)
                for key, value in tree.items()]

    written = yaml.safe_load((SETTINGS / "embedded.yaml").read_text(encoding="utf-8"))
    assert names(keys(Settings)) == [
        *names(written), *((key, None) for key in ("out", "name", "seed", "overrides"))]


def test_what_embedded_says_is_what_is_read_and_of_its_type():
    written = yaml.safe_load((SETTINGS / "embedded.yaml").read_text(encoding="utf-8"))
    read = flatten(load_profile().as_dict())
    for key, value in flatten(written).items():
        assert (type(read[key]), read[key]) == (type(value), value), key


# What `embedded` chose for models of a million parameters on two cores, as its comments say.
CHOSEN_FOR_THE_TOY = {
    "device", "dtype", "threads", "models.judge", "models.quantise", "models.lora",
    "models.gradient_checkpointing",
    *(f"sft.{k}" for k in ("epochs", "batch_size", "learning_rate", "max_length", "eval_rows")),
    *(f"reward.{k}" for k in (
        "epochs", "batch_size", "gradient_accumulation", "learning_rate", "max_length",
        "likelihood", "patience", "eval_pairs")),
    *(f"ppo.{k}" for k in (
        "updates", "batch_size", "mini_batch_size", "micro_batch_size", "epochs",
        "max_prompt_tokens", "max_new_tokens", "temperature", "learning_rate", "kl_coef",
        "kl_target", "eval_prompts")),
    *(f"ppo_trl.{k}" for k in (
        "total_episodes", "batch_size", "mini_batches", "epochs", "max_new_tokens", "temperature",
        "learning_rate", "warmup_updates", "kl_coef", "missing_eos_penalty", "eval_prompts",
        "best_of")),
    "evaluation.prompts",
    *(f"feedback.{k}" for k in (
        "steps", "learning_rate", "keep", "test_pairs", "best_of", "ppo_updates", "ppo_runs")),
}


@pytest.mark.parametrize("name", ["a100", "gpt2", "smollm2"])
def test_a_profile_of_real_models_states_what_the_toy_chose_for_itself(name):
    own = flatten(yaml.safe_load((SETTINGS / f"{name}.yaml").read_text(encoding="utf-8")))
    assert set(own) >= CHOSEN_FOR_THE_TOY
    assert load_profile(name).ppo.temperature == 1  # PPO learns what it samples


@pytest.mark.parametrize("name", profile_names())
def test_whatever_a_profile_fetches_from_the_hub_has_its_revision(name):
    """What was tried and what is fetched next term are the same, whoever pushes in between."""
    read = flatten(load_profile(name).as_dict())
    values = [one for value in read.values()
              for one in (value if isinstance(value, list | tuple) else [value])]
    ids = [source for value in values if "/" in str(value) and (source := hub.parse(str(value)))]
    assert bool(ids) == (name not in MINUTES)
    for source in ids:
        assert re.fullmatch(r"[0-9a-f]{40}|refs/pr/\d+", source.revision or ""), source


SIZES = re.compile(r"""(data\.\w+_limit | \w+\.(eval_rows|eval_pairs|eval_prompts)
    | (ppo|ppo_trl)\.(updates|\w*batch\w*|epochs|max_new_tokens|total_episodes|best_of)
    | evaluation\.(prompts|resamples)
    | preference\.(prompts|draws|rows|\w*epochs|updates|batch_size)
    | feedback\.(ratings|questions|held_out|steps|test_pairs|best_of|ppo_updates|ppo_runs)
    | study\.\w+)""", re.X)


def test_quick_is_embedded_with_smaller_sizes_and_nothing_else():
    own = flatten(yaml.safe_load((SETTINGS / "quick.yaml").read_text(encoding="utf-8")))
    embedded, quick = (flatten(load_profile(name).as_dict()) for name in ("embedded", "quick"))
    assert {key for key in embedded if embedded[key] != quick[key]} == {*own, "name"}
    for key, value in own.items():
        assert SIZES.fullmatch(key), f"{key} is no size"
        assert embedded[key] is None or value < embedded[key], key


def test_the_large_profile_quantises_the_reward_model_and_nothing_else():
    large = load_profile("a100").models
    assert large.quantises("reward") and not large.quantises("policy")
    assert not load_profile("gpt2").models.quantises("reward")


@pytest.mark.parametrize("name", ["a100", "gpt2", "smollm2"])
def test_the_judge_of_real_models_was_trained_to_follow_instructions(name):
    """And its size is known, so that its memory can be planned."""
    judge = hub.parse(load_profile(name).models.judge)
    assert judge.repo.endswith("-Instruct") and judge.repo in plan.ARCHITECTURES
    assert all(load_profile(own).models.judge == "sft" for own in MINUTES)


def test_an_override_reaches_its_key_and_no_other():
    plain, changed = load_profile(), load_profile("embedded", {"ppo.kl_coef": 0.123})
    before, after = flatten(plain.as_dict()), flatten(changed.as_dict())
    assert after.pop("ppo.kl_coef") == 0.123
    assert before.pop("ppo.kl_coef") != 0.123
    before.pop("overrides", None), after.pop("overrides.ppo.kl_coef", None)
    assert {k: v for k, v in before.items() if k != "overrides"} == {
        k: v for k, v in after.items() if not k.startswith("overrides")}


def test_a_number_written_as_yaml_text_is_read():
    assert load_profile("embedded", {"sft.learning_rate": "1e-4"}).sft.learning_rate == 1e-4


@pytest.mark.parametrize(("key", "given", "kept"), [
    ("threads", 3.0, 3), ("threads", None, None),
    ("models.quantised", ["policy", "reward"], ["policy", "reward"]),
    ("models.candidates", ("a/b",), ["a/b"]),
    ("data.review_limit", "1e3", 1000), ("data.pair_limit", None, None),
    ("reward.likelihood", 0, 0.0), ("ppo.kl_coef", 1, 1.0), ("ppo.updates", 0, 0),
    ("ppo.kl_target", None, None), ("ppo.kl_target", 5, 5.0), ("ppo.gamma", "1", 1.0),
    ("ppo_trl.missing_eos_penalty", 2, 2.0), ("evaluation.level", 0.5, 0.5),
    ("ppo.max_grad_norm", math.inf, math.inf), ("data.root", "7", "7"),
])
def test_a_value_is_kept_as_its_key_has_it(key, given, kept):
    read = flatten(load_profile("embedded", {key: given}).as_dict())[key]
    assert (type(read), read) == (type(kept), kept)


@pytest.mark.parametrize(("key", "value", "right"), [
    # of another type
    ("threads", True, "must be a number or null"), ("threads", [2], "must be a number or null"),
    ("models.quantised", "reward", "must be a list of one or both of policy, reward"),
    ("models.quantised", [], "must be a list of one or both of policy, reward"),
    ("models.quantised", ["reward", "judge"], "must be a list of one or both of policy, reward"),
    ("models.candidates", "openai-community/gpt2", "must be a list of hub ids and folders, such as "
     "[distilbert/distilgpt2]"),
    ("models.candidates", ["a/b", 7], "must be a list of hub ids and folders, such as "
     "[distilbert/distilgpt2]"),
    ("models.gradient_checkpointing", "auto", "must be true or false"),
    ("models.base", 7, "must be a text, such as 'embedded'"),
    ("models.scratch.n_layer", 2.5, "must be a whole number"),
    ("models.lora", 1, "must be true or false"),
    ("data.pair_limit", "all", "must be a number or null"),
    ("sft.learning_rate", False, "must be a number"),
    ("reward.margin_from_scores", "no", "must be true or false"),
    ("ppo.gamma", math.nan, "must be a number"),
    ("models.base", "  ", "must be a text, such as 'embedded'"),
    ("data.reviews", "a\0b", "must be a text without control characters"),
    ("out", "a\0b", "must be a text without control characters or null"),
    ("models.candidates", ["a\0b"], "must be a list of hub ids and folders, such as "
     "[distilbert/distilgpt2]"),
    # out of range
    ("models.scratch.learning_rate", 0, "must be positive"),
    ("data.review_limit", 0, "must be positive or null"),
    ("sft.warmup_share", 1.5, "must lie between 0 and 1"),
    ("reward.margin", -0.5, "must be 0 or more"),
    ("ppo.updates", -1, "must be 0 or more"),
    ("ppo.temperature", 200, "must lie between 0.001 and 100"),
    ("ppo.clip_range", 0, "must lie between 1e-06 and 10"),
    ("ppo.kl_target", -2, "must be positive or null"),
    ("ppo_trl.missing_eos_penalty", -2, "must be 0 or more, or null"),
    ("ppo_trl.scratch.kl_coef", 0, "must be positive"),
    ("evaluation.level", 0.4, "must lie between 0.5 and 0.999"),
    ("feedback.keep", -3.0, "must be positive"),
    # a slip of the keyboard, or no number at all
    ("ppo.kl_coef", math.inf, "must be at most 1,000,000,000"),
    ("ppo.kl_target", math.inf, "must be at most 1,000,000,000 or null"),
    ("feedback.bonus", math.inf, "must be at most 1,000,000,000"),
    ("ppo.learning_rate", 1e300, "must be at most 10"),
    ("sft.epochs", 10**23, "must be at most 10,000"),
    ("sft.epochs", 1e23, "must be a whole number"),
    ("sft.epochs", math.nan, "must be a number"),
    ("ppo.updates", 10**18, "must be at most 1,000,000,000"),
    ("threads", 100_000, "must be at most 1,024 or null"),
    # another word
    ("reward.report_to", "log", "must be one of none, tensorboard, wandb, trackio"),
    ("ppo_trl.reward", "gold", "must be one of sentiment, reward_model"),
    ("feedback.property", "wit", "must be one of reason, example, place, number, question"),
    ("dtype", "float16", "must be one of auto, float32, bfloat16"),
    ("mixed_precision", "fp8", "must be one of auto, none"),
    ("models.quantise", "int8", "must be one of none, nf4"),
    ("models.scratch.architecture", "bert", "must be one of gpt2, gpt_neo, llama"),
    ("feedback.source", "robot", "must be one of simulated, human"),
    # null
    ("device", None, "must be one of auto, cpu, cuda"),
    ("models.classifier", None, "must have a value, such as 'embedded'"),
    ("models.lora", None, "must be true or false"),
    ("sft.epochs", None, "must have a value, such as 1"),
    ("ppo.kl_coef", None, "must have a value, such as 0.04"),
    ("feedback.raters", None, "must have a value, such as 3"),
])
def test_what_is_wrong_is_said_with_its_key_its_value_and_what_is_right(key, value, right):
    with pytest.raises(UserError) as caught:
        load_profile("embedded", {key: value})
    said = "null" if value is None else repr(value)
    assert str(caught.value) == f"overrides: {key} is {said}; it {right}."


def test_what_is_wrong_is_said_with_the_file_it_stands_in(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("models: {base: scratch}\nppo_trl: {scratch: {kl_coef: much}}\n")
    with pytest.raises(UserError) as caught:
        load_profile(str(path))
    assert str(caught.value) == (
        f"profile {path}: ppo_trl.scratch.kl_coef is 'much'; it must be a number.")


@pytest.mark.parametrize(("seed", "right"), [
    (-1, "0 or more"), (1.5, "whole number"), (True, "whole number"), (None, "such as 0")])
def test_a_seed_is_a_whole_number_from_0(seed, right):
    with pytest.raises(UserError, match=f"^seed is .*{right}"):
        load_profile("embedded", seed=seed)


@pytest.mark.parametrize(("overrides", "sentence"), [
    ({"ppo.micro_batch_size": 65},
     "ppo.micro_batch_size is 65, more than ppo.mini_batch_size, which is 64."),
    ({"ppo_trl.prompt_tokens_min": 9},
     "ppo_trl.prompt_tokens_min is 9, more than ppo_trl.prompt_tokens_max, which is 8."),
    ({"models.scratch.n_embd": 161},
     "models.scratch.n_embd is 161, which models.scratch.n_head (5) does not divide."),
    ({"models.quantise": "nf4"},
     "models.quantise is nf4, but models.lora is false: four-bit weights cannot be trained, only "
     "adapters on them; set models.lora=true."),
])
def test_values_that_do_not_go_together_name_each_other(overrides, sentence):
    with pytest.raises(UserError) as caught:
        load_profile("embedded", overrides)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("overrides", "words"), [
    ({"ppo.kl": 1}, "did you mean"),
    ({"ppo.kl_coeff": 1}, "did you mean ppo.kl_coef"),
    ({"ppo": 1}, "is a section"),
    ({"nothing.at.all": 1}, "unknown key"),
    ({"ppo.gamma": 2}, "between 0 and 1"),
    ({"sft.epochs": 1.5}, "whole number"),
    ({"sft.epochs": 0}, "must be positive"),
    ({"sft.learning_rate": "fast"}, "must be a number"),
    ({"device": "tpu"}, "one of auto, cpu, cuda"),
    ({"models.lora": "yes"}, "true or false"),
    ({"data.reviews": ""}, "must be a text"),
    ({"ppo.batch_size": None}, "must have a value"),
    ({"ppo.mini_batch_size": 10**6}, "more than ppo.batch_size"),
    ({"models.scratch.n_head": 7}, "does not divide"),
])
def test_a_value_that_cannot_be_meant_is_one_sentence(overrides, words):
    with pytest.raises(UserError, match=words) as caught:
        load_profile("embedded", overrides)
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(UserError, match="a100, embedded, gpt2"):
        load_profile("embeded")


def test_a_profile_of_ones_own_says_only_where_it_differs(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("ppo:\n  kl_coef: 0.3\n")
    mine = load_profile(str(path))
    assert mine.name == "mine"
    assert mine.ppo.kl_coef == 0.3
    assert mine.sft.epochs == load_profile().sft.epochs


def test_a_base_from_scratch_brings_its_own_values_unless_others_are_given():
    shipped, scratch = load_profile().ppo_trl, load_profile("embedded", {"models.base": "scratch"})
    assert shipped.total_episodes < shipped.scratch.total_episodes
    for key, value in shipped.scratch.as_dict().items():
        assert getattr(scratch.ppo_trl, key) == value
    given = load_profile("embedded", {
        "ppo_trl.total_episodes": 256, "models.base": "scratch", "ppo_trl.scratch.kl_coef": 0.3})
    assert given.ppo_trl.total_episodes == 256
    assert given.ppo_trl.kl_coef == 0.3


def test_a_profile_file_keeps_its_own_values_with_a_base_from_scratch(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("models: {base: scratch}\nppo_trl: {total_episodes: 512}\n")
    mine = load_profile(str(path)).ppo_trl
    assert mine.total_episodes == 512
    assert mine.kl_coef == mine.scratch.kl_coef != load_profile().ppo_trl.kl_coef
    large = load_profile("gpt2", {"models.base": "scratch"}).ppo_trl
    assert large.total_episodes == load_profile("gpt2").ppo_trl.total_episodes


def test_settings_are_frozen_and_out_moves_both_folders(tmp_path):
    settings = load_profile("embedded", {"out": str(tmp_path)})
    assert settings.artifacts == tmp_path / "artifacts" / "embedded"
    assert settings.runs == tmp_path / "runs" / "embedded"
    with pytest.raises(AttributeError, match="frozen"):
        settings.ppo.kl_coef = 1


def test_settings_are_equal_by_value_and_survive_a_copy():
    settings = load_profile("gpt2", {"ppo.kl_coef": 0.3}, 5)
    assert settings == load_profile("gpt2", {"ppo.kl_coef": 0.3}, 5)
    assert settings != load_profile("gpt2", {"ppo.kl_coef": 0.4}, 5)
    assert settings == copy.deepcopy(settings) == pickle.loads(pickle.dumps(settings))
    assert settings.overrides == {"ppo.kl_coef": 0.3}


@dataclass
class Plan:
    steps: Count = 4
    rate: Positive = 0.1
    limit: Limit = 1.0
    target: Number | None = None
    kind: Literal["one", "two"] = "one"
    loud: bool = True

    def __post_init__(self):
        check_fields(self, "plan")


def test_a_dataclass_keeps_what_it_was_given_and_reads_numbers_from_text():
    given = {"steps": 2.0, "rate": 1, "limit": math.inf, "target": -3, "loud": 0}
    assert [repr(value) for value in vars(Plan(**given)).values()] == [
        "2.0", "1", "inf", "-3", "'one'", "0"]
    assert Plan(rate="1e-3", steps="3") == Plan(rate=0.001, steps=3)
    with pytest.raises(TypeError, match="unexpected keyword"):
        Plan(step=1)


@pytest.mark.parametrize(("given", "sentence"), [
    ({"steps": 0}, "plan: steps is 0; it must be positive."),
    ({"steps": None}, "plan: steps is null; it must have a value, such as 4."),
    ({"rate": True}, "plan: rate is True; it must be a number."),
    ({"rate": math.nan}, "plan: rate is nan; it must be a number."),
    ({"rate": math.inf}, "plan: rate is inf; it must be at most 1,000,000,000."),
    ({"limit": 0}, "plan: limit is 0; it must be positive."),
    ({"target": math.inf}, "plan: target is inf; it must be finite or null."),
    ({"target": "far"}, "plan: target is 'far'; it must be a number or null."),
    ({"kind": "three"}, "plan: kind is 'three'; it must be one of one, two."),
    ({"loud": "very"}, "plan: loud is 'very'; it must be true or false."),
])
def test_a_dataclass_refuses_what_cannot_be_meant(given, sentence):
    with pytest.raises(UserError) as caught:
        Plan(**given)
    assert str(caught.value) == sentence


def test_gold_judges_only_where_the_truth_is_known():
    assert load_profile().world_known
    assert not load_profile("embedded", {"data.reviews": "elsewhere/imdb"}).world_known
    assert not load_profile("gpt2").world_known


@pytest.mark.parametrize("seed", [2**31, 2**64])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(UserError, match=rf"^seed is {seed}; it must be less than 2,147,483,648\.$"):
        load_profile(seed=seed)
    assert load_profile(seed=2**31 - 1).seed == 2**31 - 1


def test_the_properties_that_can_be_chosen_are_those_that_can_be_found():
    known = get_args(Feedback.model_fields["property"].annotation)
    assert known == tuple(feedback_loop.PROPERTIES)


@pytest.mark.parametrize("name", ["embedded", "gpt2"])
def test_a_readers_own_file_does_not_pass_for_a_shipped_profile(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    path.write_text("ppo: {kl_coef: 0.5}\n")
    with pytest.raises(UserError, match="is called as the shipped profile.*another name"):
        load_profile(str(path))
    assert load_profile(str(SETTINGS / f"{name}.yaml")) is not None  # the shipped one itself is
    path.rename(tmp_path / "mine.yaml")
    assert load_profile(str(tmp_path / "mine.yaml")).name == "mine"


@pytest.mark.parametrize("name", ["...yaml", "..yaml", "-x.yaml", "a\nb.yaml", "a\x1b[31m.yaml"])
def test_a_file_whose_name_is_none_for_a_folder_is_refused(tmp_path, name):
    (tmp_path / name).write_text("ppo: {kl_coef: 0.5}\n")
    with pytest.raises(UserError):
        load_profile(str(tmp_path / name))


@pytest.mark.parametrize(("content", "says"), [
    ("ppo: &a {kl_coef: *a}\n", "a section that holds itself"),
    ("&a\nppo: *a\n", "a section that holds itself"),
    ("models: {candidates: &a [*a]}\n", "must be a list of hub ids"),
    ("[" * 20_000, "cannot be read as YAML"),
    ("ppo: {kl_coef: \0}\n", "is not valid YAML"),
    ("# \xe9\nppo: {kl_coef: 0.5}\n".encode("latin-1"), "is not valid YAML"),
    ("a: &a {x: 1, y: 1}\n" + "".join(  # 2**40 keys, if anybody wrote them all down
        f"{chr(98 + i)}: &{chr(98 + i)} {{x: *{chr(97 + i)}, y: *{chr(97 + i)}}}\n"
        for i in range(24)), "unknown key 'a.x'"),
])
def test_a_file_that_is_no_profile_ends_in_a_sentence(tmp_path, content, says):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=says):
        load_profile(str(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_profile_is_read_as_an_editor_saved_it(tmp_path, encoding):
    path = tmp_path / "mine.yaml"
    path.write_text("# é\nppo: {kl_coef: 0.5}\n", encoding=encoding)
    assert load_profile(str(path)).ppo.kl_coef == 0.5


def test_a_name_with_a_nul_is_no_profile():
    with pytest.raises(UserError, match="is not known"):
        load_profile("a\0b.yaml")
