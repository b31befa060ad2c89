"""Measure what the embedded world promises: figure, bound and verdict, one row each.

    python data/check.py           a table; exit status 1 when a bound does not hold
    python data/check.py --slow    the attacks on the judges as well, stored in data/attacks.json

The attacks look for texts that the judges value and a reader would not: the best of 256 samples
by the judge itself, texts climbed to word by word, and what PPO learns to write that is paid by the
judge alone, without a reference to stay close to. Their winners are printed, to be read.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, pstdev

ROOT = Path(__file__).resolve().parent.parent
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "data")]

from data import measure  # noqa: E402
from helpers import data as loaders  # noqa: E402
from helpers import world  # noqa: E402
from helpers.profiles import load_profile  # noqa: E402
from helpers.world import (  # noqa: E402
    gold_sentiment,  # noqa: E402
    write_dialogues,
    write_reviews,
)

Judge = Callable[[str, str], float]
PROMPTS, SAMPLES, UPDATES = 8, 256, 40  # of an attack: asked, to choose from, of PPO
DAMAGES = ("shuffled", "repeated", "off topic", "truncated", "stock")


@dataclass(frozen=True)
class Figure:
    """One measured number with its bounds; a missing bound is None."""

    part: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the value lies within its bounds."""
        above = self.low is None or self.value >= self.low
        return above and (self.high is None or self.value <= self.high)

    def row(self) -> str:
        """A line of the table."""
        bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", self.low), ("<=", self.high))
                  if bound is not None]
        return (f"{self.part:<10} {self.name:<52} {self.value:>9.4g}  {', '.join(bounds):<18} "
                f"{'ok' if self.holds else 'MISSED'}")


def variety(part: str, texts: list[str]) -> list[Figure]:
    """How varied 2,000 texts are."""
    return [
        Figure(part, "distinct-4 over 2,000", measure.distinct_share(texts), 0.45),
        Figure(part, "commonest sentence of four words or more",
               measure.common_sentences(texts, top=1)[0][0], None, 0.005),
        Figure(part, "commonest run of eight words",
               measure.common_runs(texts, top=1)[0][0], None, 0.01),
    ]


def of_reviews() -> list[Figure]:
    """Variety of the reviews, and what it takes to judge them."""
    rows = write_reviews.make_reviews(20_000, 0, "train")
    sample = [r["text"] for r in rows[:2000]]
    test = [r for r in write_reviews.make_reviews(1500, 0, "test")
            if write_reviews.is_unambiguous(r)]
    train = [r for r in rows[:6000] if write_reviews.is_unambiguous(r)]
    sides = [[r[key] for r in part] for part in (train, test) for key in ("text", "label")]
    words, order = (measure.bag_of_words_accuracy(*sides, ngrams=n) for n in (1, 3))
    agree = [(gold_sentiment(r["text"]) > 0) == bool(r["label"]) for r in test]
    written = [json.loads(line) for line in lines("handwritten/reviews.jsonl")]
    lengths = [len(re.findall(r"\w+|[^\w\s]", r["text"])) for r in rows]
    return [
        *variety("reviews", sample),
        Figure("reviews", "words and marks of the shortest of 20,000", min(lengths), 60),
        Figure("reviews", "words and marks of the longest of 20,000", max(lengths), None, 250),
        Figure("reviews", "vocabulary of 2,000 (words)", measure.vocabulary(sample), 3000),
        Figure("reviews", "duplicates among 20,000",
               measure.duplicate_share([r["text"] for r in rows]), None, 0.0),
        Figure("reviews", "bag of words, unambiguous", words, None, 0.88),
        Figure("reviews", "three words in order less bag of words", order - words, 0.06),
        Figure("reviews", "gold_sentiment agrees, unambiguous", mean(agree), 0.97),
        Figure("reviews", f"gold_sentiment agrees, {len(written)} hand-written",
               mean((gold_sentiment(r["text"]) > 0) == bool(r["label"]) for r in written), 0.90),
    ]


def longer_share(right: list[str], wrong: list[str]) -> float:
    """How often a text of `right` has more words than one of `wrong`; a draw counts half."""
    sizes = [[len(text.split()) for text in texts] for texts in (right, wrong)]
    return mean((a > b) + 0.5 * (a == b) for a in sizes[0] for b in sizes[1])


