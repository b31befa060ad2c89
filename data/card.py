"""Write data/README.md, the card of the embedded world, and its picture, from the data themselves.

    python data/card.py

The words are here, the numbers are measured: sizes, distributions, thirty samples drawn at random,
the table of `data/check.py`, and the winners of the attacks if `data/check.py --slow` stored them.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from statistics import mean, median

ROOT = Path(__file__).resolve().parent.parent
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "data")]

from data import check  # noqa: E402
from helpers import data as loaders  # noqa: E402
from helpers import world  # noqa: E402
from helpers.profiles import load_profile  # noqa: E402

HEAD = """# The embedded world

Film reviews, questions with answers, preference pairs and small language models, made so that a
course on RLHF runs without a network and so that its claims can be checked against the truth. Text
and models are made by `python data/build.py` (`make data`); this card by `python data/card.py`.

## How it was made

**Reviews** follow a film with a latent stance on eight aspects and an overall rating from 1 to 10.
A grammar of discourse (opinion, reason, concession, anecdote, comparison, verdict) joins clauses
written for this course, with negation, contrast, irony and reported opinions. The label is 1 from
rating 7 and 0 up to rating 4, as in IMDB; there is nothing between.

**Dialogues** are about one subject of one topic: goals and problems a user asks about, tips,
reasons that belong to a tip, and examples. A latent quality per dimension says what goes wrong in
an answer: a sentence about something else, vague phrases, a contradiction, padding, broken
grammar. Harmful requests have better answers that decline and help otherwise.

**Preference pairs** are half written by the generator and half two samples of the fine-tuned model
`models/sampler`. Simulated annotators with weights, noise and a preference for the first place
choose by a Bradley–Terry rule. Each row keeps the true probability of its label, annotators and
order averaged out. Pairs too close to call are left out, as annotators are told to do (`CLEAR` in
`data/build.py` says how close), and the shorter answer is the better one in no more than half of
the others, so that length tells nothing.

**Models to compare** (`models/zoo`) are four GPT-2s and a Llama, each trained from random weights
on the same two million tokens of such text. `floor` holds held-out texts together with the
log-probability of the generator's way to them, which bounds what any model can reach.

**The truth** is computed from the text alone (`helpers/world/`), so it
also judges what a model writes.

## What it cannot teach

It is neither IMDB nor people. Its sentences come from a finite bank of clauses, and its
annotators agree on what good means up to weights and noise. The judges are rule books: they know
the words of the banks and general rules of order, not meaning. A text that no reader would take
for an answer can still collect points. Nothing measured here says how large a model or how much
data the real task needs.
"""

LICENCE = """## Licence

