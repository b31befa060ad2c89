"""The embedded world: what writes its texts, and its truth about them. Loads no torch.

`gold_utility` and `rubric` judge answers, `gold_sentiment` judges reviews, and annotators with a
taste of their own stand in for people. They know this world only, and no real one.
"""

from helpers.world.annotators import (
    ANNOTATORS,
    LABELLERS,
    TEMPERATURE,
    Annotator,
    expected_agreement,
    preference_probability,
    simulated_annotators,
)
from helpers.world.judge_dialogues import DIMENSIONS, WEIGHTS, coverage, gold_utility, rubric
from helpers.world.judge_reviews import gold_sentiment

__all__ = [
    "ANNOTATORS",
    "Annotator",
    "DIMENSIONS",
    "LABELLERS",
    "TEMPERATURE",
    "WEIGHTS",
    "coverage",
    "expected_agreement",
    "gold_sentiment",
    "gold_utility",
    "preference_probability",
    "rubric",
    "simulated_annotators",
]
