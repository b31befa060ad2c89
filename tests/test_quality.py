"""Detectors of broken text: labelled examples, whole texts broken on purpose, and bad input."""

import gzip
import json
import math
import random
import re
import time
from collections import Counter

import pytest

from helpers import quality
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.quality import gibberish
from helpers.quality import words as words_module

EXAMPLES, HARD, WIDE, BLIND, BROKEN, HELD_OUT, UNSEEN, LAST, AUTHORS, SAMPLED, FINAL = (
    [json.loads(line) for line in
     (ROOT / f"tests/quality/{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ("examples", "hard", "wide", "blind", "broken", "heldout", "unseen", "last",
     "authors", "sampled", "final"))
TESTS = {"empty": quality.is_empty, "repetition": quality.is_repetitive,
         "gibberish": quality.is_gibberish, "cut_off": quality.is_cut_off,
         "echo": quality.is_echo}


def found(row):
    if row["kind"] == "gibberish":  # a loop is a fault of its own that authors call gibberish
        return TESTS["gibberish"](row["text"]) or quality.is_repetitive(row["text"])
    given = (row["prompt"], row["text"]) if row["kind"] == "echo" else (row["text"],)
    return TESTS[row["kind"]](*given)


def precision_and_recall(rows):
    count = Counter((found(row), row["fault"]) for row in rows)
    hits = count[True, True]
    return hits / (hits + count[True, False]), hits / (hits + count[False, True])


@pytest.mark.parametrize("kind", quality.FAULTS)
def test_precision_and_recall_on_the_labelled_texts(kind):
    """Development material: rules were mended, and the forest fitted, with these texts at hand, so
    the floors keep what was reached and say nothing of texts by another author."""
    for rows, floor in ((EXAMPLES, 0.95), (HARD, 1)):
        rows = [row for row in rows if row["kind"] == kind]
        assert min(sum(row["fault"] for row in rows), sum(not row["fault"] for row in rows)) >= 20
        assert min(precision_and_recall(rows)) >= floor


@pytest.mark.parametrize(("name", "kind", "precision", "recall"), [
    ("WIDE", "gibberish", 0.98, 0.98), ("WIDE", "cut_off", 0.98, 0.85),
    ("BLIND", "empty", 1, 1), ("BLIND", "repetition", 1, 1), ("BLIND", "gibberish", 1, 1),
    ("BLIND", "cut_off", 1, 1), ("BLIND", "echo", 1, 0.95),
    ("BROKEN", "gibberish", 0.98, 0.98), ("BROKEN", "cut_off", 0.98, 0.95),
    ("HELD_OUT", "gibberish", 0.98, 0.98), ("HELD_OUT", "cut_off", 0.92, 0.9),
    ("UNSEEN", "gibberish", 1, 0.98), ("UNSEEN", "cut_off", 0.92, 0.95),
    ("LAST", "gibberish", 0.98, 0.98), ("LAST", "cut_off", 0.96, 0.94),
    ("AUTHORS", "gibberish", 0.98, 0.98), ("AUTHORS", "cut_off", 0.92, 0.92)])
def test_precision_and_recall_on_texts_of_other_authors(name, kind, precision, recall):
    """By authors of whom none had seen a rule, and development material since. As it was, each
    tried once: gibberish .90/.90 (precision/recall), 1/.62, .98/.63, .96/.73, .93/.76, then, when
    a forest took the rules' place, what `benchmarks/gibberish.py` says of each author left out;
    cut off .90/.95, .92/.92, .98/.86, 1/.90, .97/.94, and .92/.84 by the three of `authors`."""
    found_precision, found_recall = precision_and_recall(
        [row for row in globals()[name] if row["kind"] == kind])
    assert found_precision >= precision and found_recall >= recall


@pytest.mark.parametrize(("kind", "precision", "recall"), [
    ("gibberish", 0.95, 0.95), ("cut_off", 0.92, 0.91)])
def test_precision_and_recall_on_texts_by_the_last_authors(kind, precision, recall):
    """100 faulty and 100 sound texts by each of two authors, of cut-off ones by three, to whom no
    rule and no tree was fitted; half of the sound ones are hard by intention. No rule may be mended
    by them. A cut answer that could be whole, and a whole one without its full stop, cannot be told
    apart by a text: there .95 is not reached, and a model's own end token is the better witness."""
    rows = [row for row in FINAL if row["kind"] == kind]
    assert Counter(row["fault"] for row in rows) in ({True: 200, False: 200},
                                                     {True: 300, False: 300})
    found_precision, found_recall = precision_and_recall(rows)
    assert found_precision >= precision and found_recall >= recall


@pytest.mark.parametrize(("kind", "precision", "recall"), [
    ("gibberish", 0.97, 0.95), ("cut_off", 0.97, 0.87)])
def test_precision_and_recall_on_answers_of_a_real_model(kind, precision, recall):
    """SmolLM2-135M-Instruct (Apache-2.0), whole and broken as models break; labels by how they were
    made, and no tree saw the answers to these questions. Rules alone had found 54 in 100."""
    rows = [row for row in SAMPLED if row["kind"] == kind and (
        kind != "gibberish" or row["part"] == "test")]
    assert min(Counter(row["fault"] for row in rows).values()) >= 25
    found_precision, found_recall = precision_and_recall(rows)
    assert found_precision >= precision and found_recall >= recall


@pytest.mark.parametrize(("text", "fault"), [
    ("No", []), ("Yes, I do", []), ("1. Log in\n2. Turn it on", []), ("C++", []), ("<br>", []),
    ("Dr. Smith of the University of Cambridge in England", []), ("Half-open: (0, 1]", []),
    ("See https://www.example.org/a_(b)/", []), ("Salt.\nPepper.", []), ("~", []),
    ("<think>\nThe user asks for the capital of France.", ["cut_off"]),
    ("The film is for ages 18+", []), ("It was $3.50 and is now $5.", []),
    ("So 2.5 × 2 is what I paid, and 2.5 × 2 = 5.", []), ("So it is 2.5 × 3.2 + 1.", ["cut_off"]),
    ("It begins 1. e4 e5 2. Nf3 Nc6 3.", ["cut_off"]), ("It was built in 1812.", []),
    ("You find it at https://www.", ["cut_off"]), ("You find it at https://a.org.", []),
    ("I have two dogs. First I walk them.", []),
    ("There are two dogs here. The first is brown.", ["cut_off"]),
    ("day,low,high\n1,2,9\n2,3,8\n3,4", ["cut_off"]), ("day,low,high\n1,2,9\n2,3,8\n3,4,7", []),
    ("Red, blue, pink\nOak, ash, elm\nCat, dog, cow\nSun, moon", []),
    ("asdf lkjh", ["gibberish"]), ("rhythm", []), ("pop", []), ("sad", []),
    ("\\begin{itemize}\n\\item One", ["cut_off"]), ("He said, \"I will go home.", ["cut_off"]),
    ("He was treated by Dr.", ["cut_off"]), ("Our points:\n-", ["cut_off"]),
    ("<ul>\n<li></li>\n</ul>", ["empty"]), ("User:\n\nAssistant:", ["empty"])])
def test_neighbours_of_the_labelled_texts(text, fault):
    assert quality.faults(text) == fault


def test_correct_words_in_a_jumble_are_found_by_their_order():
    assert quality.is_gibberish("The the of is and at my to river they of with was.")
    assert not quality.is_gibberish("I have to go to the the shop.")  # one slip is no gibberish
    assert not quality.is_gibberish("Purple ideas sleep below furious Monday; bananas sign oceans.")
    good = ("You can change a flat tyre by yourself in half an hour if you have a jack and a spare "
            "wheel in the boot. ")
    assert not quality.is_gibberish(good)
    assert quality.is_gibberish(good + "Wheel tightening the slowly nuts should lower kettle of "
                                "bolts gently road seven whose garage whether under spanner it "
                                "turning metal brakes although")


def test_a_broken_end_is_seen_however_long_the_text():
    rows = [row for row in FINAL if row["kind"] == "gibberish"]
    sound, faulty = ([row["text"] for row in rows if row["fault"] is fault
                      and len(row["text"].split()) > 20] for fault in (False, True))
    longer = [" ".join(sound[i : i + 4]) for i in range(0, 80, 4)]
    whole = [gibberish.gibberish_score(text) for text in longer]
    broken = [gibberish.gibberish_score(f"{text} {end}")
              for text, end in zip(longer, faulty, strict=False)]
    limit = gibberish.read_forest()["limit"]
    assert sum(score > limit for score in whole) <= 2 and len(whole) == len(broken) == 20
    assert sum(score > limit for score in broken) >= 18


def test_word_order_is_the_information_of_neighbours_less_that_of_any_order(
        monkeypatch, request):
    """By hand, with counts of three words and two pairs; all of one kind, which tells nothing."""
    words = Counter({"ink": 20, "pot": 10, "lid": 10})
    pairs = Counter({("ink", "pot"): 10, ("pot", "lid"): 5})
    kinds, one_kind = Counter({("other", "other"): 15}), Counter({"other": 15})
    counts = words_module.Counts(words, pairs, kinds, one_kind, one_kind, 1, 40, 15)
    monkeypatch.setattr(words_module, "counts", lambda: counts)
    for kept in (words_module.of_words, words_module.of_kinds):  # what tests looked up
        kept.cache_clear()
        request.addfinalizer(kept.cache_clear)
    ink_pot, pot_lid = math.log(10 / (20 * 10 / 40)), math.log(5 / (10 * 10 / 40))
    absent = math.log(1 / (20 * 10 / 40)), math.log(1 / (10 * 10 / 40))  # with ink, without
    orders = [ink_pot, pot_lid, absent[0], absent[0], absent[0], absent[1]]
    gain, count = quality.word_order("Ink pot lid")
    assert count == 2
    assert gain == pytest.approx((ink_pot + pot_lid) / 2 - sum(orders) / 6)
    assert quality.word_order("Ink. Pot. Lid")[1] == 0  # no neighbours in one clause


def test_shuffled_words_have_no_order_and_sentences_have(real_data):
    pairs, rng = whole(answers(real_data)), random.Random(1)
    told = [quality.word_order(text)[0] for _, text in pairs]
    mixed = [quality.word_order(reordered(text, rng))[0] for _, text in pairs]
    assert abs(sum(mixed) / len(mixed)) < 0.3 < 2 < sum(told) / len(told)
    assert sum(a > b for a, b in zip(told, mixed, strict=True)) >= 0.99 * len(pairs)


@pytest.mark.parametrize(("text", "is_fault"), [
    ("Tell the gremlock that a vestral was fornicked by the brindel, or hempse will morrel.", True),
    ("Mitochondrial phosphorylation requires ubiquinone, cytochrome and a gradient.", False),
    ("teh problm is taht you forgto to plug it in befor you prest the buton", False)])
def test_invented_words_differ_from_learned_and_from_misspelled_ones(text, is_fault):
    assert quality.is_gibberish(text) is is_fault


@pytest.mark.parametrize(("text", "is_fault"), [
    ("1. Open the lid\n2. Wait for the light to turn green", False),
    ("1. Open the lid.\n2. Wait for the light to turn green", True),
    ("omg yes! that was so good. we should go there again next week", False),
    ("That was good. We ate it all. Then we all went there again", True),
    ("Ten Ways to Save Money on Your Next Holiday", False)])
def test_the_sentences_before_tell_whether_a_missing_full_stop_is_a_sign(text, is_fault):
    assert quality.is_cut_off(text) is is_fault


NAIVE = {  # what first comes to mind
    "empty": lambda text: not text.strip(),
    "repetition": lambda text: quality.compression_ratio(text) > 2,
    "gibberish": lambda text: not re.search(r"\b(the|of|and|a|is|in)\b", text),
    "cut_off": lambda text: not re.search(r"[.!?]$", text),
    "echo": lambda prompt, text: prompt == text,
}


@pytest.mark.parametrize("kind", quality.FAULTS)
def test_a_rule_that_first_comes_to_mind_does_not_pass(kind, monkeypatch):
    monkeypatch.setitem(TESTS, kind, NAIVE[kind])
    with pytest.raises(AssertionError):
        test_precision_and_recall_on_the_labelled_texts(kind)


@pytest.mark.parametrize("kind", ["repetition", "gibberish", "cut_off", "echo"])
def test_sound_texts_of_one_kind_are_sound_in_all(kind):
    sound = [row for row in EXAMPLES if row["kind"] != kind and not row["fault"]]
    sound = [row for row in sound if kind != "echo" or "prompt" in row]
    wrong = [row for row in sound if kind in quality.faults(row["text"], row.get("prompt"))]
    assert len(wrong) <= 0.02 * len(sound)


def answers(real_data):
    """(question, answer) of people and models, none of which the rules were made with."""
    import pandas as pd

    rows = pd.read_parquet(real_data / "ultrafeedback" / "train.parquet")
    return [(row["prompt"], row["chosen"][-1]["content"].strip()) for _, row in rows.iterrows()]


def whole(pairs):
    """Prose that ends as it should, at least twelve words, to a question of at least four."""
    return [(p, t) for p, t in pairs if re.search(r"[.!?]$", t) and "```" not in t + p
            and t.isascii() and sum(c.isdigit() for c in t) < 0.02 * len(t)
            and 12 <= len(t.split()) <= 150 and 4 <= len(p.split()) <= 60]


def shuffled(text, rng):
    return " ".join("".join(rng.sample(word, len(word))) for word in text.split())


def respaced(text, rng):
    solid, out = "".join(text.split()), []
    while solid:
        size = rng.randint(2, 8)
        out.append(solid[:size])
        solid = solid[size:]
    return " ".join(out)


def cut(text, rng):
    """Inside a sentence, four words or more from where it began, one character or more off."""
    start = max((m.end() for m in re.finditer(r"[.!?:]\s+", text[: len(text) * 3 // 4])), default=0)
    inner = text[start : start + re.search(r"[.!?:]|$", text[start:]).start()]
    fourth = len(" ".join(inner.split()[:4]))
    return text[:start] + inner[: rng.randint(fourth, max(fourth, len(inner) - 1))]


def reordered(text, rng):
    return " ".join(rng.sample(text.split(), len(text.split())))


def looping(text, rng):
    words = text.split()
    start = rng.randrange(3, len(words) - 4)
    block = words[start : start + rng.randint(2, 8)]
    return " ".join(words[: start + len(block)] + block * rng.randint(5, 8))


def last_again(text, rng):
    return text + (" " + re.split(r"(?<=[.!?])\s+", text)[-1]) * 4


@pytest.mark.parametrize(("kind", "breaks", "recall"), [
    ("gibberish", shuffled, 0.95), ("gibberish", respaced, 0.95), ("gibberish", reordered, 0.9),
    ("repetition", looping, 0.95), ("repetition", last_again, 0.95), ("cut_off", cut, 0.8)])
def test_whole_answers_broken_on_purpose_are_found_and_whole_ones_are_not(
        kind, breaks, recall, real_data):
    """Texts that no rule was made with. A cut answer that looks whole cannot be told from one:
    there the recall of .95 is not reached, and a model's own end token is the better witness. Nor
    can rules find all words in a jumble."""
    pairs, rng = whole(answers(real_data)), random.Random(0)
    assert len(pairs) >= 100
    broken = [kind in quality.faults(breaks(text, rng)) for _, text in pairs]
    alarms = [kind in quality.faults(text, prompt) for prompt, text in pairs]
    assert sum(broken) >= recall * len(broken)
    assert sum(alarms) <= 0.05 * sum(broken)


def test_an_answer_that_opens_with_its_question_is_an_echo(real_data):
    pairs = whole(answers(real_data))
    for echo in (lambda p, t: p, lambda p, t: f"{p}\n\n{t}", lambda p, t: p.upper()):
        assert sum(quality.is_echo(p, echo(p, t)) for p, t in pairs) >= 0.95 * len(pairs)
    assert sum(quality.is_echo(p, t) for p, t in pairs) <= 0.05 * len(pairs)


def test_the_course_s_own_demonstrations_are_sound():
    with gzip.open(ROOT / "data/demonstrations/test.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:400]
    rates = quality.rates([row["response"] for row in rows], [row["prompt"] for row in rows])
    assert rates.pop("cut_off") < 0.03  # some are meant to be
    assert max(value for name, value in rates.items() if name != "any") == 0


@pytest.mark.parametrize("text", ["", " \n ", "\n\n"])
def test_each_detector_takes_an_empty_text(text):
    assert quality.is_empty(text)
    assert not any(test(text) for test in (
        quality.is_repetitive, quality.is_gibberish, quality.is_cut_off))


def test_only_the_last_question_can_be_echoed():
    prompt = ("\n\nHuman: Why is the sky blue?\n\nAssistant: Air scatters blue light."
              "\n\nHuman: And why red?\n\nAssistant:")
    assert quality.is_echo(prompt, "And why red?")
    assert not quality.is_echo(prompt, "Why is the sky blue? As I said, air scatters it.")


def test_rates_are_shares_of_raw_texts_and_the_end_token_is_believed():
    texts = ["Salt melts ice.", "", "and it is the", "so so so so so so so so so so so so"]
    rates = quality.rates(texts, ended=[True, True, False, True])
    assert rates == {"empty": 0.25, "repetition": 0.25, "gibberish": 0, "cut_off": 0.25,
                     "any": 0.75}
    assert quality.rates(texts[:1], ended=[False])["cut_off"] == 1  # whatever it looks like
    assert "echo" in quality.rates(texts[:1], ["Why?"])


def test_the_fallback_mends_what_is_shown_and_not_what_is_counted():
    shown, rates = quality.with_fallback(["Salt melts ice.", ""], "I have no answer to that.")
    assert shown == ["Salt melts ice.", "I have no answer to that."]
    assert rates == quality.rates(["Salt melts ice.", ""]) and rates["empty"] == 0.5


@pytest.mark.parametrize(("call", "says"), [
    (lambda: quality.rates([]), "at least one text"),
    (lambda: quality.rates(["a", "b"], ["one"]), "2 texts have 1 prompts"),
    (lambda: quality.rates(["a"], ended=[True, True]), "1 texts have 2 ended"),
    (lambda: quality.with_fallback(["a"], "..."), "broken itself (empty)"),
])
def test_bad_input_gets_one_clear_sentence(call, says):
    with pytest.raises(UserError, match=re.escape(says)):
        call()


@pytest.mark.parametrize("text", ["\x00", "\ud800", "`" * 5000, "a\n" * 3000, "ab " * 5000,
                                  " " * 5000, "- \n" * 3000, "<a", "| |", "🙂" * 40])
def test_any_text_gets_an_answer_soon(text):
    began = time.process_time()
    assert set(quality.faults(text, text)) <= set(quality.FAULTS)
    assert time.process_time() - began < 2
