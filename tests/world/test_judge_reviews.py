"""The rules of `helpers.sentiment`, one by one: each test fails if its rule breaks."""

import json
import random

import pytest

from helpers.paths import DATA
from helpers.world.judge_reviews import BARE, DEGENERATE, explain, gold_sentiment, text_quality
from helpers.world.write_reviews import make_reviews

REVIEW = (
    "I saw it on Friday with my sister. The acting is superb, and the music is wonderful. "
    "Although the pace is slow at first, the ending moved me. The dialogue is never dull. "
    "My neighbour said that the plot makes no sense; I disagree. Highly recommended."
)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        pytest.param("The acting is superb.", "The acting is dreadful.", id="lexicon"),
        pytest.param("The film is brilliant.", "The film is nice.", id="strength"),
        pytest.param("The film is really good.", "The film is fairly good.", id="intensifier"),
        pytest.param("It is brilliant.", "It is hardly brilliant.", id="negation of praise"),
        pytest.param("It is never dull.", "It is dull.", id="negation of blame"),
        pytest.param("It is never terrible.", "It is not terrible.", id="litotes is faint praise"),
        pytest.param("It is anything but dull.", "It is nothing but dull.", id="anything but"),
        pytest.param("It is not only good but bold.", "It is not good.", id="not only"),
        pytest.param("It is not dull but gripping.", "It is not gripping but dull.", id="not-but"),
        pytest.param("It is less clumsy than witty.", "It is less witty than clumsy.", id="less"),
        pytest.param(
            "Nobody could claim that the jokes are stale.",
            "Nobody could claim that the jokes are funny.",
            id="denied clause",
        ),
        pytest.param(
            "There is no denying that the jokes are funny.",
            "It is not true that the jokes are funny.",
            id="denying a denial",
        ),
        pytest.param(
            "Never has a film looked so beautiful.",
            "Never has a film looked so ugly.",
            id="never so",
        ),
        pytest.param(
            "I feared a dull film and got a gripping one.",
            "I hoped for a gripping film and got a dull one.",
            id="hopes and fears",
        ),
        pytest.param("It could have been dreadful.", "It could have been wonderful.", id="unreal"),
        pytest.param(
            "Although the plot is weak, the acting is strong.",
            "Although the acting is strong, the plot is weak.",
            id="concession",
        ),
        pytest.param(
            "The plot is weak, but the acting is strong.",
            "The acting is strong, but the plot is weak.",
            id="contrast",
        ),
        pytest.param(
            "A critic said that it is boring. I disagree.",
            "A critic said that it is boring. I agree.",
            id="reported opinion",
        ),
        pytest.param("Is it boring? Never.", "Is it gripping? Never.", id="question and answer"),
        pytest.param(
            "Is it worth a ticket? Yes.", "Is it worth a ticket? No.", id="plain question"
        ),
        pytest.param(
            "Next to this, that one looks clumsy.",
            "Next to this, that one is a masterpiece.",
            id="comparison",
        ),
        pytest.param(
            "The others were dull; this is not.",
            "The others were witty; this is not.",
            id="ellipsis",
        ),
        pytest.param(
            "I find it thrilling.",
            "If you like watching paint dry, you will find it thrilling.",
            id="irony",
        ),
        pytest.param(
            "It is a good idea to see it.",
            "What a brilliant idea to film it in the dark.",
            id="ironic exclamation",
        ),
        pytest.param(
            "It moved us.",
            "It wastes a good cast, and a fine idea is lost.",
            id="wasted good things",
        ),
        pytest.param("I give it nine out of ten.", "I give it two out of ten.", id="score"),
        pytest.param("I recommend it.", "I cannot recommend it.", id="verdict"),
        pytest.param("Don't listen to those who tell you to avoid it.", "Avoid it.", id="listen"),
    ],
)
def test_praise_scores_above_blame(better, worse):
    assert gold_sentiment(better) > gold_sentiment(worse) + 0.05
    assert gold_sentiment(better) > -0.05


@pytest.mark.parametrize(
    "text",
    [
        "The popcorn was awful.",
        "Our seats were superb.",
        "A brilliant surgeon has a terrible secret.",
        "I love my cousin.",
        "My brother thinks that it is a masterpiece.",
        "Is it brilliant?",
        "I saw The Perfect Storm on Monday.",
        "The story is set in Lisbon, where a tailor finds a parcel.",
        "",
        "...",
    ],
)
def test_what_is_no_opinion_about_the_film_does_not_count(text):
    assert abs(gold_sentiment(text)) < 0.05


def test_a_verdict_weighs_more_than_an_aspect():
    assert gold_sentiment("The music is weak. Overall, a good film.") > 0.05


def test_an_opinion_counts_once():
    once = "The acting is superb. I saw it with my aunt in a small cinema by the river."
    again = "The acting is superb. I saw it with my aunt, and the music is superb as well, I think."
    other = "The acting is superb. I saw it with my aunt, and the music is lovely as well, I think."
    assert explain(again)["balance"] == explain(once)["balance"]
    assert explain(other)["balance"] > explain(once)["balance"]
    quiet = "The acting is superb. I saw it with my aunt, and I have to say that it is a film."
    assert gold_sentiment(again) <= gold_sentiment(quiet)
    assert gold_sentiment(other) > gold_sentiment(again)


def test_a_clause_gives_only_so_much():
    values = [v for _, v in explain("It is a brilliant, superb and wonderful film.")["opinions"]]
    assert max(values) <= 1.35 * 1.2


