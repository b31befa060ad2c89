"""Loading: every schema to the canonical one, and every bad row named."""

import csv
import gzip
import json
import os
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from support import byte_tokenizer, word_tokenizer

from helpers import data
from helpers.engine import dialogues, sources
from helpers.engine import rows as rows_module
from helpers.errors import UserError
from helpers.profiles import load_profile

REAL = Path(os.environ.get("RLHF_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_real_data = pytest.mark.skipif(
    not (REAL / "imdb").is_dir(),
    reason="set RLHF_REAL_DATA to the folder that holds imdb/, hh-rlhf/, tulu/, arena/ and "
           "ultrafeedback/")


def settings_of(**sources):
    return load_profile("embedded", {
        f"data.{k}": v if isinstance(v, int) else str(v) for k, v in sources.items()})


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)
    return path


def write_all(folder, rows):
    """The same rows as every split, so that none is carved out of another."""
    for split in data.SPLITS:
        write_lines(folder / f"{split}.jsonl", rows)
    return folder


def hh(question, answer):
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


# --- rendering


def test_a_rendered_prompt_is_left_alone_and_text_becomes_one_turn():
    rendered = "\n\nHuman: Hello?\n\nAssistant:"
    assert data.render_prompt("Hello?") == rendered
    assert data.render_prompt(rendered) == rendered


def test_parse_hh_keeps_every_turn_and_the_last_answer():
    text = hh("Hi.", "Hello.") + hh("And now?", "Now this.\n\nIn two paragraphs.")
    messages, answer = rows_module.parse_hh(text)
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "Hello."
    assert answer == "Now this.\n\nIn two paragraphs."
    assert data.render_example(data.render_prompt(messages), answer) == text


def test_html_of_reviews_becomes_plain_text():
    assert rows_module.clean_review("Good.<br /><br />Don&#39;t  miss it") == "Good. Don't miss it"


# --- schemas of the same pair


