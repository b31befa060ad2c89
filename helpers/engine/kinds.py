"""What flows between the modules: rows of text, token ids of pairs, functions that reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

Row = dict[str, Any]  # a row as a file holds it, before anybody has looked at it
# Prompts and responses, both lists of strings, to one number per response.
RewardFn = Callable[[list[str], list[str]], Sequence[float] | np.ndarray]


class Review(TypedDict):
    """A film review and whether it praises (1) or not (0)."""

    text: str
    label: int


class PairText(TypedDict):
    """A rendered prompt with two responses, of which `chosen` was preferred."""

    prompt: str
    chosen: str
    rejected: str
    margin: NotRequired[float]  # in units of reward: how far apart the loss wants the two


class Pair(PairText):
    """A preference pair as the loaders give it."""

    probability: float | None  # true chance that an annotator prefers `chosen`, where it is known
    score_gap: float | None  # score_chosen - score_rejected, in the units of the scores
    topic: str
    source: str


class EncodedPair(TypedDict):
    """A pair as token ids."""

    chosen_ids: list[int]  # prompt and response
    rejected_ids: list[int]
    prompt_length: int  # tokens that both begin with
    length: int  # of the longer side
    cut: int  # tokens that the prompt lost
    margin: float
    row: int  # the pair's place in what was encoded


class Comparison(TypedDict):
    """Two responses and who won: "a", "b" or "tie"."""

    prompt: str
    response_a: str
    response_b: str
    winner: str
    score_gap: NotRequired[float | None]  # of a less that of b


class Demonstration(TypedDict):
    """A rendered prompt and a response to imitate."""

    prompt: str
    response: str
    topic: str


class KnownText(TypedDict):
    """A text and the log-probability, in nats, of the way in which the generator came to it."""

    kind: str  # "reviews" or "dialogues"
    text: str
    logprob: float


class Ratings(TypedDict):
    """One rating row of the feedback store; `ratings` maps each dimension to 1 to 5."""

    id: str
    time: str
    annotator: str
    source: str  # "human" or "simulated"
    task: str
    prompt: str
    response: str
    model: str
    ratings: dict[str, int]
