"""Notebook 07 compares policies in its own cells, notebook 10 by one function: the same numbers."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers import data, evaluation, profiles, world
from helpers.course import execute


def cell(with_text):
    """The one code cell of notebook 07 that holds this text."""
    sources = ["".join(c["source"]) for c in execute.read_notebook(execute.notebooks()["07"])["cells"]
               if c["cell_type"] == "code"]
    [found] = [source for source in sources if with_text in source]
    return found


@pytest.fixture
def answers():
    """By policy, an answer to each of some questions: its own, the next one's, and half of it."""
    rows = data.load_demonstrations(profiles.load_profile("embedded"), "test", 40)
    prompts, own = [row["prompt"] for row in rows], [row["response"] for row in rows]
    return prompts, {"ppo": own, "base": own[1:] + own[:1],
                     "sft": [text[: len(text) // 2] if i % 3 else text
                             for i, text in enumerate(own)]}


def test_the_one_call_and_the_cells_by_hand_say_the_same(answers):
    prompts, texts = answers
    scores = {name: np.array([world.gold_utility(p, t) for p, t in zip(prompts, some, strict=True)])
              for name, some in texts.items()}
    lengths = {name: np.array([len(t.split()) for t in some]) for name, some in texts.items()}
    silent = SimpleNamespace(verdict=lambda *_, **__: None, bars=lambda *_, **__: None)
    how = {"level": 0.9, "resamples": 300}
    names = {
        "np": np, "evaluation": evaluation, "win_rate": evaluation.win_rate, "course": silent,
        "bootstrap_interval": evaluation.bootstrap_interval, "plots": silent, "scores": scores,
        "seed": 4, "level": how, "judge_name": "gold", "settings": SimpleNamespace(world_known=True),
        "rollouts": {name: SimpleNamespace(lengths=SimpleNamespace(numpy=lambda n=n: n),
                                           finished=SimpleNamespace(numpy=lambda n=n: n > 9))
                     for name, n in lengths.items()}}
    exec(cell("rates = {label: win_rate("), names)
    exec(cell("controlled = evaluation.length_controlled_win_rate("), names)

    by_hand = {"ppo": "PPO over SFT"}
    for against, wanted in (("sft", by_hand), ("base", {"sft": "SFT over base",
                                                        "ppo": "PPO over base"})):
        rows = {row["policy"]: row for row in evaluation.compare_policies(
            scores, lengths, against, seed=4, **how)}
        for name, label in wanted.items():
            assert rows[name]["win_rate"] == names["rates"][label]
            assert rows[name]["gain"] == names["gains"][label]
            assert 0 < rows[name]["win_rate"][0] < 1
        if against == "sft":
            assert rows["ppo"]["win_rate_equal_length"] == names["controlled"]