PAIR = {"question": "Why is the sky blue?", "good": "Air scatters blue light.", "bad": "It is."}
SCHEMAS = {
    "hh": {"chosen": hh(PAIR["question"], PAIR["good"]),
           "rejected": hh(PAIR["question"], PAIR["bad"])},
    "messages": {side: [{"role": "user", "content": PAIR["question"]},
                        {"role": "assistant", "content": PAIR[key]}]
                 for side, key in (("chosen", "good"), ("rejected", "bad"))},
    "prompt": {"prompt": PAIR["question"], "chosen": PAIR["good"], "rejected": PAIR["bad"]},
    "winner": {"prompt": PAIR["question"], "response_a": PAIR["bad"], "response_b": PAIR["good"],
               "winner": "b"},
    "arena": {"prompt": json.dumps([PAIR["question"]]), "response_a": json.dumps([PAIR["bad"]]),
              "response_b": json.dumps([PAIR["good"]]), "winner_model_a": 0, "winner_model_b": 1,
              "winner_tie": 0},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_of_a_pair_gives_the_same_row(tmp_path, name):
    for split in data.SPLITS:
        write_lines(tmp_path / f"{split}.jsonl", [SCHEMAS[name]])
    [row] = data.load_pairs(settings_of(preferences=tmp_path), "train")
    assert row["prompt"] == data.render_prompt(PAIR["question"])
    assert (row["chosen"], row["rejected"]) == (PAIR["good"], PAIR["bad"])
    assert row["probability"] is None


def test_scores_of_a_pair_are_kept_as_their_gap(tmp_path):
    scored = SCHEMAS["messages"] | {"score_chosen": 8.5, "score_rejected": 6.0}
    rows = [scored, scored | {"score_chosen": 5.0}, scored | {"score_rejected": float("nan")},
            SCHEMAS["messages"]]
    pairs = data.load_pairs(settings_of(preferences=write_all(tmp_path, rows)), "train")
    gaps = Counter(row["score_gap"] for row in pairs)
    assert gaps == {2.5: 1, -1.0: 1, None: 2}
    assert all("margin" not in row for row in pairs)  # no loss reads a score unasked
    compared = data.load_comparisons(settings_of(preferences=tmp_path), "train")
    assert gaps == Counter(row["score_gap"] if row["winner"] == "a" or row["score_gap"] is None
                           else -row["score_gap"] for row in compared)


def test_a_response_that_speaks_for_the_user_is_a_response(tmp_path):
    """HH holds answers such as "Human: No, you are"; written to a table they must come back."""
    row = {"prompt": "Who is right?", "chosen": "Human: What do you mean?", "rejected": "I am."}
    whole = {"prompt": "Who?", "chosen": "\n\nHuman: Who?\n\nAssistant: You.",
             "rejected": "\n\nHuman: Who?\n\nAssistant: Me."}
    found = data.load_pairs(settings_of(preferences=write_all(tmp_path, [row, whole])), "test")
    assert {(pair["chosen"], pair["rejected"]) for pair in found} == {
        ("Human: What do you mean?", "I am."), ("You.", "Me.")}


def test_scores_written_as_text_in_a_csv_are_numbers(tmp_path):
    for split in data.SPLITS:
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([
                ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"],
                ["Question?", "yes", "no", "4", "1.5"], ["Another?", "yes", "no", "4", " "]])
    pairs = data.load_pairs(settings_of(preferences=tmp_path), "train")
    assert [row["score_gap"] for row in pairs] == [2.5, None]


def test_margins_keep_the_proportions_of_the_scores_and_have_the_mean_asked_for():
    pairs = [{"score_gap": gap} for gap in (4.0, 1.0, -3.0, 1.0)]
    margins = [row["margin"] for row in data.with_margins(pairs, 0.6)]
    assert margins == pytest.approx([1.6, 0.4, 0.0, 0.4])
    assert "margin" not in pairs[0]  # the rows themselves stay as they were
    with pytest.raises(UserError, match="pair 1 has no scores"):
        data.with_margins([pairs[0], {"score_gap": None}])
    with pytest.raises(UserError, match="in none of the 1 pairs"):
        data.with_margins([{"score_gap": -1.0}])


def test_ties_are_comparisons_but_no_pairs(tmp_path):
    rows = [SCHEMAS["winner"] | {"winner": w, "prompt": f"Question {w}?"} for w in ("a", "tie")]
    for split in data.SPLITS:
        write_lines(tmp_path / f"{split}.jsonl", rows)
    settings = settings_of(preferences=tmp_path)
    assert {r["winner"] for r in data.load_comparisons(settings, "test")} == {"a", "tie"}
    assert len(data.load_pairs(settings, "test")) == 1


def test_chosen_responses_are_the_demonstrations_of_real_preferences(tmp_path):
    for split in data.SPLITS:
        write_lines(tmp_path / f"{split}.jsonl.gz", [SCHEMAS["hh"]])
    [row] = data.load_demonstrations(settings_of(preferences=tmp_path), "train")
    assert row["response"] == PAIR["good"]


# --- splits


def test_splits_carved_from_one_file_share_no_prompt_and_lose_no_row(tmp_path):
    rows = [{"prompt": f"Question {i % 300}?", "chosen": f"yes {i}", "rejected": "no"}
            for i in range(900)]
    settings = settings_of(preferences=write_lines(tmp_path / "all.jsonl", rows))
    parts = {s: data.load_pairs(settings, s) for s in data.SPLITS}
    assert sum(map(len, parts.values())) == 900
    assert min(map(len, parts.values())) > 30
    prompts = {s: {r["prompt"] for r in rows} for s, rows in parts.items()}
    assert not prompts["train"] & (prompts["validation"] | prompts["test"])
    assert not prompts["validation"] & prompts["test"]


def test_training_rows_of_a_hub_dataset_in_a_file_have_all_splits_again(tmp_path, monkeypatch):
    rows = [{"prompt": f"Question {i}?", "chosen": "A good answer.", "rejected": "A bad one."}
            for i in range(300)]
    file = tmp_path / "all.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(data.hub, "dataset_files", lambda *_: ([file], "talk (train)", {"test"}))
    data._hub_files.cache_clear()
    there = load_profile("embedded", {"data.preferences": "someone/talk"})
    train = data.load_pairs(there, "train")
    assert 0 < len(data.load_pairs(there, "validation")) == 300 - len(train)
    again = tmp_path / "train.jsonl"
    again.write_text("".join(json.dumps({**row, "prompt": data.plain_prompt(row["prompt"])}) + "\n"
                             for row in train))
    here = load_profile("embedded", {"data.preferences": str(again)})
    assert all(data.load_pairs(here, split) for split in data.SPLITS)
    data._hub_files.cache_clear()


def test_a_test_file_is_not_carved_a_second_time(tmp_path):
    write_lines(tmp_path / "train.jsonl", [{"text": f"Film {i}", "label": i % 2}
                                           for i in range(400)])
    write_lines(tmp_path / "test.jsonl", [{"text": "Another film", "label": 1}])
    settings = settings_of(reviews=tmp_path)
    assert len(data.load_reviews(settings, "test")) == 1
    train, validation = (data.load_reviews(settings, s) for s in ("train", "validation"))
    assert len(train) + len(validation) == 400
    assert validation


def test_reviews_come_shuffled_without_duplicates(tmp_path):
    rows = [{"text": f"Film {i // 2}", "label": int(i >= 200)} for i in range(400)]
    for split in data.SPLITS:
        write_lines(tmp_path / f"{split}.jsonl", rows)
    loaded = data.load_reviews(settings_of(reviews=tmp_path), "train")
    assert len(loaded) == 200
    assert 60 < sum(r["label"] for r in loaded[:100]) + 30 < 100  # sorted would be 0 + 30


def test_a_fresh_world_serves_its_own_split_and_the_embedded_rest(tmp_path):
    write_lines(tmp_path / "reviews" / "test.jsonl", [{"text": "Only one.", "label": 0}])
    settings = load_profile("embedded", {"data.root": str(tmp_path)})
    assert [r["text"] for r in data.load_reviews(settings, "test")] == ["Only one."]
    assert len(data.load_reviews(settings, "train", 50)) == 50
    assert sources.fingerprint(settings) == sources.fingerprint(load_profile())


def test_other_training_data_have_another_fingerprint(tmp_path):
    write_lines(tmp_path / "train.jsonl", [{"text": "A film", "label": 1}])
    first = sources.fingerprint(settings_of(reviews=tmp_path))
    write_lines(tmp_path / "train.jsonl", [{"text": "Another film", "label": 1}])
    assert sources.fingerprint(settings_of(reviews=tmp_path)) != first


# --- pairs from elsewhere than the splits


def test_handwritten_pairs_have_the_schema_of_all_pairs():
    rows = data.load_handwritten()
    assert len(rows) >= 128
    for row in rows:
        assert set(row) == {"prompt", "chosen", "rejected", "probability", "score_gap", "topic",
                            "source"}
        assert row["prompt"].startswith(data.HUMAN) and row["prompt"].endswith("Assistant:")
        assert row["chosen"].strip() != row["rejected"].strip()
    assert any(data.ASSISTANT + " " in row["prompt"] for row in rows)  # some have turns before


def test_a_ruler_scores_one_half_on_the_handwritten_pairs():
    """In the first 64 the better answer was always the longer one, and any taste for length won."""
    longer = [len(row["chosen"]) > len(row["rejected"]) for row in data.load_handwritten()]
    assert 0.45 <= sum(longer) / len(longer) <= 0.55


# --- bad input: one sentence with file, row and remedy


@pytest.mark.parametrize(("row", "words"), [
    ({"text": "", "label": 1}, "row 3: 'text' is empty"),
    ({"text": "   ", "label": 1}, "row 3: 'text' is empty"),
    ({"text": "Fine", "label": 2}, "row 3: the label is 2; it must be 0"),
    ({"text": "Fine", "label": "good"}, "row 3: the label is 'good'"),
    ({"text": None, "label": 1}, "row 3: 'text' is empty"),
])
def test_a_bad_review_is_named(tmp_path, row, words):
    rows = [{"text": f"Film {i}", "label": 1} for i in range(5)]
    rows[2] = row
    path = write_lines(tmp_path / "mine.jsonl", rows)
    with pytest.raises(UserError, match=words) as caught:
        data.load_reviews(settings_of(reviews=path), "train")
    assert "mine.jsonl" in str(caught.value)


@pytest.mark.parametrize(("row", "words"), [
    (SCHEMAS["prompt"] | {"rejected": PAIR["good"]}, "row 2: the two responses are equal"),
    (SCHEMAS["prompt"] | {"chosen": ""}, "row 2: 'chosen' is empty"),
    ({"chosen": hh("A?", "x"), "rejected": hh("B?", "y")}, "row 2: .* different prompts"),
    ({"chosen": "no turns", "rejected": "at all"}, "row 2: the text does not start with 'Human:'"),
    ({"chosen": 3, "rejected": 4}, "row 2: 'chosen' is 3; it must be a dialogue"),
    (SCHEMAS["prompt"] | {"probability": 1.5}, "row 2: the probability is 1.5"),
    (SCHEMAS["prompt"] | {"score_chosen": "high", "score_rejected": 1},
     "row 2: the score_chosen is 'high'; it must be a number"),
    ({"chosen": hh("A?", ""), "rejected": hh("A?", "y")}, "row 2: the chosen response is empty"),
])
def test_a_bad_pair_is_named(tmp_path, row, words):
    path = write_lines(tmp_path / "pairs.jsonl", [SCHEMAS["hh"], row])
    with pytest.raises(UserError, match=words):
        data.load_pairs(settings_of(preferences=path), "train")


def test_a_few_irregular_rows_of_a_large_file_are_set_aside_and_counted(tmp_path, capsys):
    rows = [{"chosen": hh(f"Question {i}?", "yes"), "rejected": hh(f"Question {i}?", "no")}
            for i in range(300)]
    rows[7] = {"chosen": hh("A?", "x"), "rejected": hh("B?", "y")}
    rows[8] = {"chosen": hh("A?", "x"), "rejected": hh("A?", "x")}
    rows[9:13] = [{"chosen": hh("A?", ""), "rejected": hh("A?", "y")}] * 4
    settings = settings_of(preferences=write_all(tmp_path, rows))
    assert len(data.load_pairs(settings, "train")) == 294  # 2 %, as HH has
    assert "6 of 300 rows set aside, the first being row 8" in capsys.readouterr().err
    rows[13:23] = [rows[8]] * 10
    write_all(tmp_path, rows)
    with pytest.raises(UserError, match="16 of 300 rows are of this kind, too many to set aside"):
        data.load_pairs(settings, "train")


@pytest.mark.parametrize("split", data.SPLITS)
def test_a_limit_takes_from_all_of_a_file_that_is_sorted(tmp_path, split):
    """HH's folders follow one another, so that the first rows are all harmless-base."""
    rows = [{"chosen": hh(f"Question {i}?", "yes"), "rejected": hh(f"Question {i}?", "no"),
             "source": "harmless" if i < 500 else "helpful"} for i in range(1000)]
    settings = settings_of(preferences=write_all(tmp_path, rows), pair_limit=100)
    pairs = data.load_pairs(settings, split, None if split == "train" else 100)
    assert len(pairs) == 100
    assert 30 < sum(row["source"] == "helpful" for row in pairs) < 70
    assert pairs == data.load_pairs(settings, split)[:100]
    assert pairs == data.load_pairs(settings, split, 200)[:100]  # fixed, whatever the limit


def test_the_rows_of_a_process_are_read_once_and_no_caller_can_spoil_them(tmp_path, monkeypatch):
    for kind, row in (("preferences", SCHEMAS["hh"]), ("reviews", {"text": "Good.", "label": 1})):
        folder = write_all(tmp_path / kind, [row])
        load = data.load_pairs if kind == "preferences" else data.load_reviews
        first = load(settings_of(**{kind: folder}), "test")
        kept = [dict(r) for r in first]
        first[0].clear(), first.append("rubbish")
        with monkeypatch.context() as patch:
            patch.setattr(data, "read_rows", lambda path: pytest.fail(f"{path} is read again"))
            assert load(settings_of(**{kind: folder}), "test") == kept
    write_all(tmp_path / "preferences", [SCHEMAS["hh"], SCHEMAS["hh"]])  # a file that has changed
    assert len(data.load_pairs(settings_of(preferences=tmp_path / "preferences"), "test")) == 2


def test_wrong_columns_say_which_are_wanted(tmp_path):
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["film", "stars"], ["Fine film", "5"]])
    with pytest.raises(UserError, match="columns film, stars; it must have text, label; or"):
        data.load_reviews(settings_of(reviews=path), "train")


