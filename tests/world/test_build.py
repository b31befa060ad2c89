"""The script that makes the embedded world: repeatable, in the schemas, splits apart.

What no floating point decides is compared byte for byte. What a model has sampled comes out
otherwise on another processor, so there the stored texts are asked whether it wrote them.
"""

import gzip
import io
import json
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from statistics import mean

import numpy as np
import pyarrow.parquet
import pytest

from data import build as script
from helpers import data, evaluation, generation, models, reward
from helpers.paths import ROOT
from helpers.profiles import load_profile


def build(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "data" / "build.py"), "--out", str(out), *arguments],
        capture_output=True, text=True)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def unpacked(name: str, content: bytes):
    """What a file holds: the library that packs it decides about the packed bytes."""
    if name.endswith(".parquet"):
        return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    return gzip.decompress(content)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    out = tmp_path_factory.mktemp("fresh")
    done = build(out, "--seed", "7", "--split", "test", "--scale", "0.02")
    assert done.returncode == 0, done.stderr
    return out


def test_texts_come_out_byte_for_byte(tmp_path):
    for name in ("first", "second"):
        done = build(tmp_path / name, "--only", "text", "--scale", "0.01")
        assert done.returncode == 0, done.stderr
    first, second = files(tmp_path / "first"), files(tmp_path / "second")
    assert len(first) == 10
    assert first == second


def test_the_shipped_texts_are_what_the_script_makes(tmp_path):
    done = build(tmp_path, "--only", "text", "--split", "validation")
    assert done.returncode == 0, done.stderr
    made = files(tmp_path)
    assert len(made) == 3
    for name, content in made.items():
        shipped = (ROOT / "data" / name).read_bytes()
        assert unpacked(name, shipped) == unpacked(name, content), name


def test_a_fresh_split_holds_all_four_kinds_and_loads_through_data_root(fresh):
    settings = load_profile("embedded", {"data.root": str(fresh)})
    assert {p.split("/")[0] for p in files(fresh)} == set(data.KINDS)
    pairs = data.load_pairs(settings, "test")
    assert {p["source"] for p in pairs} == {"generator", "on-policy"}
    assert all(0 <= p["probability"] <= 1 for p in pairs)
    assert data.load_reviews(settings, "test")
    assert data.load_demonstrations(settings, "test")


def test_a_fresh_split_shares_no_text_with_the_shipped_ones(fresh):
    settings = load_profile("embedded", {"data.root": str(fresh)})
    new = {r["text"] for r in data.load_reviews(settings, "test")}
    for split in data.SPLITS:
        assert not new & {r["text"] for r in data.load_reviews(load_profile(), split)}


def test_shipped_splits_share_no_review_and_no_pair():
    settings = load_profile()
    for load, key in ((data.load_reviews, "text"), (data.load_pairs, "chosen")):
        parts = [{r[key] if key == "text" else (r["prompt"], r[key]) for r in load(settings, s)}
                 for s in data.SPLITS]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]


def test_the_labels_follow_their_stated_probability():
    pairs = data.load_pairs(load_profile(), "test")
    assert len(pairs) >= 4000 * 0.99
    expected = sum(p["probability"] for p in pairs) / len(pairs)
    majority = sum(max(p["probability"], 1 - p["probability"]) for p in pairs) / len(pairs)
    # The chosen answer is a draw from its probability q, so E[q of the chosen] = E[q² + (1−q)²].
    squares = sum(p["probability"] ** 2 + (1 - p["probability"]) ** 2 for p in pairs) / len(pairs)
    assert abs(expected - squares) < 0.02
    assert 0.80 <= majority <= 0.90


def test_bayes_ceiling_and_length_of_the_generator_pairs():
    pairs = script.clear_pairs(
        800, 31, lambda count, seed: script.written_pairs(count, seed, "train", set()))
    assert 0.80 <= mean(max(p["p"], 1 - p["p"]) for p in pairs) <= 0.90
    longer = [len(p["a"].split()) - len(p["b"].split()) for p in pairs]
    right = [p["p"] if more > 0 else 1 - p["p"] if more < 0 else 0.5
             for more, p in zip(longer, pairs, strict=True)]
    assert abs(mean(right) - 0.5) <= 0.05


