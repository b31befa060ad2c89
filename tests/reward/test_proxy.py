"""A reward model as a proxy: Gao's forms, peaks that are not luck, careful ensembles."""

from itertools import combinations

import numpy as np
import pytest

from helpers import evaluation, reward
from helpers.errors import UserError


def made(alpha, beta, form, d):
    return d * (alpha - beta * d) if form == "best_of_n" else d * (alpha - beta * np.log(d))


def test_the_best_of_n_of_every_subset():
    rng = np.random.default_rng(0)
    scores, gold = rng.normal(size=(3, 7)), rng.normal(size=(3, 7))
    found = reward.best_of_each(scores, gold, (1, 3, 7))
    for row, n in zip(found, (1, 3, 7), strict=True):
        for question in range(3):
            slow = np.mean([gold[question, max(subset, key=lambda i, q=question: scores[q, i])]
                            for subset in combinations(range(7), n)])
            assert row[question] == pytest.approx(slow)
    curve = evaluation.best_of_curve(scores, gold, steps=3)
    assert reward.best_of_each(scores, gold, curve["n"]).mean(1) == pytest.approx(curve["gold"])


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_a_fit_finds_the_numbers_that_made_the_curve_and_its_peak(form):
    d = np.linspace(0.2, 4, 12)
    alpha, beta = reward.gao_fit(d, made(1.3, 0.4, form, d), form)
    assert (alpha, beta) == pytest.approx((1.3, 0.4))
    fine = np.linspace(0.01, 12, 100_000)
    peak = reward.gao_peak(alpha, beta, form)
    assert fine[made(1.3, 0.4, form, fine).argmax()] == pytest.approx(peak, abs=1e-3)
    assert reward.gao_shape(np.array([0.0]), form).tolist() == [[0.0, 0.0]]


def test_a_curve_that_never_turns_has_no_peak():
    assert reward.gao_peak(1.0, 0.0, "best_of_n") == reward.gao_peak(1.0, -0.2, "rl") == np.inf
    assert reward.gao_peak(1000.0, 0.1, "rl") == np.inf  # beyond any number


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_the_bootstrap_draws_questions_and_holds_the_truth(form):
    rng, d = np.random.default_rng(1), np.concatenate([[0.0], np.linspace(0.4, 3, 8)])
    truth = np.concatenate([[0.0], made(1.0, 0.3, form, d[1:])])
    held = 0
    for seed in range(40):
        of_question = rng.normal(size=(1, 40))  # all points of a question move together
        gold = 2.0 + truth[:, None] * (1 + 0.5 * of_question)
        draws = reward.gao_bootstrap(d, gold, form, resamples=200, seed=seed)
        assert draws.shape == (200, 3)
        low, high = reward.interval_of(draws[:, 0])
        held += low <= 1.0 <= high
    assert held >= 33
    whole = reward.gao_fit(d, (gold - gold[0]).mean(1), form)
    assert draws[:, :2].mean(0) == pytest.approx(whole, rel=0.05)


def test_an_interval_may_be_open_above():
    assert reward.interval_of(np.array([1.0] * 50 + [np.inf] * 50)) == (1.0, np.inf)
    assert reward.interval_of(np.arange(1001.0)) == (25.0, 975.0)


def test_a_peak_that_is_luck_is_no_fall():
    """Points alike but for noise: the highest of them lies above the last, and means nothing."""
    falls, naive = [], []
    for seed in range(200):
        gold = np.random.default_rng(seed).normal(size=(12, 40))
        falls.append(reward.fall_from_peak(gold).mean())
        naive.append((gold[gold.mean(1).argmax()] - gold[-1]).mean())
    assert np.mean(naive) > 0.2 and abs(np.mean(falls)) < 0.05


def test_a_fall_that_is_there_is_found_question_by_question():
    gold = np.zeros((3, 6))
    gold[1] = 2.0 + np.arange(6)
    assert reward.fall_from_peak(gold).tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    with pytest.raises(UserError, match="give two"):
        reward.fall_from_peak(gold[:, :1])


def test_careful_ensembles():
    scores = np.array([[1.0, 3.0], [1.0, 0.0], [1.0, 0.0]])
    assert reward.conservative(scores, "mean").tolist() == [1.0, 1.0]
    assert reward.conservative(scores, "minimum").tolist() == [1.0, 0.0]
    lower = reward.conservative(scores, "mean less spread")
    assert lower[0] == 1.0 and lower[1] == pytest.approx(1 - np.sqrt(3))
    with pytest.raises(UserError, match="no way"):
        reward.conservative(scores, "median")


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(UserError, match="two different distances"):
        reward.gao_fit(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "best_of_n")
    with pytest.raises(UserError, match="there is no form"):
        reward.gao_fit(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "ppo")