@pytest.mark.parametrize(("name", "content", "words"), [
    ("empty.jsonl", "", "is empty"),
    ("broken.jsonl", '{"text": "a", "label": 1}\n{"text": ', "row 2 is not valid JSON"),
    ("broken.parquet", "not parquet", "cannot be read"),
    ("broken.jsonl.gz", "not gzip", "row 1 is not valid JSON"),
])
def test_a_broken_file_is_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        data.load_reviews(settings_of(reviews=tmp_path / name), "train")
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_train_split_says_what_to_give(tmp_path):
    with pytest.raises(UserError, match="does not exist; give a file, a folder"):
        data.load_reviews(settings_of(reviews=tmp_path / "none.csv"), "train")
    with pytest.raises(UserError, match="holds no train file"):
        data.load_reviews(settings_of(reviews=tmp_path), "train")
    with pytest.raises(UserError, match="data.root: the folder"):
        data.load_reviews(load_profile("embedded", {"data.root": str(tmp_path / "no")}), "test")


def test_a_split_in_parts_is_read_whole_and_a_bad_row_is_named_in_its_part(tmp_path):
    for number in range(2):
        write_lines(tmp_path / f"train-{number:05}-of-00002.jsonl", [
            {"text": f"Film {number}, {i}", "label": i % 2} for i in range(50)])
    for name in ("val.jsonl", "test.JSONL"):
        write_lines(tmp_path / name, [{"text": f"Another of {name}", "label": 1}])
    settings = settings_of(reviews=tmp_path)
    assert [len(data.load_reviews(settings, split)) for split in data.SPLITS] == [100, 1, 1]
    first = sources.fingerprint(settings)
    write_lines(tmp_path / "train-00001-of-00002.jsonl", [{"text": "Film", "label": 7}])
    assert sources.fingerprint(settings) != first
    with pytest.raises(UserError, match=r"train-00001-of-00002.jsonl, row 1: the label is 7"):
        data.load_reviews(settings, "train")
    (tmp_path / "train-00000-of-00002.jsonl").unlink()
    with pytest.raises(UserError, match="holds 1 of the 2 parts of the split train; part 0"):
        data.load_reviews(settings, "train")
    write_lines(tmp_path / "train.jsonl", [{"text": "Film", "label": 1}])
    with pytest.raises(UserError, match="train.jsonl and train-00001-of-00002.jsonl, of which"):
        data.load_reviews(settings, "train")