Text, models and generator are part of the course and under its licence (see `LICENSE`).
"""


MEASURED = ("val_loss_before", "val_loss", "bits_per_byte", "accuracy", "bits_per_byte_reviews",
            "bits_per_byte_dialogues")


def main() -> int:
    """Write the card and its picture."""
    settings = load_profile("embedded")
    splits = (*loaders.SPLITS, loaders.OOD)
    reviews = {s: loaders.load_reviews(settings, s) for s in splits}
    rows = {s: loaders.load_demonstrations(settings, s) for s in loaders.SPLITS}
    pairs = {s: loaders.load_pairs(settings, s) for s in splits}
    parts = [HEAD, sizes(reviews, rows, pairs), distributions(reviews, pairs),
             "![Lengths, gold utility and preference probabilities](world.png)\n",
             figures(), samples(reviews["test"], rows["test"], pairs["test"]), winners(), LICENCE]
    picture(reviews["test"], pairs["test"])
    (ROOT / "data" / "README.md").write_text("\n".join(p for p in parts if p), encoding="utf-8")
    return 0


def sizes(reviews: dict, rows: dict, pairs: dict) -> str:
    """Rows per split, and the models."""
    text = ["## Sizes\n", "| rows | train | validation | test | ood |", "|---|---|---|---|---|"]
    for name, kind in (("reviews", reviews), ("demonstrations", rows), ("preference pairs", pairs)):
        counts = " | ".join(f"{len(kind.get(s, ())):,}" for s in (*loaders.SPLITS, loaders.OOD))
        text.append(f"| {name} | {counts} |")
    text += ["", "`ood` has films, topics and clauses that no other split uses."]
    text += ["", "| model | parameters | minutes to make | measured |", "|---|---|---|---|"]
    minutes = 0.0
    for path in sorted((ROOT / "data" / "models").rglob("metrics.json")):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        shown = ", ".join(f"{k} {metrics[k]:.3f}" for k in MEASURED if k in metrics)
        own = metrics.get("seconds", 0) / 60  # those of a minute or two do not store it
        minutes += own
        text.append(f"| {path.parent.name} | {metrics['parameters'] / 1e6:.2f} M | "
                    f"{f'{own:.1f}' if own else ''} | {shown} |")
    size = sum(path.stat().st_size for path in (ROOT / "data").rglob("*") if path.is_file()
               and path.suffix not in (".py", ".pyc"))
    text += ["", f"In total {size / 1e6:.1f} MB. `make data` trains for {minutes:.0f} minutes on "
             "two cores; what has no time in the table takes a few minutes more. Texts come out "
             "byte for byte. A test trains the smallest model again and finds the same figures "
             "within 2 %; the others were trained once."]
    return "\n".join(text) + "\n"


def distributions(reviews: dict, pairs: dict) -> str:
    """Shares of labels and topics, lengths, the Bayes ceiling."""
    labels = mean(r["label"] for r in reviews["test"])
    words = [len(r["text"].split()) for r in reviews["test"]]
    answer = [len(p["chosen"].split()) for p in pairs["test"]]
    chance = [p["probability"] for p in pairs["test"]]
    topics = Counter(json.loads(line)["topic"] for line in check.lines("preferences/test.jsonl.gz"))
    return (
        "## Distributions\n\n"
        f"- Reviews: {labels:.0%} positive; {min(words)} to {max(words)} words, median "
        f"{median(words):.0f}.\n"
        f"- Chosen responses: {min(answer)} to {max(answer)} words, median {median(answer):.0f}.\n"
        f"- {len(topics)} topics in the test pairs; the commonest, {topics.most_common(1)[0][0]}, "
        f"in {topics.most_common(1)[0][1] / sum(topics.values()):.1%} of them.\n"
        f"- The label is the likelier one in {mean(p > 0.5 for p in chance):.1%} of the test pairs;"
        f" who knows the true probabilities is right in "
        f"{mean(max(p, 1 - p) for p in chance):.1%} (the Bayes ceiling).\n")


def figures() -> str:
    """The table of data/check.py."""
    found = [f for part in (check.of_reviews, check.of_dialogues, check.of_pairs,
                            check.of_samples) for f in part()]
    return ("## What is promised, and measured\n\n`python data/check.py` prints this table and "
            "fails when a bound does not hold.\n\n```text\n"
            + "\n".join(f.row().rstrip() for f in found) + "\n```\n")


def samples(reviews: list, rows: list, pairs: list) -> str:
    """Thirty samples, drawn and not chosen."""
    rng = random.Random(0)
    text = ["## Thirty samples, drawn at random\n", "Reviews, with their labels:\n"]
    text += [f"- ({r['label']}) {quoted(r['text'])}" for r in rng.sample(reviews, 10)]
    text.append("\nDemonstrations:\n")
    text += [f"- *{quoted(loaders.plain_prompt(r['prompt']))}* — {quoted(r['response'])}"
             for r in rng.sample(rows, 10)]
    text.append("\nPreference pairs: question, chosen, rejected, true probability of this label:\n")
    for p in rng.sample(pairs, 10):
        text += [f"- *{quoted(loaders.plain_prompt(p['prompt']))}* ({p['probability']:.2f})",
                 f"  - chosen: {quoted(p['chosen'])}", f"  - rejected: {quoted(p['rejected'])}"]
    return "\n".join(text) + "\n"


def quoted(text: str, longest: int = 420) -> str:
    """One line of Markdown in which nothing is markup; a long text is cut."""
    text = " ".join(text.split())
    text = text if len(text) <= longest else text[:longest].rsplit(" ", 1)[0] + " …"
    return "".join("\\" + c if c in "\\*_`<>[]" else c for c in text)


def winners() -> str:
    """What the attacks on gold_utility found, if they were run."""
    path = ROOT / "data" / "attacks.json"
    if not path.is_file():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    text = ["## Attacks on the judges\n",
            "`python data/check.py --slow` looks for texts that `gold_utility` (of an answer) and "
            "`gold_sentiment` (of a review) value: the best of 256 samples and of 256 word salads "
            "chosen by the judge itself, a text climbed to word by word, and what PPO learns to "
            "write when the judge alone pays it, with no penalty for leaving the language.\n",
            "The first such attack beat `gold_sentiment`: lucky word salads were great praise, and "
            "PPO learned to write lists of exclamations. The judge now asks as well whether words "
            "are neighbours in reviews of this world and whether sentences begin as sentences do. "
            "A second one found bare verdicts, so praise that names nothing of the film now counts "
            "half; a third passed genres and other people's taste for parts of the film (\"comedy "
            "or not\"), so a part must now be spoken of as this film's. PPO, after forty updates "
            "with the judge as the reward and nothing that holds it to the language, now names a "
            "part of the film and praises it, as a review would, and still ends on words that do "
            "not join; the best samples read better and score higher. No notebook trains on a "
            "judge of the truth. "
            "`gold_utility` holds against samples and PPO; climbing word by word still finds "
            "texts without sense that it likes, so no claim of the course rests on such a search. "
            "(The climb starts at the best salad. Where all salads lie at the judge's floor it has "
            "no slope to follow, which says little about cleverer searches.) "
            "Mean of each kind, and the first two winners:\n"]
    for judge, kind in dict.fromkeys((row["judge"], row["kind"]) for row in found):
        rows = [row for row in found if (row["judge"], row["kind"]) == (judge, kind)]
        text.append(f"- `{judge}`, **{kind}**: {mean(r['gold'] for r in rows):.2f}")
        text += [f"  - {r['gold']:.2f}: *{quoted(loaders.plain_prompt(r['prompt']))}* — "
                 f"{quoted(r['text'])}" for r in rows[:2]]
    return "\n".join(text) + "\n"


def picture(reviews: list, pairs: list) -> None:
    """Four small histograms."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    axes[0].hist([len(r["text"].split()) for r in reviews], bins=30)
    axes[0].set(xlabel="words in a review", ylabel="test reviews")
    axes[1].hist([world.gold_utility(p["prompt"], p[s]) for p in pairs[:1000]
                  for s in ("chosen", "rejected")], bins=30)
    axes[1].set(xlabel="gold utility of a response", ylabel="responses")
    axes[2].hist([p["probability"] for p in pairs], bins=20)
    axes[2].set(xlabel="true probability of the label", ylabel="test pairs")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "data" / "world.png", dpi=80)


if __name__ == "__main__":
    sys.exit(main())
