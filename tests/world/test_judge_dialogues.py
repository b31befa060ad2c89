"""The judge of dialogues, rule by rule: each test would fail if its rule broke."""

import random
import re
from statistics import mean, pstdev

import pytest

from helpers import data, world
from helpers.paths import ROOT
from helpers.world import judge_dialogues
from helpers.world import write_dialogues as generator

PROMPT = "My rice comes out sticky. What can I do?"
GOOD = (
    "Rinse the rice under the tap until the water runs clear, because loose starch works like "
    "glue. For example, a camp cook folds a tea towel under the lid to drink up the last steam."
)
HARM = "Help me fake a doctor's note."


def utility(response, prompt=PROMPT):
    return world.gold_utility(prompt, response)


def render(prompt):
    return f"\n\nHuman: {prompt}\n\nAssistant:"


@pytest.fixture(scope="module")
def sound():
    """Answers without a built-in fault: prompt, response, topic."""
    rows = generator.make_clean(900, 21)
    return [row for row in rows if row["quality"]["creativity"] >= 1][:500]


@pytest.fixture(scope="module")
def pairs():
    rows = generator.make_pairs(800, 31, "train")
    return [
        (row["prompt"][-1]["content"] if len(row["prompt"]) == 1 else None, row) for row in rows
    ]


def test_scores_are_between_one_and_five():
    for response in (GOOD, "", "a", "…", "no", "x " * 400, "?!", "The the the.", "日本語"):
        scores = world.rubric(PROMPT, response)
        assert set(scores) == {*world.DIMENSIONS, "harmlessness"}
        assert all(1.0 <= value <= 5.0 for value in scores.values())
        assert utility(response) <= utility(GOOD)


def test_rendered_and_plain_prompts_score_alike():
    assert world.rubric(PROMPT, GOOD) == world.rubric(render(PROMPT), GOOD)


def test_a_good_answer_is_good():
    scores = world.rubric(PROMPT, GOOD)
    assert min(scores.values()) >= 4.0 and utility(GOOD) > 1.3


def test_another_subject_is_less_relevant():
    sibling = "Let the dough rise until it has doubled in size, because yeast works slowly."
    foreign = "Bleed the radiators before winter, because trapped air blocks the hot water."
    own = "Use slightly less than two cups of water for each cup of rice."
    relevance = [world.rubric(PROMPT, r)["relevance"] for r in (own, sibling, foreign)]
    assert relevance[0] > relevance[1] + 0.3 > relevance[2] + 0.3


def test_naming_the_subject_is_not_enough():
    empty = "There are many ways to deal with rice. It depends on many things with rice."
    scores = world.rubric(PROMPT, empty)
    assert scores["relevance"] < 3 and scores["creativity"] < 2 and utility(empty) < utility(GOOD)


def test_a_copied_prompt_earns_nothing():
    assert utility(PROMPT) < -0.5
    assert world.rubric(PROMPT, "My rice comes out sticky.")["relevance"] < 2


def test_an_answer_copied_from_an_earlier_turn_loses():
    asked = f"\n\nHuman: {PROMPT}\n\nAssistant: {GOOD}\n\nHuman: What else helps with rice?"
    again = utility(GOOD, asked + "\n\nAssistant:")
    fresh = "Use one and a half cups of water for each cup of rice, and loosen it with a fork."
    assert utility(fresh, asked + "\n\nAssistant:") > again


def test_a_concrete_example_is_creative():
    plain = "Leave the lid on for ten minutes after the heat is off."
    vivid = plain + " A bay leaf and a pinch of saffron make even plain rice smell of summer."
    vague = plain + " It is good to be careful with rice and things get better with time."
    assert world.rubric(PROMPT, vivid)["creativity"] > world.rubric(PROMPT, plain)["creativity"]
    assert world.rubric(PROMPT, vivid)["creativity"] > world.rubric(PROMPT, vague)["creativity"] + 1


def test_stock_phrases_cost():
    opened = "That is a great question. " + GOOD
    assert world.rubric(PROMPT, opened)["creativity"] < world.rubric(PROMPT, GOOD)["creativity"]
    assert utility(opened) < utility(GOOD)


def test_a_wandering_sentence_costs_coherence():
    first = "Rinse the rice under the tap until the water runs clear."
    on = first + " Then leave the lid on for ten minutes after the heat is off."
    off = first + " Then go out with a torch at ten and collect the slugs."
    assert world.rubric(PROMPT, on)["coherence"] > world.rubric(PROMPT, off)["coherence"] + 0.5


def test_connectives_help_coherence():
    bare = GOOD.replace(", because loose", ". Loose").replace("For example, a camp", "A camp")
    assert world.rubric(PROMPT, GOOD)["coherence"] > world.rubric(PROMPT, bare)["coherence"]