def test_the_share_of_rows_to_set_aside_is_one_of_the_whole_split(tmp_path, capsys):
    pair = {"prompt": "Say yes", "chosen": "Yes.", "rejected": "No."}
    equal = pair | {"rejected": "Yes."}
    source = tmp_path / "pairs"
    for number, rows in enumerate(([pair] * 900, [pair] * 90 + [equal] * 10, [])):
        write_lines(source / f"train-{number:05}-of-00003.jsonl", rows)
    write_lines(source / "validation.jsonl", [pair])
    write_lines(source / "test.jsonl", [pair])
    settings = settings_of(preferences=source)
    assert len(data.load_pairs(settings, "train")) == 990
    told = "".join(capsys.readouterr())
    assert "10 of 1000 rows set aside" in told
    assert "the first being train-00001-of-00003.jsonl, row 91: the two responses are eq" in told
    write_lines(source / "train-00002-of-00003.jsonl", [equal] * 60)
    with pytest.raises(UserError, match=r"pairs.*train-00001.*, row 91: .*\(70 of 1060 rows"):
        data.load_pairs(settings, "train")


def test_parts_of_one_name_are_told_apart_by_their_folders():
    paths = [Path("hub/a/help/train.jsonl"), Path("hub/a/harm/train.jsonl")]
    assert sources.names_of_parts([Path("a/train-0.csv"), Path("a/train-1.csv")]) == [
        "train-0.csv", "train-1.csv"]
    assert sources.names_of_parts(paths) == ["help/train.jsonl", "harm/train.jsonl"]
    assert sources.names_of_parts([paths[0], Path("hub/b/help/train.jsonl")]) == [
        "a/help/train.jsonl", "b/help/train.jsonl"]


