"""Rewards as functions of texts: the sentiment of a classifier, and which one a profile names."""

import pytest
import torch
from support import tiny_classifier

from helpers import reward
from helpers.errors import UserError
from helpers.profiles import load_profile


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier()


def test_sentiment_logit_is_the_positive_logit_in_the_order_given(classifier):
    model, own = classifier
    prompts, responses = ["a good", "a", "the end of"], [" film", " bad day and the end", " it"]
    scores = reward.sentiment_logit(model, own, batch_size=2)(prompts, responses)
    for p, r, s in zip(prompts, responses, scores, strict=True):
        with torch.no_grad():
            alone = model(**{k: v for k, v in own(p + r, return_tensors="pt").items()
                             if k != "token_type_ids"}).logits[0, 1]
        assert s == pytest.approx(float(alone), abs=1e-5)


def test_the_reward_is_chosen_by_one_setting(classifier, monkeypatch):
    settings = load_profile()
    by_logit = reward.chosen_reward(settings, *classifier)(["a good"], [" film"])
    assert by_logit == pytest.approx(reward.sentiment_logit(*classifier)(["a good"], [" film"]))
    monkeypatch.setattr("helpers.reward.functions.load_reward_function",
                        lambda s: lambda p, r: [7.0] * len(p))
    other = load_profile("embedded", {"ppo_trl.reward": "reward_model"})
    assert reward.chosen_reward(other, *classifier)(["a"], ["b"]) == [7.0]
    with pytest.raises(UserError, match="sentiment, reward_model"):
        reward.chosen_reward(load_profile("embedded", {"ppo_trl.reward": "length"}), *classifier)
