"""The generator of dialogues: what it promises about variety, splits, quality and probability."""

import json
import math
import re
from collections import Counter
from statistics import mean

import pytest

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.world import write_dialogues as generator


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


@pytest.fixture(scope="module")
def two_thousand():
    rows = generator.make_dialogues(2000, 5, "train")
    return rows, [" ".join(m["content"] for m in row["messages"]) for row in rows]


def test_the_same_seed_gives_the_same_rows_and_another_seed_other_rows():
    for make in (
        generator.make_dialogues,
        generator.make_demonstrations,
        generator.make_pairs,
    ):
        assert make(20, 3, "train") == make(20, 3, "train")
        assert make(20, 3, "train") != make(20, 4, "train")


def test_more_rows_begin_with_the_same_rows():
    assert generator.make_pairs(30, 1, "train")[:10] == generator.make_pairs(10, 1, "train")


def test_schemas():
    row = generator.make_dialogues(1, 0, "train")[0]
    assert set(row) == {"messages", "topic", "quality", "logprob"}
    assert [m["role"] for m in row["messages"]][:2] == ["user", "assistant"]
    assert row["messages"][-1]["role"] == "assistant"
    row = generator.make_demonstrations(1, 0, "train")[0]
    assert set(row) == {"prompt", "response", "topic"}
    row = generator.make_pairs(1, 0, "train")[0]
    assert set(row) == {"prompt", "response_a", "response_b", "topic"}
    assert row["prompt"][-1]["role"] == "user"


def test_no_prompt_and_no_response_stands_in_two_splits():
    seen = {}
    for split in generator.SPLITS:
        texts = set()
        for row in generator.make_pairs(250, 0, split):
            texts |= {m["content"] for m in row["prompt"]}
            texts |= {row["response_a"], row["response_b"]}
        for row in generator.make_demonstrations(150, 0, split):
            texts |= {row["prompt"], row["response"]}
        seen[split] = texts
    in_world = [seen[split] for split in generator.SHARES]
    assert not in_world[0] & in_world[1]
    assert not in_world[0] & in_world[2]
    assert not in_world[1] & in_world[2]
    stock = set(generator.banks()["harm"])
    ood = {row["topic"] for row in generator.make_dialogues(200, 0, "ood")} - {"harm"}
    train = {row["topic"] for row in generator.make_dialogues(400, 0, "train")}
    assert len(ood) >= 4 and not ood & train and not ood & stock


def test_out_of_distribution_clauses_stand_in_no_training_bank():
    banks = generator.banks()
    inside = {
        clause
        for topic in banks["topics"].values()
        for subject in topic["subjects"].values()
        for clauses in subject.values()
        for clause in clauses
    }
    for topic in banks["ood"].values():
        for subject in topic["subjects"].values():
            for clauses in subject.values():
                assert not inside & set(clauses)


def test_the_banks_are_as_large_as_promised():
    banks = generator.banks()
    assert len(banks["topics"]) + 1 >= 25
    subjects = [s for t in banks["topics"].values() for s in t["subjects"].values()]
    assert sum(len(clauses) for s in subjects for clauses in s.values()) >= 1500
    for subject in subjects:
        assert {"g", "p", "t", "w", "e"} <= set(subject)
        assert len(subject["t"]) >= 4 and len(subject["e"]) >= 2


def test_every_reason_names_its_tip():
    banks = generator.banks()
    for topic in [*banks["topics"].values(), *banks["ood"].values()]:
        for name, subject in topic["subjects"].items():
            for reason in subject["w"]:
                number = re.match(r"(\d)\) ", reason)
                assert number and 1 <= int(number[1]) <= len(subject["t"]), (name, reason)


def test_text_is_finished_prose(two_thousand):
    _, texts = two_thousand
    for text in texts:
        assert not re.search(r"[\[\]{}|~]|  | [.,;:!?](?!\.)", text), text
    for row in generator.make_clean(500, 4):
        assert not re.search(
            r"\ban? an? |\ban [bcdfgjklmnpqrstvwxz]|\ba [aeio][^n]", row["response"]
        )
        assert row["response"][0].isupper() and row["response"][-1] in ".!?"


def test_no_two_dialogues_are_alike(two_thousand):
    _, texts = two_thousand
    assert len(set(texts)) == len(texts)


def test_dialogues_are_varied(two_thousand):
    _, texts = two_thousand
    four, sentences, eight = Counter(), Counter(), Counter()
    for text in texts:
        found = words(text)
        four.update(zip(found, found[1:], found[2:], found[3:], strict=False))
        eight.update(set(zip(*(found[i:] for i in range(8)), strict=False)))
        parts = {s.lower() for s in re.split(r"(?<=[.!?])\s", text) if len(words(s)) >= 4}
        sentences.update(parts)
    assert len(four) / sum(four.values()) >= 0.45
    assert sentences.most_common(1)[0][1] <= 0.005 * len(texts)
    assert eight.most_common(1)[0][1] <= 0.01 * len(texts)


def test_topics_and_turns_are_spread(two_thousand):
    rows, _ = two_thousand
    topics = Counter(row["topic"] for row in rows)
    assert len(topics) >= 25
    assert max(topics.values()) <= 0.1 * len(rows)
    turns = Counter(len(row["messages"]) // 2 for row in rows)
    assert set(turns) == {1, 2, 3} and turns[1] > turns[2] > turns[3]


def test_responses_fit_the_policy():
    rows = generator.make_demonstrations(400, 2, "train")
    lengths = [len(row["response"].split()) for row in rows]
    assert max(lengths) <= generator.LONGEST and 15 <= mean(lengths) <= 30
    assert 6 <= mean(len(row["prompt"].split()) for row in rows) <= 20


def test_every_latent_level_occurs(two_thousand):
    rows, _ = two_thousand
    for name in ("relevance", "creativity", "coherence", "fluency"):
        assert {row["quality"][name] for row in rows} == {0, 1, 2}


def test_log_probability_is_of_the_choices_made():
    rows = generator.make_dialogues(300, 0, "train")
    assert all(-300 < row["logprob"] < -8 for row in rows)
    short = [r["logprob"] for r in rows if len(r["messages"]) == 2]
    long = [r["logprob"] for r in rows if len(r["messages"]) == 6]
    assert mean(long) < 1.8 * mean(short) < 0


def test_log_probability_counts_the_split():
    """A text of a split holding a share s of all texts is 1/s times as likely given the split."""
    draw = generator.Draw("check")
    before = draw.logprob
    generator._retry(draw, "test", lambda: "any text", tries=1)
    share = len(generator.SHARES["test"]) / 20
    assert draw.logprob - before == pytest.approx(-math.log(share))


def test_unknown_split_and_negative_count():
    with pytest.raises(UserError, match="train, validation, test, ood"):
        generator.make_pairs(1, 0, "dev")
    with pytest.raises(UserError, match="zero or more"):
        generator.make_dialogues(-1, 0, "train")


def test_a_broken_bank_line_is_named(tmp_path):
    path = tmp_path / "bank.txt"
    path.write_text("# topic\n## subject\ng: cook rice\nno colon here\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bank\.txt, line 4"):
        generator.read_bank(path)


def test_handwritten_dialogues():
    path = ROOT / "data" / "handwritten" / "dialogues.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 60
    assert len({row["topic"] for row in rows}) >= 20
    assert len({row["messages"][-1]["content"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"messages", "chosen", "rejected", "topic"}
        assert row["messages"][-1]["role"] == "user" and row["chosen"] != row["rejected"]
