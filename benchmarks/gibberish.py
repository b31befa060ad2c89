"""The forest that tells gibberish from language: fit it, and ask how often it is right.

    python -m benchmarks.gibberish fit
    python -m benchmarks.gibberish sample --model FOLDER

`fit` grows the trees of `data/gibberish_forest.npz` from the labelled texts of `tests/quality/`,
those of the last authors and half of the sampled ones aside. Before that it leaves out each author
in turn, so that one sees how often a forest is right about somebody it was not fitted to, and after
it come the last authors and the other half. `sample` makes `tests/quality/sampled.jsonl`: answers
of a real model, whole, and broken as models break (too hot, hot after a good beginning, weights
rounded to two bits, noise on the weights, layers missing), the label known from how each was made;
whole ones that end in a loop have another fault and are left out.
FOLDER is what `python -m benchmarks.real_model folder FOLDER` writes.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import itertools
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.shared import store
from helpers.engine.tokens import pad_left, text_ids
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.quality import gibberish, is_repetitive
from helpers.quality.words import SMALL

LABELLED = ROOT / "tests" / "quality"
OWN = ("examples", "hard", "wide", "heldout")  # by the author of the rules that were here before
OTHERS = ("blind", "unseen", "broken", "last", "authors", "sampled")
TREES, SEED = 150, 0
SETTINGS = {"n_estimators": TREES, "max_features": 0.3, "min_samples_leaf": 3, "random_state": SEED}
ALARMS = 0.03  # of sound texts of authors left out, half of them hard on purpose
OTHER_WEIGHT = 0.5  # of texts that were labelled for another fault, or made of labelled ones
QUESTIONS = (
    "How do I keep a sourdough starter alive?",
    "What is the difference between weather and climate?",
    "Write a short poem about rain.", "Explain recursion to a beginner.", "How can I sleep better?",
    "Give me five names for a cat.", "What causes tides?", "How do vaccines work?",
    "Write an email to my landlord about a broken heater.", "What should I see in Rome?",
    "Why is the sky blue?", "How do I reverse a list in Python?",
    "Summarise the plot of Romeo and Juliet.", "What is compound interest?",
    "How do I boil an egg?",
    "Who was Marie Curie?", "What are the benefits of walking?", "Describe a sunset over the sea.",
    "How does a bicycle stay upright?", "What is photosynthesis?",
    "Write a dialogue between a baker and a customer.", "How do I remove a coffee stain?",
    "List three renewable sources of energy.", "What is inflation?", "Tell me a story about a fox.",
    "How do I learn the guitar?", "What does the heart do?",
    "Translate 'good morning' into French and use it in a sentence.",
    "What is the capital of Australia, and why?", "How do I write a cover letter?",
    "Explain the rules of chess briefly.", "What is a black hole?", "How can I save on groceries?",
    "What is machine learning?", "Why do leaves turn red in autumn?", "How do I train a puppy?",
    "What is the water cycle?", "Give me a recipe for pancakes.", "How do earthquakes happen?",
    "What makes a good leader?", "How do I change a tyre?", "What was the Silk Road?",
    "Write a haiku about coffee.", "How do noise-cancelling headphones work?",
    "What should I pack for a hike?", "Explain supply and demand.", "How do bees make honey?",
    "Write a thank-you note to a teacher.", "What is the Pythagorean theorem?",
    "How do I stop procrastinating?", "Who painted the Mona Lisa?", "What is a healthy breakfast?",
    "How do I plant tomatoes?", "What is DNA?", "Tell me a joke about computers.",
    "How do airplanes fly?", "What are the planets of the solar system?",
    "How do I prepare for a job interview?", "What is democracy?", "Describe an old library.",
    "How do I make tea?", "What is a prime number?", "Why do we dream?",
    "How do I fix a leaking tap?", "What happened in 1969?", "Write a slogan for a bakery.",
    "What is the greenhouse effect?", "How do I write a for loop in JavaScript?",
    "What is the tallest mountain?", "How can I be more patient?", "What is gravity?",
    "Give me tips for public speaking.", "How do magnets work?", "What is a sonnet?",
    "How do I clean a cast-iron pan?", "What is the stock market?", "Tell me about penguins.",
    "How do I say no politely?", "What is the immune system?", "How do I read music?")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("fit", "sample"))
    parser.add_argument("--model", type=Path, help="folder of a chat model, for `sample`")
    given = parser.parse_args(arguments)
    try:
        if given.part == "sample":
            if given.model is None:
                raise UserError("sample needs a model; write one with `python -m "
                                "benchmarks.real_model folder FOLDER` and give --model FOLDER.")
            print(f"written: {sample(given.model)}")
        else:
            fit()
    except UserError as error:
        print(f"gibberish: {error}", file=sys.stderr)
        return 1
    return 0


def labelled(*names: str) -> list[dict[str, Any]]:
    """Rows of `tests/quality/`, each with the author it is by."""
    rows = []
    for name in names:
        lines = (LABELLED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for row in map(json.loads, lines):
            rows.append({**row, "author": f"{name} {row['author']}" if "author" in row else name})
    return rows


def of_gibberish(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == "gibberish"]


def by_author(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["author"], []).append(row)
    return found


def language(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts that were labelled for another fault, none of them empty: no gibberish, all of them."""
    return [{**row, "fault": False} for row in rows
            if row["kind"] != "gibberish" and not (row["kind"] == "empty" and row["fault"])
            and row["text"].strip()]