def test_pairs_too_close_to_call_and_pairs_seen_before_are_left_out():
    def make(count, seed):
        return script.written_pairs(count, seed // 2, "train", set())  # the second round repeats

    pairs = script.clear_pairs(120, 0, make)
    assert len({tuple(sorted((p["a"], p["b"]))) for p in pairs}) == len(pairs) == 120
    assert all(abs(p["p"] - 0.5) >= script.CLEAR for p in pairs)
    shorter = [(len(p["a"]) < len(p["b"])) == (p["p"] > 0.5) for p in pairs]
    assert sum(shorter) <= 60 + 1


def test_a_split_leaves_out_what_earlier_splits_hold(tmp_path):
    row = {"chosen": "\n\nHuman: q\n\nAssistant: yes, at noon", "rejected":
           "\n\nHuman: q\n\nAssistant: no"}
    for split in data.SPLITS[:2]:
        script.write_jsonl(tmp_path / f"{split}.jsonl.gz", [
            {k: f"{v} ({split})" for k, v in row.items()}])
    found = {split: script.responses_elsewhere(tmp_path, split) for split in data.SPLITS}
    assert found["train"] == set()
    assert found["validation"] == {"yes, at noon (train)", "no (train)"}
    assert found["test"] == found["validation"] | {"yes, at noon (validation)", "no (validation)"}
    first = script.written_pairs(20, 3, "test", set())
    banned = {first[0]["a"], first[5]["b"]}
    rest = script.written_pairs(20, 3, "test", banned)
    assert [p for p in first if not {p["a"], p["b"]} & banned] == rest != first


def test_no_response_of_the_stored_pairs_stands_in_two_splits():
    responses = [{row[side] for row in data.load_pairs(load_profile(), split)
                  for side in ("chosen", "rejected")} for split in (*data.SPLITS, data.OOD)]
    assert all(not a & b for a, b in combinations(responses, 2))


def test_the_ood_split_has_topics_and_films_of_its_own():
    settings = load_profile()
    topics = [{row["topic"] for row in data.load_pairs(settings, split)} - {"harm"}
              for split in ("train", data.OOD)]
    assert len(topics[1]) >= 3
    assert not topics[0] & topics[1]
    assert not ({r["text"] for r in data.load_reviews(settings, data.OOD)}
                & {r["text"] for r in data.load_reviews(settings, "train")})
    sources = [row["source"] for row in data.load_pairs(settings, data.OOD)]
    assert sources.count("on-policy") == sources.count("generator") == len(sources) / 2


def test_length_tells_nothing_about_the_stored_pairs():
    from helpers.reward import length_margins

    for split in data.SPLITS:
        pairs = data.load_pairs(load_profile(), split)
        longer = length_margins(pairs) > 0
        assert abs(longer.mean() - 0.5) < max(0.03, 3 * 0.5 / len(pairs) ** 0.5)


def test_the_world_is_small():
    size = sum(len(c) for n, c in files(ROOT / "data").items() if not n.endswith((".py", ".pyc")))
    assert size < 40_000_000
    assert not [n for n in files(ROOT / "data") if n.endswith((".bin", ".pt", ".pkl"))]
    for model in ("base", "sampler", "classifier", *(f"zoo/{name}" for name in script.ZOO)):
        assert (ROOT / "data" / "models" / model / "README.md").is_file()


@pytest.fixture(scope="module")
def ood():
    """The shipped ood pairs as they are stored, by what wrote them."""
    rows = data.read_rows(ROOT / "data" / "preferences" / "ood.jsonl.gz")
    return {source: [r for r in rows if r["source"] == source]
            for source in ("generator", "on-policy")}


def split_row(row):
    """Prompt, chosen and rejected response of a stored pair."""
    prompt, mark, chosen = row["chosen"].rpartition("Assistant:")
    return prompt + mark, chosen.strip(), row["rejected"].rpartition("Assistant:")[2].strip()


def test_the_written_half_of_the_shipped_ood_pairs_is_what_the_script_makes(ood):
    """Texts, true probabilities and labels: this half is judged first, whatever is sampled."""
    start = script.stream("preferences", 0)
    taken = script.responses_elsewhere(ROOT / "data" / "preferences", "ood")
    written = script.clear_pairs(
        script.SIZES["preferences"]["ood"] // 2, start,
        lambda count, seed: script.written_pairs(count, seed, "ood", taken))
    made = script.judge(written, np.random.default_rng(start))
    assert sorted(map(json.dumps, made)) == sorted(map(json.dumps, ood["generator"]))


def test_the_sampled_half_answers_the_scripts_prompts_and_holds_their_true_probability(ood):
    from helpers.world import preference_probability
    from helpers.world.write_dialogues import make_pairs

    seed = script.stream("preferences", 0) + 500
    asked = {data.render_prompt(pair["prompt"]) for rounds in range(6)
             for pair in make_pairs(800, seed + rounds, "ood")}
    for row in ood["on-policy"]:
        prompt, chosen, rejected = split_row(row)
        assert prompt in asked
        true = preference_probability(prompt, chosen, rejected)
        assert row["probability"] == round(true, 4)
        assert abs(true - 0.5) >= script.CLEAR


def surprise(model, tokenizer, rows):
    """Mean over tokens of surprisal less entropy, in nats: 0 for what the model itself sampled.

    A token sampled from a distribution is on average as surprising as its entropy says, so this
    asks the stored texts, without sampling, whether they came from the model.
    """
    prompts, responses = [], []
    for row in rows:
        prompt, *both = split_row(row)
        for response in both:
            ids = reward.encode_response(tokenizer, prompt, response)
            prompts.append(ids[0])
            responses.append(ids[1])
    ids, mask = generation.pad_left(prompts, tokenizer.pad_token_id)
    said, kept = (part.flip(1) for part in generation.pad_left(
        [ids[::-1] for ids in responses], tokenizer.pad_token_id))
    logprobs, entropies = evaluation.response_logprobs(
        model, ids, mask, said, kept, with_entropy=True)
    return float(-(logprobs + entropies).sum() / kept.sum())


def test_the_sampled_half_came_from_the_sampler_at_temperature_one(ood):
    """Three fresh seeds gave .045 to .071, the stored splits .030 to .042 (a text's tokens read
    back are not always those sampled); sampling at 0.9 gave -.11, at 1.1 +.29, and what the base
    model thinks of them is .35."""
    assert len(ood["on-policy"]) == script.SIZES["preferences"]["ood"] // 2
    sampler, tokenizer = models.load_causal(models.EMBEDDED / "sampler", load_profile())
    assert -0.03 < surprise(sampler, tokenizer, ood["on-policy"]) < 0.13
    base, _ = models.load_causal(models.EMBEDDED / "base", load_profile())
    assert surprise(base, tokenizer, ood["on-policy"][:100]) > 0.2
    assert surprise(sampler, tokenizer, ood["generator"][:100]) > 0.2


@pytest.mark.slow
def test_the_ood_pairs_made_anew_are_like_the_shipped_ones(tmp_path, ood):
    folder = tmp_path / "preferences"
    folder.mkdir()
    for split in data.SPLITS:  # whose responses must not come again
        (folder / f"{split}.jsonl.gz").symlink_to(
            ROOT / "data" / "preferences" / f"{split}.jsonl.gz")
    done = build(tmp_path, "--only", "preferences", "--split", "ood")
    assert done.returncode == 0, done.stderr
    rows = data.read_rows(folder / "ood.jsonl.gz")
    written = [r for r in rows if r["source"] == "generator"]
    assert sorted(map(json.dumps, written)) == sorted(map(json.dumps, ood["generator"]))
    sampled = [r for r in rows if r["source"] == "on-policy"]
    assert len(sampled) == len(ood["on-policy"])
    sampler, tokenizer = models.load_causal(models.EMBEDDED / "sampler", load_profile())
    assert -0.03 < surprise(sampler, tokenizer, sampled) < 0.13


# --- the zoo, and texts of known probability ------------------------------------------------


def test_texts_of_known_probability_are_what_the_script_makes(tmp_path):
    script.write_floor(tmp_path, seed=0, scale=1.0)
    made, shipped = (data.read_rows(folder / "floor" / "test.jsonl.gz")
                     for folder in (tmp_path, ROOT / "data"))
    assert [r["text"] for r in made] == [r["text"] for r in shipped]
    assert [r["logprob"] for r in made] == pytest.approx([r["logprob"] for r in shipped], abs=2e-3)


@pytest.mark.slow
def test_the_smallest_model_made_anew_has_the_same_figures(tmp_path):
    (tmp_path / "models").mkdir()
    for shipped in (Path("models") / "base", Path("floor")):
        (tmp_path / shipped).symlink_to(ROOT / "data" / shipped)
    script.make_zoo(tmp_path, seed=0, scale=1.0, names=["gpt2-0.2m"])
    old, new = (json.loads((folder / "models" / "zoo" / "gpt2-0.2m" / "metrics.json").read_text())
                for folder in (ROOT / "data", tmp_path))
    assert new["tokens"] == old["tokens"] and new["parameters"] == old["parameters"]
    for kind in ("reviews", "dialogues"):
        assert new[f"bits_per_byte_{kind}"] == pytest.approx(old[f"bits_per_byte_{kind}"], rel=0.02)


def test_larger_models_need_fewer_bits_and_none_beats_the_generator():
    family = models.zoo()
    assert list(family) == sorted(family, key=lambda name: family[name]["parameters"])
    assert len({m["tokens"] for m in family.values()}) == 1
    known = [r for r in data.load_known_texts() if r["kind"] == "dialogues"]
    bound = sum(-r["logprob"] for r in known) / math.log(2) / sum(
        len(r["text"].encode()) for r in known)
    sizes = [m for name, m in family.items() if name.startswith("gpt2")]
    for kind in ("reviews", "dialogues"):
        bits = [m[f"bits_per_byte_{kind}"] for m in sizes]
        assert bits == sorted(bits, reverse=True)
    assert min(m["bits_per_byte_dialogues"] for m in family.values()) > bound > 0.1


def test_stored_bits_per_byte_are_those_of_the_stored_weights():
    folder = models.EMBEDDED / "zoo" / "gpt2-0.2m"
    model, tokenizer = models.load_causal(folder, load_profile())
    texts = [r["text"] for r in data.load_known_texts() if r["kind"] == "dialogues"]
    assert evaluation.bits_per_byte(model, tokenizer, texts) == pytest.approx(
        models.zoo()["gpt2-0.2m"]["bits_per_byte_dialogues"], rel=0.01)


def test_known_texts_belong_to_the_test_split():
    shipped = {r["text"] for s in data.SPLITS for r in data.load_reviews(load_profile(), s)}
    assert not shipped & {r["text"] for r in data.load_known_texts()}