@pytest.mark.parametrize(("rows", "words"), [
    ([SCHEMAS["prompt"]] * 10, "of the 10 rows of pairs.jsonl none falls into the split"),
    ([SCHEMAS["winner"] | {"winner": "tie"}] * 100, "has no pairs left: all 100 are ties"),
])
def test_a_split_without_rows_says_so_with_the_count(tmp_path, rows, words):
    settings = settings_of(preferences=write_lines(tmp_path / "pairs.jsonl", rows))
    with pytest.raises(UserError, match=words):
        for split in data.SPLITS:
            data.load_pairs(settings, split)


@pytest.mark.parametrize(("row", "words"), [
    ({"chosen": hh("A?", "x") + "\n\nHuman: thanks", "rejected": hh("A?", "y")},
     "row 1: the text ends with a human turn"),
    ({"chosen": [{"role": "user", "content": None}, {"role": "assistant", "content": "x"}],
      "rejected": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "y"}]},
     "row 1: 'chosen', turn 1: its content is null"),
    ({"chosen": [{"role": "user", "content": "A?"}, {"role": "narrator", "content": "x"}],
      "rejected": "y"}, "the role 'narrator' is not known; use user"),
    ({"prompt": "A?", "chosen": "half \ud83d", "rejected": "y"}, "'chosen' holds half a character"),
    ({"prompt": 5, "chosen": "x", "rejected": "y"}, "row 1: 'prompt' is 5; it must be text"),
    ({"prompt": "A?", "response_a": "x", "response_b": "y", "winner": 3}, "the winner is 3"),
    ({"prompt": "A?", "chosen": "x", "rejected": "y", "topic": ["a"]}, "'topic' is .*a name"),
    ({"instruction": "A?", "completions": [5, None]}, "a list of objects of response"),
])
def test_what_no_row_can_mean_is_one_sentence_with_its_row(tmp_path, row, words):
    path = write_lines(tmp_path / "pairs.jsonl", [row])
    with pytest.raises(UserError, match=words) as caught:
        data.load_pairs(settings_of(preferences=path), "train")
    assert "pairs.jsonl, row 1: " in str(caught.value) and "\n" not in str(caught.value)