def made(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts made of one author's: long ones, whole and broken at the end, first sentences, and
    sound ones with one slip, since answers are longer and shorter than labelled texts, and one slip
    is no gibberish."""
    rng, found = random.Random(SEED), []

    def add(text: str, fault: bool, author: str, how: str) -> None:
        found.append({"kind": "gibberish", "fault": fault, "text": text, "author": author,
                      "made": how})

    for author in dict.fromkeys(row["author"] for row in rows):
        own = [row for row in rows if row["author"] == author]
        sound = [row["text"] for row in own if not row["fault"] and len(row["text"].split()) > 7]
        faulty = [row["text"] for row in own if row["fault"] and len(row["text"].split()) > 11]
        for text in sound:
            first = re.split(r"(?<=[.!?])\s", text)[0]
            if first != text and len(first.split()) > 2:
                add(first, False, author, "its first sentence")
                add(_with_a_slip(first, rng), False, author, "its first sentence, with a slip")
            add(_with_a_slip(text, rng), False, author, "with a slip")
            some = rng.sample(sound, min(len(sound), rng.randint(3, 7)))
            joint = rng.choice(("\n\n", " "))
            add(joint.join(some), False, author, "several")
            if rng.random() < 0.5 and faulty:
                add(joint.join([*some[:-2], rng.choice(faulty)]), True, author,
                    "several, one broken")
    return found


def _with_a_slip(text: str, rng: random.Random) -> str:
    """One word twice (a small one, often), one left out, two letters swapped, or no space."""
    parts = re.split(r"(\s+)", text)
    at = 2 * rng.randrange(len(parts) // 2)
    small = [i for i in range(0, len(parts) - 1, 2) if parts[i] in SMALL]
    if small and rng.random() < 0.4:
        at = rng.choice(small)
        parts[at] += f" {parts[at]}"
        return "".join(parts)
    word = parts[at]
    i = rng.randrange(max(1, len(word) - 1))
    space, swapped = parts[at + 1], word[:i] + word[i : i + 2][::-1] + word[i + 2 :]
    parts[at : at + 2] = rng.choice(([word, " ", word, space], [], [swapped, space], [word]))
    return "".join(parts)


def of_the_course() -> list[dict[str, Any]]:
    """Answers and reviews of the embedded world, sound as they are."""
    import pandas as pd

    with gzip.open(ROOT / "data/demonstrations/train.jsonl.gz", "rt", encoding="utf-8") as lines:
        answers = [json.loads(line)["response"] for line in lines]
    reviews = pd.read_parquet(ROOT / "data" / "reviews" / "train.parquet")["text"].tolist()
    rng = random.Random(SEED)
    return [{"kind": "other", "fault": False, "text": text, "author": "course"}
            for texts in (answers, reviews) for text in rng.sample(texts, 300)]


class Features:
    """`gibberish.features` of texts, each counted once."""

    def __init__(self) -> None:
        self.known: dict[str, np.ndarray] = {}

    def __call__(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        for row in rows:
            if row["text"] not in self.known:
                self.known[row["text"]] = gibberish.features(row["text"])
        return np.array([self.known[row["text"]] for row in rows])


def grow(rows: Sequence[dict[str, Any]], features: Features) -> Any:
    """Scikit-learn's forest, fitted to rows; those of another kind weigh less."""
    from sklearn.ensemble import ExtraTreesClassifier

    weight = [OTHER_WEIGHT if row["kind"] != "gibberish" or "made" in row else 1.0 for row in rows]
    forest = ExtraTreesClassifier(**SETTINGS, n_jobs=-1)
    return forest.fit(features(rows), [row["fault"] for row in rows], sample_weight=weight)


def arrays(forest: Any) -> dict[str, np.ndarray]:
    """A forest as `gibberish` walks it: nodes in order of depth, a left child after its parent."""
    trees = [tree.tree_ for tree in forest.estimators_]
    root = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
    inner = [tree.children_left >= 0 for tree in trees]
    assert all((tree.children_left[of] == np.flatnonzero(of) + 1).all()
               for tree, of in zip(trees, inner, strict=True))
    return {
        "root": root.astype(np.int32),
        "feature": np.concatenate([np.where(of, tree.feature, -1) for tree, of in
                                   zip(trees, inner, strict=True)]).astype(np.int16),
        # rounded down: scikit-learn compares a float32 with a float64
        "threshold": np.concatenate([_down(np.where(of, tree.threshold, 0)) for tree, of in
                                     zip(trees, inner, strict=True)]),
        "right": np.concatenate([np.where(of, tree.children_right + start, -1) for tree, of, start
                                 in zip(trees, inner, root, strict=True)]).astype(np.int32),
        "value": np.concatenate([tree.value[:, 0, 1] / tree.value[:, 0].sum(1)
                                 for tree in trees]).astype(np.float16)}


def _down(values: np.ndarray) -> np.ndarray:
    """The greatest float32 that is not above a float64."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)


@functools.cache
def _loops(text: str) -> bool:
    return is_repetitive(text)


def right(rows: Sequence[dict[str, Any]], votes: np.ndarray, limit: float) -> dict[str, Any]:
    """How often; a text in a loop counts as found either way, since a loop is a fault of its own
    that some authors call gibberish."""
    loops = np.array([_loops(row["text"]) for row in rows])
    found = (votes > limit) | loops
    faulty = np.array([row["fault"] for row in rows])
    hits, alarms = int((found & faulty).sum()), int((found & ~faulty).sum())
    return {"faulty": int(faulty.sum()), "sound": int((~faulty).sum()), "found": hits,
            "false_alarms": alarms, "precision": round(hits / max(1, hits + alarms), 4),
            "recall": round(hits / max(1, int(faulty.sum())), 4)}


def limit_for(rows: Sequence[dict[str, Any]], votes: np.ndarray) -> float:
    """The least share of votes, to a hundredth, above which at most `ALARMS` of the sound texts lie
    or loop: where detectors are used most texts are sound, and faults are a few in a hundred."""
    told = ((limit, right(rows, votes, limit)) for limit in np.arange(20, 60) / 100)
    return next(limit for limit, found in told if found["false_alarms"] <= ALARMS * found["sound"])


def to_be_fitted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What trees may see of labelled rows, and what is made of it."""
    rows = [row for row in rows if row.get("part") != "test"]
    return [*of_gibberish(rows), *language(rows), *made(of_gibberish(rows)), *of_the_course()]


def fit() -> None:
    """Grow, ask, write, and say what was measured."""
    features = Features()
    rows = labelled(*OWN, *OTHERS)
    to_fit = to_be_fitted(rows)
    authors = by_author(row for row in of_gibberish(rows) if row["author"] not in OWN)
    votes = {}
    for author in authors:
        forest = grow([row for row in to_fit if row["author"] != author], features)
        votes[author] = forest.predict_proba(features(authors[author]))[:, 1]
    everybody = [row for asked in authors.values() for row in asked]
    limit = limit_for(everybody, np.concatenate([*votes.values()]))
    table = [{"author": author, "fitted": "to all others", **right(asked, votes[author], limit)}
             for author, asked in authors.items()]
    table.append({"author": "all of them", "fitted": "to all others",
                  **right(everybody, np.concatenate([*votes.values()]), limit)})
    aside = gibberish.FOREST.with_suffix(".part.npz")
    np.savez_compressed(aside, limit=np.float32(limit), **arrays(grow(to_fit, features)))
    os.replace(aside, gibberish.FOREST)
    gibberish.read_forest.cache_clear()
    last = by_author(of_gibberish(labelled("final")))
    tests = [row for row in of_gibberish(rows) if row.get("part") == "test"]
    for author, asked in {**last, "the last authors": [row for of in last.values() for row in of],
                          "sampled, other questions": tests}.items():
        told = np.array([gibberish.gibberish_score(row["text"]) for row in asked])
        table.append({"author": author, "fitted": "never", **right(asked, told, limit)})
    for row in table:
        print(row)
    for other in np.arange(26, 50, 4) / 100:
        print(other, right(everybody, np.concatenate([*votes.values()]), other))
    path = store.save("gibberish", table, texts=len(to_fit), trees=TREES, limit=limit)
    print(f"limit {limit}; written: {gibberish.FOREST} and {path}")


def _answers(model: Any, tokenizer: Any, questions: Sequence[str], temperature: float, tokens: int,
             begun: Sequence[str] | None = None) -> tuple[list[str], list[bool]]:
    """One to each question, going on from `begun`, and whether the model ended it itself."""
    import torch

    asked = [tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False)
        for question in questions]
    if begun:
        asked = [ids + more for ids, more in zip(asked, text_ids(tokenizer, begun), strict=True)]
    texts, ended = [], []
    for at in range(0, len(asked), 20):
        prompts, mask = pad_left(asked[at : at + 20], tokenizer.pad_token_id)
        with torch.inference_mode():
            ids = model.generate(
                prompts, attention_mask=mask, do_sample=True, temperature=temperature, top_k=0,
                top_p=0.9 if temperature < 1 else 1.0, max_new_tokens=tokens, min_new_tokens=8,
                pad_token_id=tokenizer.pad_token_id)[:, prompts.shape[1] :]
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
        ended += (ids == tokenizer.eos_token_id).any(1).tolist()
    return texts, ended