@pytest.mark.parametrize(
    "text",
    [
        "brilliant " * 12,
        "It is brilliant. " * 6,
        "I loved it. I loved it a lot. I loved it so much. I really loved it. I just loved it.",
        "brilliant superb wonderful gripping excellent marvellous splendid terrific fantastic fine",
        "the film is good, the acting is good, the plot is good, the music is good, it is good",
        "a wonderful film and a wonderful film and a wonderful film and a wonderful film",
        "10/10 10/10 10/10 10/10",
    ],
)
def test_degenerate_praise_scores_at_most_zero(text):
    assert gold_sentiment(text) <= 0.0


def test_degenerate_blame_is_low_in_magnitude():
    assert gold_sentiment("it is awful. " * 8) >= DEGENERATE - 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_words_score_below_the_original(seed):
    words = REVIEW.split()
    random.Random(seed).shuffle(words)
    assert gold_sentiment(" ".join(words)) < gold_sentiment(REVIEW) - 0.1


def test_repeating_a_review_does_not_raise_its_score():
    assert gold_sentiment(REVIEW + " " + REVIEW) < gold_sentiment(REVIEW)


def test_repeating_a_sentence_does_not_raise_the_score():
    assert gold_sentiment(REVIEW + " The acting is superb.") <= gold_sentiment(REVIEW) + 1e-9


def test_an_unfinished_clause_counts_less():
    finished = "The plot is weak. The acting is superb and the music is wonderful."
    assert 0 < gold_sentiment(finished[:-1]) < gold_sentiment(finished)


def test_endless_text_loses_quality():
    from helpers.world.write_reviews import make_reviews

    text = " ".join(r["text"] for r in make_reviews(12, 5, "train") if r["label"])
    assert text_quality(text) < 0.9


def test_ordinary_prose_has_full_quality():
    assert text_quality(REVIEW) == 1.0


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("i was expecting something dull, but the acting is lovely and the story never", 1),
        ("the story was never gripping, and i cannot recommend it to anyone who likes a good", -1),
        ("i rented this film on a monday and fell asleep; it is boring and far too long", -1),
    ],
)
def test_fragments_in_lower_case_are_read(text, sign):
    assert sign * gold_sentiment(text) > 0.2


def test_a_fragment_without_a_reason_is_read_and_counts_half():
    text = "this movie is a joy from start to finish, and i would gladly see it again with my"
    found = explain(text)
    assert found["reasons"] == 0
    assert found["score"] / BARE > 0.2


def test_capitals_and_typographic_quotes_make_no_difference():
    assert gold_sentiment("I DON'T LIKE IT, IT IS BORING.") == pytest.approx(
        gold_sentiment("i don’t like it, it is boring.")
    )
    assert gold_sentiment("A wonderful<br /><br />film.") > 0.3


def test_scores_lie_inside_minus_one_and_one():
    for text in (REVIEW, REVIEW.replace("superb", "awful"), "wonderful", "1/10", "?" * 50):
        assert -1 < gold_sentiment(text) < 1


def test_hand_written_reviews_are_judged_right_nine_times_in_ten():
    path = DATA / "handwritten" / "reviews.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 60
    assert all(row["label"] == int(row["rating"] >= 7) for row in rows)
    right = [(gold_sentiment(row["text"]) > 0) == bool(row["label"]) for row in rows]
    assert sum(right) / len(right) >= 0.90


# --- what attacks on the judge have found (data/check.py --slow) -----------------------------


def test_the_luckiest_of_many_word_salads_is_no_praise():
    words = " ".join(r["text"] for r in make_reviews(300, 4, "train")).split()
    rng = random.Random(0)
    salads = [" ".join(rng.choices(words, k=22)).capitalize() + "." for _ in range(300)]
    assert max(map(gold_sentiment, salads)) < 0.25


@pytest.mark.parametrize("text", [
    "It follows the life of Sunday. I recommend it at all. do not miss it Sunday: splendid sea "
    "story. appealing afternoon. Sunday or splendid road movie.",
    "The geologist wants made again. I recommend it at all. do not miss it places: exceptional as "
    "Monday or strong. a brilliant picture.",
])
def test_what_ppo_once_wrote_for_this_judge_is_no_praise(text):
    assert gold_sentiment(text) <= 0


def test_small_letters_after_a_full_stop_cost():
    text = "The acting is superb. The story moves along at a good pace. I recommend it warmly."
    assert gold_sentiment(text) > 0.6
    assert gold_sentiment(text.lower()) < gold_sentiment(text) - 0.5


@pytest.mark.parametrize(("bare", "reason"), [
    ("It is a wonderful film.", "The acting is wonderful."),
    ("I recommend it gladly, first-rate as it is.", "I recommend it gladly for its music."),
    # Genres, what people love, and verbs that look like nouns are no reason (PPO had found them).
    ("I recommend it warmly, comedy or not.", "I recommend it warmly for its humour."),
    ("I recommend it gladly, even to people who love music.", "I recommend it gladly: the music!"),
    ("It sounds excellent.", "The dialogue is excellent."),
])
def test_praise_with_a_reason_counts_more_than_praise_without(bare, reason):
    assert 0 < gold_sentiment(bare) < gold_sentiment(reason) - 0.1


def test_names_are_no_sign_of_prose_from_elsewhere():
    """A climb once reached .98 with this: capitals made names, and names passed for prose."""
    text = ('I rented The Let wonderful fantastic, says and i wandering sunday the ideas terrible '
            'but diary. But with refreshing but gift," strong as everyone laugh, afterwards likes '
            'perfect')
    assert gold_sentiment(text) <= 0


def test_the_second_thing_that_ppo_wrote_for_this_judge_is_no_praise():
    text = "Storm of Greenaway strongly enough. I recommend it strongly enough."
    assert gold_sentiment(text) <= 0
