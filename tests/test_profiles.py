"""Profiles: what is accepted, what is refused, and in what words."""

import pytest

from helpers.errors import UserError
from helpers.profiles import flatten, load_profile, profile_names


def test_every_shipped_profile_loads_and_has_the_same_keys():
    keys = {name: set(flatten(load_profile(name).as_dict())) for name in profile_names()}
    assert {"embedded", "gpt2", "a100"} <= set(keys)
    assert len({frozenset(k) for k in keys.values()}) == 1


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


@pytest.mark.parametrize(("overrides", "words"), [
    ({"ppo.kl": 1}, "did you mean"),
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


def test_gold_judges_only_where_the_truth_is_known():
    assert load_profile().world_known
    assert not load_profile("embedded", {"data.reviews": "elsewhere/imdb"}).world_known
    assert not load_profile("gpt2").world_known
