"""A reward model's scale: kept apart from the weights, and with them when a stage is loaded."""

import numpy as np
import pytest
from support import answer_tokenizer, make_pairs, make_scorer

from helpers import course, models, reward
from helpers.engine.scale import RewardScale, read_as, scale_of
from helpers.profiles import load_profile


@pytest.mark.parametrize("lora", [False, True])
def test_a_stage_of_a_reward_model_is_loaded_with_its_scale(lora, tmp_path):
    tokenizer, pairs = answer_tokenizer(), make_pairs(12)
    base = make_scorer(tokenizer)
    base.config.tie_word_embeddings = True
    base.save_pretrained(tmp_path / "base")
    base.config._name_or_path = base.name_or_path = str(tmp_path / "base")
    settings = load_profile("embedded", {"models.lora": lora, "out": str(tmp_path / "made")})
    model = models.add_lora(base, settings, "SEQ_CLS") if lora else base
    reward.use_likelihood(model, 0.7)
    prompts, texts = [p["prompt"] for p in pairs], [p["chosen"] for p in pairs]
    mean, std = reward.set_normalisation(model, reward.score(model, tokenizer, prompts, texts))
    course.save_stage("reward_model", settings, model, tokenizer, metrics={
        "reward_mean": mean, "reward_std": std, "likelihood_weight": 0.7})
    judge = reward.load_reward_function(settings)
    np.testing.assert_allclose(
        judge(prompts, texts), reward.reward_function(model, tokenizer)(prompts, texts), atol=1e-5)
    loaded, _ = models.load_stage(settings, "reward_model")
    assert scale_of(loaded) == RewardScale(1.0, 0.7, mean, std, settings.reward.max_length)


def test_what_is_changed_for_a_block_is_as_before_after_it():
    model = make_scorer(answer_tokenizer())
    scale_of(model).mean = 2.0
    with pytest.raises(KeyError), read_as(model, head_weight=0.0, likelihood_weight=1.0):
        assert scale_of(model) == RewardScale(0.0, 1.0, 2.0, None)
        raise KeyError
    assert scale_of(model) == RewardScale(1.0, 0.0, 2.0, None)
    with pytest.raises(TypeError), read_as(model, likelihod_weight=1.0):
        pass
