"""Comparison classifiers with ties, and ties from a reward model."""

import math

import numpy as np
import pytest
import torch
from support import answer_tokenizer, make_pairs, make_scorer

from helpers import comparison
from helpers.errors import UserError


@pytest.fixture(scope="module")
def tokenizer():
    return answer_tokenizer()


def make_rows(n, seed=0):
    """"good" wins against "bad", and two times "fine" is a tie."""
    rng = np.random.default_rng(seed)
    words = {"a": ("good", "bad"), "b": ("bad", "good"), "tie": ("fine", "fine")}
    rows = []
    for pair in make_pairs(n, seed):
        winner = str(rng.choice(["a", "b", "tie"]))
        first, second = (f"{word} {rng.choice(['yes', 'maybe'])}" for word in words[winner])
        rows.append({"prompt": pair["prompt"], "winner": winner, "response_a": first,
                     "response_b": second})
    return rows


def test_encoding_holds_prompt_and_both_responses_each_with_its_end(tokenizer):
    row = make_rows(1)[0]
    ids = comparison.encode_comparisons(tokenizer, [row], 64)[0]["ids"]
    assert ids.count(tokenizer.eos_token_id) == 2 and ids[-1] == tokenizer.eos_token_id
    text = " ".join((row["prompt"], row["response_a"], "<eos>", row["response_b"], "<eos>"))
    assert tokenizer.decode(ids) == text


def test_bad_comparisons_are_named(tokenizer):
    rows = make_rows(3)
    with pytest.raises(UserError, match="comparison 1: the winner is 'c'; it must be a, b or tie"):
        comparison.encode_comparisons(tokenizer, [rows[0], rows[1] | {"winner": "c"}], 64)
    with pytest.raises(UserError, match="comparison 0: response_b is empty"):
        comparison.encode_comparisons(tokenizer, [rows[0] | {"response_b": " "}], 64)
    with pytest.raises(UserError, match="none of the 3 comparisons fits"):
        comparison.encode_comparisons(tokenizer, rows, 4)


def test_mixed_precision_multiplies_in_bfloat16(tokenizer, tmp_path):
    model, seen = make_scorer(tokenizer, num_labels=3), set()
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda m, i, o: seen.add(o.dtype))
    comparison.train_comparison_model(
        model, tokenizer, make_rows(20), make_rows(8, seed=1), tmp_path, max_length=64, bf16=True
    )
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_training_learns_wins_and_ties_and_the_order_has_no_say(tokenizer, tmp_path):
    model = make_scorer(tokenizer, num_labels=3)
    for module in model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    rows, test = make_rows(300), make_rows(80, seed=1)
    history = comparison.train_comparison_model(
        model, tokenizer, rows, test, tmp_path, epochs=6, learning_rate=1e-2, max_length=64
    )
    assert history[0]["loss"] == pytest.approx(math.log(3), abs=0.3)
    probabilities = comparison.compare(model, tokenizer, test, 64)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    winners = [comparison.WINNERS[i] for i in probabilities.argmax(axis=1)]
    assert np.mean([w == row["winner"] for w, row in zip(winners, test, strict=True)]) > 0.85
    other = comparison.compare(model, tokenizer, comparison.swapped(test), 64)
    np.testing.assert_allclose(other[:, [1, 0, 2]], probabilities, atol=1e-6)


def test_davidson_keeps_the_odds_of_bradley_terry():
    margins = np.array([-2.0, 0.0, 1.0])
    without = comparison.davidson(margins, 0.0)
    np.testing.assert_allclose(without[:, 0], 1 / (1 + np.exp(-margins)), atol=1e-9)
    with_ties = comparison.davidson(margins, 0.7)
    np.testing.assert_allclose(np.log(with_ties[:, 0] / with_ties[:, 1]), margins)
    assert with_ties[:, 2].argmax() == 1  # ties are likeliest between equals


def test_the_fitted_tie_recovers_the_one_that_made_the_data():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 1.5, 20_000)
    probabilities = comparison.davidson(margins, 0.8)
    winners = [comparison.WINNERS[rng.choice(3, p=p)] for p in probabilities]
    assert comparison.fit_tie(margins, winners) == pytest.approx(0.8, rel=0.1)


def test_log_loss_of_knowing_nothing_is_log_three():
    assert comparison.log_loss(np.full((4, 3), 1 / 3), list("abab")) == pytest.approx(math.log(3))


# ------------------------------------------------------------------- the same judgements as pairs


PROMPT = "\n\nHuman: How do I keep basil alive?\n\nAssistant:"
GOOD = "Put the pot on a bright windowsill and water it from below when the soil feels dry."
BAD = "Basil basil basil no."


def test_decided_comparisons_become_pairs_and_scores_turn_with_them():
    row = {"prompt": "p", "response_a": "x", "response_b": "y", "score_gap": 2.0,
           "probability": 0.9}
    rows = [row | {"winner": winner} for winner in ("a", "tie", "b")]
    won, lost = comparison.as_pairs(rows)
    assert (won["chosen"], won["rejected"], won["score_gap"]) == ("x", "y", 2.0)
    assert (lost["chosen"], lost["rejected"], lost["score_gap"]) == ("y", "x", -2.0)
    assert (won["probability"], lost["probability"]) == (0.9, pytest.approx(0.1))
    bare = comparison.as_pairs([{"prompt": "p", "response_a": "x", "response_b": "y",
                                 "winner": "b"}])
    assert bare[0]["score_gap"] is None and bare[0]["probability"] is None


def test_simulated_annotators_prefer_the_better_answer_and_tie_between_equals():
    from helpers import world

    best = GOOD + (" For example, a pot on a south window in May feeds a family of four, because "
                   "basil loves the sun.")
    clear = {"prompt": PROMPT, "chosen": best, "rejected": BAD,
             "probability": world.preference_probability(PROMPT, best, BAD)}
    near = clear | {"rejected": best.replace("bright", "sunny"), "probability": 0.5}
    rows = comparison.simulated_comparisons([clear] * 60, seed=1)
    pairs = comparison.as_pairs(rows)
    assert {row["response_a"] for row in rows} == {best, BAD}  # either stands first
    assert np.mean([pair["chosen"] == best for pair in pairs]) > 0.8
    assert np.mean([pair["score_gap"] > 0 for pair in pairs if pair["chosen"] == best]) > 0.9
    assert all(pair["probability"] > 0.5 for pair in pairs if pair["chosen"] == best)
    tied = comparison.simulated_comparisons([near] * 60, seed=1)
    counted = [sum(row["winner"] == "tie" for row in judged) for judged in (rows, tied)]
    expected = 60 * 1.5 / 3.5  # by Davidson's rule, between equals
    assert abs(counted[1] - expected) < 3 * math.sqrt(expected * (1 - 1.5 / 3.5))
    assert counted[1] > 15 + counted[0]  # between unequals, fewer
    assert rows == comparison.simulated_comparisons([clear] * 60, seed=1)
    assert not any(row["winner"] == "tie" for row in comparison.simulated_comparisons(
        [near] * 60, seed=1, ties=0.0))
