"""The review generator: determinism, splits, probabilities, variety, and prose."""

import math
import random
import re

import pytest

from data import measure
from helpers.world import grammar
from helpers.world import write_reviews as reviews
from helpers.world.grammar import Draw, Grammar, fix_articles, partition, polish

SAMPLE = reviews.make_reviews(2000, seed=0, split="train")
TEXTS = [row["text"] for row in SAMPLE]


def test_every_choice_adds_its_log_probability():
    draw = Draw(3)
    draw.choice("abcd")
    draw.flip(0.25)
    after_flip = draw.logprob
    assert after_flip in (
        pytest.approx(math.log(0.25) + math.log(0.25)),
        pytest.approx(math.log(0.25) + math.log(0.75)),
    )
    draw.integer(1, 6)
    assert draw.logprob == pytest.approx(after_flip - math.log(6))
    draw.flip(1.0)
    assert draw.logprob == pytest.approx(after_flip - math.log(6))


def test_the_log_probability_of_a_grammar_matches_the_frequencies():
    rules = Grammar(
        {
            "s": [("{n} [sleeps|eats|eats]", 1.0), ("nobody", 1.0)],
            "n": [("a cat", 3.0), ("a dog", 1.0)],
        }
    )
    counts, logprobs = {}, {}
    for i in range(4000):
        draw = Draw(i)
        text = rules.expand(draw, "s")
        counts[text] = counts.get(text, 0) + 1
        logprobs[text] = draw.logprob
    # "a cat eats" has two derivations of equal probability
    assert math.exp(logprobs["a cat sleeps"]) == pytest.approx(0.5 * 0.75 / 3)
    assert counts["a cat sleeps"] / 4000 == pytest.approx(0.125, abs=0.02)
    assert counts["a cat eats"] / 4000 == pytest.approx(
        2 * math.exp(logprobs["a cat eats"]), abs=0.03
    )


def test_weighted_choice_has_the_stated_probability():
    draw = Draw(1)
    assert draw.choice(["x"], [5.0]) == "x"
    assert draw.logprob == 0.0
    seen = [Draw(i).choice("ab", (9, 1)) for i in range(2000)]
    assert seen.count("a") / 2000 == pytest.approx(0.9, abs=0.03)


def test_fresh_never_repeats_until_all_are_used():
    bank = tuple(range(7))
    draw = Draw(0)
    assert sorted(draw.fresh(bank) for _ in range(7)) == list(bank)
    assert draw.logprob == pytest.approx(-math.log(math.factorial(7)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a apple", "an apple"),
        ("an union", "a union"),
        ("a honest man", "an honest man"),
        ("a uninspired film", "an uninspired film"),
        ("A 8", "An 8"),
        ("an big one", "a big one"),
    ],
)
def test_articles(before, after):
    assert fix_articles(before) == after


def test_polish_mends_capitals_and_spaces():
    assert (
        polish('so it ends , then . "a apple," he said') == 'So it ends, then. "An apple," he said'
    )


def test_unknown_slots_are_named():
    with pytest.raises(KeyError, match="nobody"):
        Grammar().write(Draw(0), "{nobody}")


def test_same_seed_same_reviews_and_log_probabilities():
    again = reviews.make_reviews(50, seed=0, split="train")
    assert again == SAMPLE[:50]


def test_a_longer_list_starts_with_the_shorter_one():
    assert reviews.make_reviews(5, 0, "train") == SAMPLE[:5]


def test_log_probabilities_are_finite_and_negative():
    assert all(math.isfinite(row["logprob"]) and row["logprob"] < -20 for row in SAMPLE)


def test_splits_and_seeds_share_no_text():
    seen = set(TEXTS)
    for split, seed in (("validation", 0), ("test", 0), ("ood", 0), ("train", 1)):
        texts = {row["text"] for row in reviews.make_reviews(500, seed, split)}
        assert not texts & seen
        seen |= texts


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'trian'"):
        reviews.make_reviews(1, 0, "trian")


