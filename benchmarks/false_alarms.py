"""Does the comparison of notebook 07 find a difference where none is, and one that is there?

    python benchmarks/false_alarms.py [--model FOLDER]

A pretrained model answers each of many openings several times; the judge is the mean
log-probability per token that the model itself gives its answer. Then, 400 times: at random a part
of the openings, and for each of them two of its answers at random, one for policy A and one for
policy B. Both are the same model, so an interval at 95 % should miss one half in about 5 % of the
cases. A better policy by a known amount answers a share of the openings with the better of two
answers by the judge: of three exchangeable answers the best is one of its two with chance 2/3, so
its win rate is 1/2 + share/6. FOLDER is `RLHF_REAL_DATA/models/stories260k` when it is not given.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.shared import halves, store
from helpers import generation
from helpers.course import session
from helpers.paths import ROOT

NAMES = ("Lily", "Tom", "Mia", "Ben", "Anna", "Sam", "Lucy", "Max", "Sara", "Tim", "Amy", "Jack",
         "Ella", "Leo", "Zoe", "Bob", "Rosie", "Finn", "Molly", "Dan")
OPENINGS = ("Once upon a time, {} found a", "{} was very sad because", "One day, {} went to the",
            "{} had a big red", "{} and a little dog", "{} did not like to", "In the park, {} saw",
            "It was raining, so {}", "{} wanted to play with", "{}'s mom said that",
            "At the beach, {} and", "{} was scared of the", "Every night, {} would",
            "{} had a new friend named", "On a sunny day, {}", "{} lost a toy and",
            "The bird told {} that", "{} made a cake for", "{} heard a loud noise",
            "After lunch, {} went")
ANSWERS, TOKENS, SEED = 8, 40, 0


def answered(folder: Path) -> dict[str, list[list[float]]]:
    """Scores and lengths in tokens of each opening's answers, (openings, ANSWERS) both."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = tokenizer.unk_token
    asked = [opening.format(name) for name, opening in itertools.product(NAMES, OPENINGS)]
    scores, lengths = [], []
    for number in range(ANSWERS):
        made = generation.sample(model, tokenizer, asked, TOKENS, seed=SEED + number,
                                 batch_size=200)
        scores.append((made.logprobs.sum(1) / made.lengths).tolist())
        lengths.append(made.lengths.tolist())
    print(f"{asked[0]} … {made.texts[0]}")
    return {"scores": np.round(np.transpose(scores), 4).tolist(),
            "lengths": np.transpose(lengths).tolist()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a model and its tokenizer")
    given = parser.parse_args().model
    if given is None and os.environ.get("RLHF_REAL_DATA"):
        given = Path(os.environ["RLHF_REAL_DATA"]) / "models" / "stories260k"
    if given is None or not given.is_dir():
        print("false_alarms: not run; give --model, or set RLHF_REAL_DATA to a folder with "
              "models/stories260k/.")
        return 0
    session.quiet()
    answers = answered(given)
    rows = halves.study(answers)
    for row in rows:
        print(f"{row['measure']:<28}{row['questions']:>5} questions, truly {row['truth']:.3f}: "
              f"a difference in {row['found']:.1%} of {row['trials']}, mean {row['mean']:.3f}")
    path = store.save("false_alarms", rows, model=given.name, answers=answers)
    print("stored in", path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