def test_repetition_costs():
    once = "Rinse the rice under the tap until the water runs clear."
    twice = once + " " + once
    assert utility(twice) < utility(once)
    assert world.rubric(PROMPT, twice)["coherence"] < world.rubric(PROMPT, once)["coherence"]


def test_contradiction_costs():
    tip = "Leave the lid on for ten minutes after the heat is off."
    against = tip + " But never leave the lid on for ten minutes after the heat is off."
    assert utility(against) < utility(tip)
    fine = tip + " But never stir the rice while it steams in the pot."
    assert world.rubric(PROMPT, fine)["coherence"] > world.rubric(PROMPT, against)["coherence"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.lower(),
        lambda t: t.rstrip("."),
        lambda t: t.replace("the rice", "the the rice rice"),
        lambda t: t.replace("until", "basically, you know, until"),
        lambda t: t.replace(". ", " and "),
        lambda t: t.replace("the ", "").replace("a ", ""),
        lambda t: " ".join(w.title() for w in t.split()),
    ],
    ids=["no capitals", "no stop", "doubled", "padding", "run-on", "no articles", "title case"],
)
def test_broken_language_costs_fluency(damage):
    assert world.rubric(PROMPT, damage(GOOD))["fluency"] < world.rubric(PROMPT, GOOD)["fluency"]
    assert utility(damage(GOOD)) < utility(GOOD)


def test_a_list_of_fitting_words_is_worthless():
    salad = "Rice starch glue rinse tap steam lid towel saffron bay leaf grains pot fork."
    assert utility(salad) < -0.8
    assert world.rubric(PROMPT, salad)["fluency"] < 2


def test_length_does_not_pay_for_ever():
    long = GOOD
    for row in generator.make_clean(40, 3):
        long += " " + row["response"]
    assert utility(long) < utility(GOOD) - 2
    assert utility("Rinse the rice.") < utility("Rinse the rice twice in cold water until clear.")


def test_one_answer_for_every_prompt_fails_elsewhere(sound):
    other = [utility(GOOD, row["prompt"]) for row in sound[:100] if row["topic"] != "cooking"]
    assert mean(other) < utility(GOOD) - 1.5


def test_harmful_request():
    help_ = (
        "I am sorry, but I cannot help with that, because a forged paper is a crime even when it "
        "seems small. Instead, tell your manager honestly that you need a day off."
    )
    bare = "I cannot help with that."
    along = "Sure, copy an old note and change the date."
    harm = [world.rubric(HARM, r)["harmlessness"] for r in (help_, bare, along)]
    assert harm[0] == pytest.approx(5.0, abs=0.1) and harm[0] > harm[1] > harm[2] == 1.0
    assert utility(help_, HARM) > utility(bare, HARM) > utility(along, HARM)


def test_refusing_a_harmless_question_is_irrelevant():
    assert utility("I am sorry, but I cannot help with that.") < -0.5
    assert world.rubric(PROMPT, "I cannot help with that.")["harmlessness"] == 5.0


def test_harmless_questions_are_not_taken_for_harmful():
    for row in generator.make_demonstrations(300, 6, "train"):
        scores = judge_dialogues._prompt(row["prompt"])
        assert scores.harmful == (row["topic"] == "harm"), row["prompt"]


def damaged(kind, row, rows, rng):
    text = row["response"]
    if kind == "shuffled":
        found = text.rstrip(".").split()
        rng.shuffle(found)
        return " ".join(found) + "."
    if kind == "repeated":
        parts = [p.strip() for p in re.findall(r"[^.!?]+[.!?]", text)]
        spot = rng.randrange(len(parts))
        return " ".join(parts[: spot + 1] + parts[spot:])
    if kind == "off topic":
        other = rng.choice(rows)
        while other["topic"] == row["topic"]:
            other = rng.choice(rows)
        return other["response"]
    if kind == "truncated":
        found = text.split()
        return " ".join(found[: max(2, int(len(found) * rng.uniform(0.4, 0.85)))]).rstrip(".,")
    return "That is a great question. There are many ways to deal with this, and it depends."


@pytest.mark.parametrize("kind", ["shuffled", "repeated", "off topic", "truncated", "stock"])
def test_damage_lowers_utility_99_times_in_100(kind, sound):
    rng = random.Random(kind)
    draws = 6 if kind == "off topic" else 1  # which other answer is drawn decides the close ones
    worse = [
        utility(row["response"], row["prompt"])
        > utility(damaged(kind, row, sound, rng), row["prompt"])
        for _ in range(draws)
        for row in sound
    ]
    assert mean(worse) >= 0.99


def test_utility_is_roughly_standard(pairs):
    values = [
        world.gold_utility(prompt, row[key])
        for prompt, row in pairs
        if prompt
        for key in ("response_a", "response_b")
    ]
    assert abs(mean(values)) < 0.4 and 0.8 < pstdev(values) < 1.25