def _ended_and_cut(model: Any, tokenizer: Any, rng: random.Random) -> list[dict[str, Any]]:
    """Answers that the model ended itself, and each of them cut at a token, not behind a full
    stop, where nobody could see it."""
    rows = []
    texts, ended = _answers(model, tokenizer, QUESTIONS, 0.7, 256)
    for at, text in itertools.compress(enumerate(texts), ended):
        kind = {"kind": "cut_off", "part": ("fit", "test")[at % 2]}
        [ids] = text_ids(tokenizer, [text])
        half = tokenizer.decode(ids[: rng.randint(max(4, len(ids) // 4), len(ids) - 1)]).strip()
        rows.append({**kind, "fault": False, "text": text.strip(), "note": "ended"})
        if not re.search(r"[.!?]\W*\Z", half):
            rows.append({**kind, "fault": True, "text": half, "note": "cut at a token"})
    return rows


def sample(folder: Path) -> Path:
    """Answers of a real chat model, whole and broken; a question's half goes with its place."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def answers(model: Any, *about: Any) -> list[str]:
        return _answers(model, tokenizer, *about)[0]

    def damaged(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        broken = load()
        with torch.no_grad():
            for name, weight in broken.named_parameters():
                if weight.ndim == 2 and "embed" not in name:
                    weight.copy_(change(weight.float()))
        return broken

    def two_bits(weight: torch.Tensor) -> torch.Tensor:
        """Four levels in each group of 64 weights, evenly from its least to its greatest size."""
        groups = weight.view(-1, 64)
        step = groups.abs().amax(1, keepdim=True) / 1.5
        return (((groups / step - 0.5).round() + 0.5) * step).view_as(weight)

    whole, rows = load(), []

    def add(questions: Sequence[str], texts: Sequence[str], fault: bool, note: str) -> None:
        for question, text in zip(questions, texts, strict=True):
            if len(text.split()) >= 6 and (fault or not is_repetitive(text)):
                part = ("fit", "test")[QUESTIONS.index(question) % 2]
                rows.append({"kind": "gibberish", "fault": fault, "text": text.strip(),
                             "note": note, "part": part})

    good = answers(whole, QUESTIONS, 0.7, 80)
    add(QUESTIONS, good, False, "temperature 0.7")
    add(QUESTIONS, answers(whole, QUESTIONS, 0.3, 50), False, "temperature 0.3")
    begun = [" ".join(text.split()[: rng.randint(8, 22)]) for text in good]
    ends = answers(whole, QUESTIONS, 2.5, 32, begun)
    add(QUESTIONS, [a + b for a, b in zip(begun, ends, strict=True)], True,
        "hot after a good beginning")
    for temperature, some in ((2.0, QUESTIONS), (4.0, QUESTIONS[:40])):
        add(some, answers(whole, some, temperature, 40), True, f"temperature {temperature:g}")
    for note, change in (
            ("two-bit weights", two_bits),
            ("noise on weights", lambda w: w + 0.6 * w.std() * torch.randn_like(w))):
        add(QUESTIONS[40:], answers(damaged(change), QUESTIONS[40:], 0.8, 40), True, note)
    short = load()
    short.model.layers = short.model.layers[:20]
    short.config.num_hidden_layers = 20
    add(QUESTIONS[:40], answers(short, QUESTIONS[:40], 0.8, 40), True, "layers missing")
    rows += _ended_and_cut(whole, tokenizer, rng)
    path = LABELLED / "sampled.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
                    encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