def test_out_of_distribution_clauses_and_names_are_never_used_elsewhere():
    train, ood = reviews._world("train"), reviews._world("ood")
    for name, bank in reviews.read_banks().items():
        if name.split()[1] in reviews.SHARED or name.startswith("rule "):
            continue
        if len(bank) >= 12:
            assert not set(train.banks[name]) & set(ood.banks[name]), name


def test_partition_does_not_move_when_a_bank_grows():
    bank = [f"clause {i}" for i in range(60)]
    small, large = partition(bank[:40], "ood"), partition(bank, "ood")
    assert small == [c for c in large if c in bank[:40]]


def test_labels_follow_ratings():
    for row in SAMPLE:
        assert row["rating"] in (1, 2, 3, 4, 7, 8, 9, 10)
        assert row["label"] == int(row["rating"] >= 7)
        assert set(row["stance"]) == set(reviews.ASPECTS)
        assert all(value in (-2, -1, 1, 2) for value in row["stance"].values())
    assert 0.45 < sum(row["label"] for row in SAMPLE) / len(SAMPLE) < 0.55


def test_the_text_looks_like_prose():
    for text in TEXTS:
        assert re.fullmatch(r"[A-Z\"“].*[.!?][\"”]?", text, re.DOTALL), text
        assert not re.search(r"[{}\[\]|~]|  | [,.;:!?]|,,|,\.|\bNone\b", text), text
        assert not re.search(r"\b[Aa] [aeio]\w", text), text


def test_third_person():
    for base, third in [
        ("carry the film", "carries the film"),
        ("twist and turn with wit", "twists and turns with wit"),
        ("go nowhere", "goes nowhere"),
        ("play", "plays"),
        ("catch the light", "catches the light"),
    ]:
        assert reviews.third_person(base) == third


def test_at_least_eight_hundred_clauses():
    assert reviews.count_clauses() >= 800
    assert len(reviews.ASPECTS) >= 8


def test_variety():
    assert measure.distinct_share(TEXTS, 4) >= 0.45
    assert measure.common_sentences(TEXTS, top=1)[0][0] <= 0.005
    assert measure.common_runs(TEXTS, top=1)[0][0] <= 0.01
    assert measure.vocabulary(TEXTS) >= 3000
    assert measure.duplicate_share(TEXTS) == 0.0


def test_lengths_vary_between_half_a_hundred_and_250_words():
    lengths = sorted(len(text.split()) for text in TEXTS)
    assert lengths[0] >= 40 and lengths[-1] <= 250
    assert lengths[1800] > 1.7 * lengths[200]


def test_gold_agrees_with_the_label_of_unambiguous_reviews():
    assert measure.review_figures(SAMPLE[:500])["gold agreement (unambiguous)"] >= 0.97


def test_a_bag_of_words_is_not_enough():
    train = [r for r in reviews.make_reviews(4000, 1, "train") if reviews.is_unambiguous(r)]
    test = [r for r in reviews.make_reviews(1000, 0, "test") if reviews.is_unambiguous(r)]
    args = (
        [r["text"] for r in train],
        [r["label"] for r in train],
        [r["text"] for r in test],
        [r["label"] for r in test],
    )
    words = measure.bag_of_words_accuracy(*args)
    assert words <= 0.88
    assert measure.bag_of_words_accuracy(*args, ngrams=2) >= words + 0.04


def test_measures_on_a_known_list():
    texts = ["One two three four. One two three four.", "One two three four! Five."]
    assert measure.common_sentences(texts, top=1) == [(1.0, "one two three four")]
    assert measure.duplicate_share(["a", "b", "a", "a"]) == 0.5
    assert measure.distinct_share(["a b c d e"], 4) == 1.0
    assert measure.common_runs(["a b c", "a b d"], length=2, top=1) == [(1.0, "a b")]
    assert measure.vocabulary(["A b", "a C"]) == 3


def test_shuffling_the_banks_is_not_needed_for_determinism():
    random.seed(1)
    first = reviews.make_reviews(3, 9, "test")
    random.seed(2)
    assert reviews.make_reviews(3, 9, "test") == first
    assert grammar.Draw("x").rng.random() == grammar.Draw("x").rng.random()