def of_lengths() -> list[Figure]:
    """What a ruler would score on each evaluation set; near one half, length says nothing."""
    settings, figures = load_profile("embedded"), []
    sets = {split: loaders.load_reviews(settings, split)[:1000] for split in ("test", loaders.OOD)}
    sets["hand-written"] = [json.loads(line) for line in lines("handwritten/reviews.jsonl")]
    for name, rows in sets.items():
        sides = [[r["text"] for r in rows if r["label"] == label] for label in (1, 0)]
        figures.append(Figure("lengths", f"the longer review is the positive one, {name}",
                              longer_share(*sides), 0.4, 0.6))
    pairs = {split: loaders.load_pairs(settings, split) for split in ("test", loaders.OOD)}
    pairs["hand-written"] = loaders.load_handwritten()
    for name, rows in pairs.items():
        figures.append(Figure(
            "lengths", f"the longer response was chosen, {name}",
            mean(longer_share([r["chosen"]], [r["rejected"]]) for r in rows), 0.45, 0.55))
    return figures


def of_dialogues() -> list[Figure]:
    """Variety of the dialogues, and whether damage costs."""
    rows = write_dialogues.make_dialogues(20_000, 0, "train")
    texts = [" ".join(m["content"] for m in r["messages"]) for r in rows]
    sound = [r for r in write_dialogues.make_clean(900, 21)
             if r["quality"]["creativity"] >= 1][:500]
    figures = [
        *variety("dialogues", texts[:2000]),
        Figure("dialogues", "duplicates among 20,000", measure.duplicate_share(texts), None, 0.0),
    ]
    for kind in DAMAGES:
        rng = random.Random(kind)
        draws = 6 if kind == "off topic" else 1  # which other answer is drawn decides close ones
        worse = [world.gold_utility(r["prompt"], r["response"])
                 > world.gold_utility(r["prompt"], damaged(kind, r, sound, rng))
                 for _ in range(draws) for r in sound]
        figures.append(Figure("dialogues", f"{kind} copy below its original", mean(worse), 0.99))
    return figures


def damaged(kind: str, row: dict, rows: list[dict], rng: random.Random) -> str:
    """The response of `row`, damaged in one of `DAMAGES`; `rows` lend the off-topic answer."""
    text = row["response"]
    if kind == "shuffled":
        found = text.rstrip(".").split()
        rng.shuffle(found)
        return " ".join(found) + "."
    if kind == "repeated":
        parts = [p.strip() + "." for p in text.split(".") if p.strip()]
        spot = rng.randrange(len(parts))
        return " ".join(parts[: spot + 1] + parts[spot:])
    if kind == "off topic":
        return rng.choice([r for r in rows if r["topic"] != row["topic"]])["response"]
    if kind == "truncated":
        found = text.split()
        return " ".join(found[: max(2, int(len(found) * rng.uniform(0.4, 0.85)))]).rstrip(".,")
    return "That is a great question. There are many ways to deal with this, and it depends."


def of_pairs() -> list[Figure]:
    """The stored preference pairs: ceiling, length, origin, and splits without common text."""
    settings = load_profile("embedded")
    splits = {name: loaders.load_pairs(settings, name) for name in (*loaders.SPLITS, loaders.OOD)}
    test = splits["test"]
    chances = [pair["probability"] for pair in test]
    longer = [len(pair["chosen"].split()) - len(pair["rejected"].split()) for pair in test]
    right = [p if n > 0 else 1 - p if n < 0 else 0.5 for p, n in zip(chances, longer, strict=True)]
    origin = [json.loads(line)["source"] for line in lines("preferences/test.jsonl.gz")]
    texts = {name: {pair[side] for pair in pairs for side in ("chosen", "rejected")}
             for name, pairs in splits.items()}
    common = sum(len(texts[a] & texts[b]) for a, b in combinations(texts, 2))
    topics = {name: {pair["topic"] for pair in pairs} - {"harm"} for name, pairs in splits.items()}
    apart = [abs(pair["probability"] - world.preference_probability(
        pair["prompt"], pair["chosen"], pair["rejected"], world.LABELLERS)) for pair in test[:500]]
    return [
        Figure("pairs", "test pairs", len(test), 3960),
        Figure("pairs", "Bayes ceiling", mean(max(p, 1 - p) for p in chances), 0.80, 0.90),
        Figure("pairs", "probability by all labellers less the stored, mean",
               mean(apart), None, 0.005),
        Figure("pairs", "the longer response wins", mean(right), 0.45, 0.55),
        Figure("pairs", "share sampled from the fine-tuned model",
               mean(kind == "on-policy" for kind in origin), 0.49),
        Figure("pairs", "responses that stand in two splits", common, None, 0),
        Figure("pairs", "topics of the ood split that training has, harm aside",
               len(topics["train"] & topics[loaders.OOD]), None, 0),
    ]


