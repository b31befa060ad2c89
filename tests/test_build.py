"""The script that makes the embedded world: repeatable, in the schemas, splits apart."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import data
from helpers.profiles import ROOT, load_profile


def build(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "data" / "build.py"), "--out", str(out), *arguments],
        capture_output=True, text=True, timeout=300)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}


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
    assert len(first) == 9
    assert first == second


def test_the_shipped_texts_are_what_the_script_makes(tmp_path):
    done = build(tmp_path, "--only", "text", "--split", "validation")
    assert done.returncode == 0, done.stderr
    for name, content in files(tmp_path).items():
        assert (ROOT / "data" / name).read_bytes() == content, name


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


def test_length_tells_nothing_about_the_stored_pairs():
    from helpers.reward import length_margins

    for split in data.SPLITS:
        pairs = data.load_pairs(load_profile(), split)
        longer = length_margins(pairs) > 0
        assert abs(longer.mean() - 0.5) < max(0.03, 3 * 0.5 / len(pairs) ** 0.5)


def test_the_world_is_small():
    size = sum(len(c) for n, c in files(ROOT / "data").items() if not n.endswith((".py", ".pyc")))
    assert size < 16_000_000
    assert not [n for n in files(ROOT / "data") if n.endswith((".bin", ".pt", ".pkl"))]
    for model in ("base", "sampler", "classifier", "small"):
        assert (ROOT / "data" / "models" / model / "README.md").is_file()
