"""Reward models: from pairs of responses, of which people preferred one, to a number for each.

`model` is the mathematics and the scoring, `pairs` makes batches, `training` trains, `measures`
judges what came out, `functions` hands it to PPO, `ties` judges two responses at once, and `active`
chooses which pairs to have labelled.
"""

from helpers.engine.tokens import (
    encode_response,
    pad,
    pad_responses,
)
from helpers.reward.functions import (
    chosen_reward,
    load_reward_function,
    normalise,
    reward_function,
    sentiment_logit,
    set_normalisation,
)
from helpers.reward.measures import (
    bag_of_words_margins,
    bayes_ceiling,
    calibration_error,
    expected_accuracy,
    fit_weight,
    length_margins,
    pair_accuracy,
    rank_correlation,
    reliability,
)
from helpers.reward.model import (
    bradley_terry_loss,
    can_share_prompts,
    last_token_index,
    likelihood_aside,
    likelihood_margins,
    likelihood_weight,
    next_token_logprobs,
    pair_rewards,
    pool_last_token,
    position_limit,
    reward_logits,
    score,
    score_pairs,
    use_likelihood,
)
from helpers.reward.pairs import (
    PairBatch,
    SharedBatch,
    collate_pairs,
    collate_shared,
    encode_pairs,
    length_grouped_order,
    moved,
    padding_share,
    shared_length,
)
from helpers.reward.training import (
    LengthGroupedSampler,
    PairTrainer,
    RewardConfig,
    train_reward_model,
    training_arguments,
)

__all__ = [
    "LengthGroupedSampler",
    "PairBatch",
    "PairTrainer",
    "RewardConfig",
    "SharedBatch",
    "bag_of_words_margins",
    "bayes_ceiling",
    "bradley_terry_loss",
    "calibration_error",
    "can_share_prompts",
    "chosen_reward",
    "collate_pairs",
    "collate_shared",
    "encode_pairs",
    "encode_response",
    "expected_accuracy",
    "fit_weight",
    "last_token_index",
    "length_grouped_order",
    "length_margins",
    "likelihood_aside",
    "likelihood_margins",
    "likelihood_weight",
    "load_reward_function",
    "moved",
    "next_token_logprobs",
    "normalise",
    "pad",
    "pad_responses",
    "padding_share",
    "pair_accuracy",
    "pair_rewards",
    "pool_last_token",
    "position_limit",
    "rank_correlation",
    "reliability",
    "reward_function",
    "reward_logits",
    "score",
    "score_pairs",
    "sentiment_logit",
    "set_normalisation",
    "shared_length",
    "train_reward_model",
    "training_arguments",
    "use_likelihood",
]