def of_samples() -> list[Figure]:
    """The rubric on what models write: it must tell their samples apart, and know their words."""
    rows = [json.loads(line) for line in lines("preferences/test.jsonl.gz")]
    rows = [r for r in rows if r["source"] == "on-policy"][:600]
    figures, scores = [], []
    for row in rows:
        prompt, response = row["chosen"].rsplit("\n\nAssistant:", 1)
        scores.append(world.rubric(prompt + "\n\nAssistant:", response))
    for name in world.DIMENSIONS:
        values = [s[name] for s in scores]
        levels = [round(v) for v in values]
        common = max(map(levels.count, range(1, 6))) / len(levels)
        figures += [Figure("samples", f"{name}: standard deviation in points", pstdev(values), 0.5),
                    Figure("samples", f"{name}: share of the commonest level", common, None, 0.6)]
    figures.append(Figure("samples", "coverage of the fine-tuned model's samples", mean(
        world.coverage(r["rejected"].rsplit("\n\nAssistant:", 1)[1]) for r in rows), 0.9))
    figures.append(Figure("samples", "coverage of the base model's samples",
                          mean(map(world.coverage, base_samples())), 0.9))
    return figures


def base_samples(count: int = 200) -> list[str]:
    """What the base model writes after a question, put to it as it has read questions."""
    from helpers.generation import sample
    from helpers.models import load_causal

    settings = load_profile("embedded")
    model, tokenizer = load_causal(ROOT / "data" / "models" / "base", settings)
    asked = loaders.load_demonstrations(settings, "test", count)
    prompts = [loaders.plain_prompt(row["prompt"]) + "\n" for row in asked]
    return sample(model, tokenizer, prompts, settings.ppo.max_new_tokens, seed=0).texts


def lines(name: str) -> list[str]:
    """Lines of a file under data/, unpacked where it is packed."""
    path = ROOT / "data" / name
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return raw.decode("utf-8").splitlines()


# --- attacks --------------------------------------------------------------------------------


def attacks(seed: int = 0) -> list[dict]:
    """Texts made to please the two judges, `gold_utility` and `gold_sentiment`.

    Returns one row per prompt and kind of text: `judge`, `prompt`, `kind`, `gold`, `text`.
    """
    from helpers.data import cut_prompts
    from helpers.models import load_causal

    settings = load_profile("embedded")
    rng = random.Random(seed)
    models = ROOT / "data" / "models"
    policy, tokenizer = load_causal(models / "sampler", settings)
    rows = rng.sample(loaders.load_demonstrations(settings, "test"), PROMPTS)
    train = loaders.load_demonstrations(settings, "train")
    found = attack(
        "gold_utility", world.gold_utility, policy, tokenizer,
        {row["prompt"]: " " + row["response"] for row in rows}, [row["prompt"] for row in train],
        " ".join(row["response"] for row in train).split(), rng)
    policy, tokenizer = load_causal(models / "base", settings)
    texts = {split: [row["text"] for row in loaders.load_reviews(settings, split)]
             for split in ("train", "test")}
    openings = cut_prompts(texts["test"], tokenizer, PROMPTS, 4, 8, seed=seed)
    written = {o: next(t for t in texts["test"] if t.startswith(o))[len(o):] for o in openings}
    return found + attack(
        "gold_sentiment", lambda prompt, text: gold_sentiment(prompt + text), policy, tokenizer,
        {o: " ".join(text.split(" ")[:35]) for o, text in written.items()},
        cut_prompts(texts["train"], tokenizer, 2000, 4, 8, seed=seed + 1),
        " ".join(texts["train"][:1000]).split(), rng)