# --- real files


@needs_real_data
@pytest.mark.parametrize(("kind", "source", "loader"), [
    ("reviews", "imdb", data.load_reviews),
    ("preferences", "hh-rlhf/harmless-base", data.load_pairs),
    ("preferences", "tulu/anthropic_hh.parquet", data.load_pairs),
    ("preferences", "ultrafeedback", data.load_pairs),
    ("preferences", "arena", data.load_comparisons),
])
def test_real_files_load_through_the_same_code(kind, source, loader):
    settings = settings_of(**{kind: REAL / source})
    parts = {s: loader(settings, s) for s in data.SPLITS}
    assert all(len(rows) > 50 for rows in parts.values())
    key = "text" if kind == "reviews" else "prompt"
    train, test = ({r[key] for r in parts[s]} for s in ("train", "test"))
    if not (REAL / source / "test.parquet").exists() and not list(
            (REAL / source).glob("test.*") if (REAL / source).is_dir() else []):
        assert not train & test


def test_only_the_embedded_world_has_an_ood_split(tmp_path):
    assert data.load_pairs(load_profile(), data.OOD)
    rows = [{"text": "A good film.", "label": 1}, {"text": "A bad film.", "label": 0}]
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UserError, match="only the embedded world"):
        data.load_reviews(load_profile("embedded", {"data.reviews": str(path)}), data.OOD)