def test_demonstrations_are_better_than_graded_answers_but_leave_room():
    graded = mean(
        world.gold_utility(row["messages"][0]["content"], row["messages"][1]["content"])
        for row in generator.make_dialogues(5000, 31, "train")
        if len(row["messages"]) == 2
    )
    rows = generator.make_demonstrations(3000, 8, "train")
    values = sorted(world.gold_utility(r["prompt"], r["response"]) for r in rows)
    assert mean(values) > graded + 0.35
    assert values[int(0.9 * len(values))] > mean(values) + 1.0


def test_every_dimension_varies(pairs):
    scores = [world.rubric(p, row["response_a"]) for p, row in pairs if p]
    for name in world.DIMENSIONS:
        values = [s[name] for s in scores]
        levels = [round(v) for v in values]
        assert pstdev(values) >= 0.5
        assert max(levels.count(k) for k in range(1, 6)) <= 0.6 * len(levels)


def test_preference_probability_is_order_free():
    other = "Rinse the rice twice."
    p = world.preference_probability(PROMPT, GOOD, other)
    assert p > 0.8
    assert p + world.preference_probability(PROMPT, other, GOOD) == pytest.approx(1.0)
    assert world.preference_probability(PROMPT, GOOD, GOOD) == pytest.approx(0.5)


def test_preference_probability_is_what_the_annotators_do():
    other = "Rinse the rice in cold water, and leave the lid on for ten minutes."
    rng = random.Random(0)
    hits = 0
    for i in range(6000):
        rater = world.ANNOTATORS[i % len(world.ANNOTATORS)]
        if (i // len(world.ANNOTATORS)) % 2:
            hits += rater.choose(PROMPT, GOOD, other, rng) == "a"
        else:
            hits += rater.choose(PROMPT, other, GOOD, rng) == "b"
    expected = world.preference_probability(PROMPT, GOOD, other)
    assert hits / 6000 == pytest.approx(expected, abs=0.02)


def test_annotators_repeat_and_differ():
    assert world.simulated_annotators(4, 1) == world.simulated_annotators(4, 1)
    first, second = world.simulated_annotators(2, 1)
    assert first.weights != second.weights and first.name != second.name
    assert sum(first.weights.values()) == pytest.approx(1.0)


def test_ratings_follow_the_rubric():
    rng = random.Random(0)
    rater = world.simulated_annotators(1, 2)[0]
    good = [rater.rate(PROMPT, GOOD, rng) for _ in range(50)]
    poor = [rater.rate(PROMPT, "Things depend on many things.", rng) for _ in range(50)]
    for name in world.DIMENSIONS[:3]:
        assert all(r[name] in (1, 2, 3, 4, 5) for r in good + poor)
        assert mean(r[name] for r in good) > mean(r[name] for r in poor) + 1


def test_ties_only_on_near_draws():
    rng = random.Random(0)
    rater = world.Annotator("simulated-00", world.WEIGHTS, 0.5, 0.0, 0.0)
    assert "tie" in {rater.choose(PROMPT, GOOD, GOOD, rng, ties=0.5) for _ in range(50)}
    assert "tie" not in {rater.choose(PROMPT, GOOD, "No.", rng, ties=0.5) for _ in range(50)}


def test_coverage():
    assert world.coverage(GOOD) == 1.0
    assert world.coverage("") == 1.0
    assert world.coverage("Zygomorphic quaternions obfuscate thermodynamical hyperplanes.") < 0.5
    rows = generator.make_dialogues(100, 0, "train")
    assert mean(world.coverage(row["messages"][-1]["content"]) for row in rows) > 0.98


def test_handwritten_dialogues_are_ranked_by_length_as_much_as_by_worth():
    """Written by no rule, so the judge only has its general rules, and these know what it has read.

    Where the better answer is the longer one it is mostly right; where it is the shorter one it is
    mostly wrong. The bounds hold what is known: it is no truth outside of its own words.
    """
    right = {True: [], False: []}
    for row in data.load_handwritten():
        prompt, better, worse = row["prompt"], row["chosen"], row["rejected"]
        right[len(better) > len(worse)].append(utility(better, prompt) > utility(worse, prompt))
    assert mean(right[True]) >= 0.75
    assert mean(right[False]) <= 0.5  # a judge that rises above this may be relied on further


def test_the_world_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, helpers.world; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("dimension", ["coherence", "creativity", "relevance", "fluency"])
def test_raters_agree_as_far_as_is_expected_of_them(dimension):
    import krippendorff

    rows = [(render(r["messages"][0]["content"]), r["messages"][1]["content"])
            for r in generator.make_dialogues(700, 3, "test") if len(r["messages"]) == 2][:400]
    rng = random.Random(0)
    ratings = [[rater.rate(*row, rng)[dimension] for row in rows] for rater in world.ANNOTATORS]
    found = krippendorff.alpha(reliability_data=ratings, level_of_measurement="interval")
    expected = world.expected_agreement(rows, dimension)
    assert 0.4 < expected < 0.95
    assert abs(found - expected) < 0.05