def attack(
    name: str, judge: Judge, policy, tokenizer, written: dict[str, str], prompts: list[str],
    bank: list[str], rng: random.Random,
) -> list[dict]:
    """What pleases one judge most: chosen among samples, climbed to, trained for.

    Args:
        name: of the judge.
        judge: called as judge(prompt, text), gives a number.
        policy: the language model whose samples are chosen from, and which is then trained.
        tokenizer: the policy's.
        written: test prompts, each with what the generator wrote for it.
        prompts: other prompts, for training.
        bank: words that occur in such texts, as often as they do.
        rng: of salads and climbs.
    """
    from helpers import ppo_trainer
    from helpers.generation import sample

    settings = load_profile("embedded")
    texts: dict[str, dict[str, str]] = {}
    for prompt, own in written.items():
        drawn = sample(policy, tokenizer, [prompt] * SAMPLES, settings.ppo.max_new_tokens,
                       seed=rng.randrange(2**31)).texts
        salad = [f" {' '.join(rng.choices(bank, k=22)).capitalize()}." for _ in range(SAMPLES)]
        best = [max(found, key=lambda text, p=prompt: judge(p, text)) for found in (drawn, salad)]
        texts[prompt] = {
            "by the generator": own, "one sample": drawn[0],
            f"best of {SAMPLES} samples": best[0], f"best of {SAMPLES} word salads": best[1],
            "climbed to, word by word": " " + climb(lambda text, p=prompt: judge(p, " " + text),
                                                    best[1], bank, rng)}
    config = ppo_trainer.PPOConfig.from_settings(
        settings, updates=UPDATES, kl_coef=0.0, kl_target=None)
    ppo_trainer.PPO(policy, None, lambda asked, said: list(map(judge, asked, said)), tokenizer,
                    config).train(prompts)
    trained = sample(policy, tokenizer, list(written), config.max_new_tokens, seed=0).texts
    for prompt, text in zip(written, trained, strict=True):
        texts[prompt]["PPO paid by the judge alone"] = text
    return [{"judge": name, "prompt": prompt, "kind": kind, "text": text.strip(),
             "gold": round(judge(prompt, text), 3)}
            for prompt, kinds in texts.items() for kind, text in kinds.items()]


def climb(
    gold: Callable[[str], float], text: str, bank: list[str], rng: random.Random,
    steps: int = 2000,
) -> str:
    """Change one word at a time and keep what `gold` likes better."""
    best, value = text.split(), gold(text)
    for _ in range(steps):
        new = list(best)
        place, kind = rng.randrange(len(new)), rng.random()
        if kind < 0.6:
            new[place] = rng.choice(bank)
        elif kind < 0.8:
            new.insert(place, rng.choice(bank))
        elif len(new) > 3:
            del new[place]
        if (score := gold(" ".join(new))) > value:
            best, value = new, score
    return " ".join(best)


# --- command line ---------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns 1 when a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", action="store_true", help="attack the judges as well")
    args = parser.parse_args(argv)
    figures = []
    for part in (of_reviews, of_dialogues, of_lengths, of_pairs, of_samples):
        for figure in part():
            figures.append(figure)
            print(figure.row(), flush=True)
    if args.slow:
        found = attacks()
        (ROOT / "data" / "attacks.json").write_text(
            json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for judge, kind in dict.fromkeys((row["judge"], row["kind"]) for row in found):
            rows = [row for row in found if (row["judge"], row["kind"]) == (judge, kind)]
            print(f"\n{judge}, {kind}: mean {mean(row['gold'] for row in rows):.2f}")
            for row in rows[:3]:
                print(f"  {row['gold']:6.2f}  {row['text']}")
    missed = sum(not figure.holds for figure in figures)
    print(f"\n{len(figures)} figures, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