def test_a_policy_is_measured_on_prompts_it_was_not_trained_on(monkeypatch):
    rows = {"train": ["a b", "a", "c d", "a b", "long prompt of many words", ""],
            "test": ["c d", "e", "e", "f g h"]}
    monkeypatch.setattr(data, "load_demonstrations",
                        lambda settings, split: [{"prompt": p} for p in rows[split]])

    tokenizer = word_tokenizer("a b c d e f g h long prompt of many words".split(),
                               unk="<unk>", eos="<eos>", pad="<pad>")
    settings = load_profile("embedded", {"ppo.max_prompt_tokens": 3, "ppo.mini_batch_size": 64})
    train, test = data.policy_prompts(settings, tokenizer)
    assert sorted(train) == ["a", "a b"] and sorted(test) == ["c d", "e", "f g h"]
    assert (train, test) == data.policy_prompts(settings, tokenizer)
    few = load_profile("embedded", {"ppo.max_prompt_tokens": 3, "ppo.eval_prompts": 1})
    train, one = data.policy_prompts(few, tokenizer)
    assert one == test[:1] and not set(one) & set(train)


def test_prompts_are_two_to_eight_tokens_of_long_reviews_and_encode_to_themselves():
    tokenizer = byte_tokenizer()
    long = "a good film about a bad day and the end of it all " * 6
    reviews = [long, "a bad day", "the " + long, "caf\u00e9 " * 60]
    prompts = data.cut_prompts(reviews, tokenizer, 30, seed=1)
    sizes = [len(tokenizer.encode(p)) for p in prompts]
    assert len(prompts) == 30 and min(sizes) >= 2 and max(sizes) <= 8 and len(set(sizes)) > 3
    assert not any(p.startswith("a bad") for p in prompts)
    assert prompts == data.cut_prompts(reviews, tokenizer, 30, seed=1)
    with pytest.raises(UserError, match="longer than 200"):
        data.cut_prompts(["short"], tokenizer, 1)


def test_pairs_that_begin_alike_are_read_once_and_come_to_the_same(real_data, monkeypatch):
    """What is quick for nearly all of HH's rows gives what reading each side for itself gives."""
    folder = real_data / "hh-rlhf" / "harmless-base"
    found = [row for split in ("train", "test") for row in rows_module.read_rows(
        folder / f"{split}.jsonl.gz")]
    odd = ["\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "\n\nHuman: a\n\nAssistant:",
           "\n\nHuman: a :\n\nAssistant:", "\n\nHuman: a : b\n\nAssistant:",
           "\n\nHuman: a\r\n\nAssistant:", "\n\nAssistant: a",
           "\n\nHuman: a\n\nHuman: b\n\nAssistant:", "\n\nHuman: a", "\n\nHuman:\n\nAssistant:"]
    said = [" yes", " Human: yes", "\n\nHuman: no", " \n\nAssistant: no", " a : b", " \ud83d", "",
            " yes\r\n", " [1]", " x\n \nSystem: y"]
    found += [{"chosen": before + a, "rejected": before + b}
              for before in odd for a in said for b in said]

    def outcome(row):
        try:
            return rows_module.as_pair(row)
        except ValueError as error:
            return type(error), str(error)

    quick = [outcome(row) for row in found]
    monkeypatch.setattr(rows_module, "_alike", lambda *_: None)
    assert quick == [outcome(row) for row in found]


@pytest.mark.parametrize("first", dialogues.MARKERS.values())
def test_a_prompt_cut_at_human_turns_is_what_its_turns_come_to(first):
    """All orders of up to five turns, with and without text, spaces and stray line ends."""
    said = [" yes ", "", "\n \n", " Human: no\n\nHuman"]
    for n in range(5):
        for number, more in enumerate(product(dialogues.MARKERS.values(), repeat=n)):
            text = "".join(marker + said[(number + i) % len(said)]
                           for i, marker in enumerate((first, *more)))
            turns = dialogues.turns_of(text)
            wanted = dialogues.render_prompt(turns) if dialogues.alternate(turns) else None
            assert dialogues.hh_prompt(text) == wanted, text
