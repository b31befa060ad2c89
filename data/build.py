"""Make the embedded world: texts, preference pairs, tokenizer and small models.

    python data/build.py                                   everything, into data/
    python data/build.py --only text                       reviews, dialogues, demonstrations
    python data/build.py --only base                       one model; see PARTS for the others
    python data/build.py --seed 7 --split test --out DIR   a fresh split in the same schemas

Texts come out byte for byte from the seed; a model comes out with the same metrics on the same
machine, and within rounding on another.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
sys.path = [p for p in sys.path if Path(p or ".").resolve() != ROOT / "data"]

import numpy as np  # noqa: E402

from helpers.data import read_rows  # noqa: E402
from helpers.errors import UserError  # noqa: E402
from helpers.profiles import Settings, load_profile  # noqa: E402

# Rows per split. Preference pairs are half from the generator, half sampled from a fine-tuned
# model, as in real RLHF.
SIZES = {
    "reviews": {"train": 6000, "validation": 500, "test": 1500, "ood": 500},
    "dialogues": {"train": 8000, "validation": 500, "test": 500},
    "demonstrations": {"train": 4000, "validation": 500, "test": 1000},
    "preferences": {"train": 8000, "validation": 500, "test": 4000, "ood": 600},
}
SPLITS = ("train", "validation", "test", "ood")  # ood: topics, films and clauses of its own
# The base model reads more than is shipped: its corpus is generated and not kept.
CORPUS = {"reviews": 12000, "dialogues": 100000}
BASE_TOKENS = 13_000_000
CLEAR = 0.23  # distance of a pair's true preference probability from one half
# Notebook 02's models: four sizes of one architecture and one of another, all on the same tokens.
ZOO = {
    "gpt2-0.2m": {"n_layer": 2, "n_embd": 40, "n_head": 2},
    "gpt2-0.6m": {"n_layer": 3, "n_embd": 80, "n_head": 4},
    "gpt2-1.9m": {"n_layer": 4, "n_embd": 160, "n_head": 5},
    "gpt2-5.9m": {"n_layer": 6, "n_embd": 256, "n_head": 8},
    "llama-1.9m": {"architecture": "llama", "n_layer": 4, "n_embd": 160, "n_head": 5},
}
ZOO_TOKENS = 2_000_000
FLOOR_ROWS = 200  # held-out texts whose probability under the generator is known
# In the order in which one needs another.
PARTS = ("text", "base", "sampler", "preferences", "classifier", "floor", "zoo")
SEED_OF_KIND = {"reviews": 1, "dialogues": 2, "demonstrations": 3, "preferences": 4}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=[*SPLITS, "all"], default="all")
    parser.add_argument("--out", type=Path, default=ROOT / "data")
    parser.add_argument("--only", choices=PARTS, default=None)
    parser.add_argument("--scale", type=float, default=1.0,
                        help="share of the rows and training tokens, for a quick trial")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        build(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"done in {time.perf_counter() - start:.0f} s")
    return 0


def build(args: argparse.Namespace) -> None:
    """Make what the arguments ask for; a fresh split outside data/ uses the shipped models."""
    splits = SPLITS if args.split == "all" else [args.split]
    args.out.mkdir(parents=True, exist_ok=True)
    home = args.out.resolve() == (ROOT / "data").resolve() or args.split == "all"
    for part in PARTS if args.only is None else [args.only]:
        if part == "text":
            for split in splits:
                write_texts(args.out, split, args.seed, args.scale)
        elif part == "preferences":
            models = args.out / "models" if home else ROOT / "data" / "models"
            for split in splits:
                write_preferences(args.out, split, args.seed, args.scale, models / "sampler")
        elif not home:
            continue
        elif part == "floor":
            write_floor(args.out, args.seed, args.scale)
        elif part == "zoo":
            make_zoo(args.out, args.seed, args.scale)
        else:
            make_model(part, args.out, args.seed, args.scale)


# --- texts ----------------------------------------------------------------------------------


def stream(kind: str, seed: int) -> int:
    """Seed of one kind's random numbers, so that kinds do not share them."""
    return 1000 * seed + SEED_OF_KIND[kind]


def write_texts(out: Path, split: str, seed: int, scale: float) -> None:
    """Reviews, dialogues and demonstrations of one split."""
    from helpers.world.write_dialogues import make_demonstrations, make_dialogues
    from helpers.world.write_reviews import make_reviews

    def size(kind: str) -> int:
        rows = SIZES[kind].get(split, 0)
        return max(20, int(rows * scale)) if rows else 0

    reviews = make_reviews(size("reviews"), stream("reviews", seed), split)
    write_parquet(out / "reviews" / f"{split}.parquet", reviews)
    dialogues = make_dialogues(size("dialogues"), stream("dialogues", seed), split)
    rows = make_demonstrations(size("demonstrations"), stream("demonstrations", seed), split)
    if dialogues:
        write_jsonl(out / "dialogues" / f"{split}.jsonl.gz",
                    [{"messages": d["messages"], "topic": d["topic"]} for d in dialogues])
    if rows:
        write_jsonl(out / "demonstrations" / f"{split}.jsonl.gz",
                    [{k: r[k] for k in ("prompt", "response", "topic")} for r in rows])
    print(f"{split}: {len(reviews)} reviews, {len(dialogues)} dialogues, {len(rows)} "
          "demonstrations", flush=True)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """Reviews as IMDB has them: text and label, compressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": pa.array([r["text"] for r in rows], pa.string()),
                      "label": pa.array([int(r["label"]) for r in rows], pa.int64())})
    pq.write_table(table, path, compression="zstd", compression_level=19)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines under gzip without a time stamp, so that equal rows make equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=9) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    path.write_bytes(buffer.getvalue())


def write_floor(out: Path, seed: int, scale: float) -> None:
    """Held-out texts of the base model's corpus, with their log-probability under the generator.

    Which message belongs to which split is decided by a hash of its text. Nobody can learn that, so
    the log-probability is that of the generator before its messages are dealt out.
    """
    from helpers.world.write_dialogues import make_dialogues, split_logprob
    from helpers.world.write_reviews import make_reviews

    count = max(10, int(FLOOR_ROWS * scale))
    drawn = make_dialogues(4 * count, stream("dialogues", seed) + 60, "test")
    told = [d for d in drawn if to_the_point(d)]
    taken = math.log(len(told) / len(drawn))  # given that the corpus takes the text
    dealt = split_logprob("test")  # a message's chance to fall into the split
    rows = [{"kind": "dialogues", "text": as_prose(d["messages"]),
             "logprob": round(d["logprob"] + dealt * len(d["messages"]) - taken, 3)}
            for d in told[:count]]
    rows += [{"kind": "reviews", "text": r["text"], "logprob": round(r["logprob"], 3)}
             for r in make_reviews(count, stream("reviews", seed) + 60, "test")]
    write_jsonl(out / "floor" / "test.jsonl.gz", rows)
    print(f"floor: {len(rows)} texts", flush=True)


# --- preference pairs -----------------------------------------------------------------------


def write_preferences(out: Path, split: str, seed: int, scale: float, sampler: Path) -> None:
    """Pairs of one split: half written by the generator, half sampled, all judged by annotators."""
    count = max(20, int(SIZES["preferences"][split] * scale))
    start = stream("preferences", seed)
    taken = responses_elsewhere(out / "preferences", split)

    half = count - count // 2
    candidates = clear_pairs(half, start, lambda n, s: written_pairs(n, s, split, taken))
    candidates += clear_pairs(
        count // 2, start + 500, lambda n, s: sampled_pairs(n, s, split, sampler, taken))
    rows = judge(candidates, np.random.default_rng(start))
    write_jsonl(out / "preferences" / f"{split}.jsonl.gz", rows)
    ceiling = np.mean([max(r["probability"], 1 - r["probability"]) for r in rows])
    agreed = np.mean([r["probability"] > 0.5 for r in rows])
    print(f"{split}: {len(rows)} pairs, Bayes ceiling {ceiling:.3f}, label with the majority "
          f"{agreed:.3f}", flush=True)


def clear_pairs(count: int, seed: int, make) -> list[dict[str, Any]]:
    """`count` pairs from `make(number, seed)` whose answers differ enough for a person to say.

    Guidelines for annotators tell them to skip what is too close to call; here that is a pair
    whose true preference probability, kept as `p`, lies within `CLEAR` of one half. The shorter
    answer is the better one in no more than half of what is kept, so that length tells nothing.
    """
    from helpers.data import render_prompt
    from helpers.world import preference_probability

    kept: list[dict[str, Any]] = []
    seen: set[tuple[str, ...]] = set()
    surplus = 0  # pairs whose better answer is the shorter one, less the others
    while len(kept) < count:
        for pair in make(int(1.4 * (count - len(kept))) + 16, seed):
            key = (render_prompt(pair["messages"]), *sorted((pair["a"], pair["b"])))
            if key in seen:
                continue
            seen.add(key)
            pair["p"] = preference_probability(key[0], pair["a"], pair["b"])
            wins = (len(pair["a"]) < len(pair["b"])) == (pair["p"] > 0.5)
            if abs(pair["p"] - 0.5) >= CLEAR and not (wins and surplus > 0):
                surplus += 1 if wins else -1
                kept.append(pair)
        seed += 1
    return kept[:count]


def responses_elsewhere(folder: Path, split: str) -> set[str]:
    """Responses of the splits made before this one, which it must not repeat."""
    found: set[str] = set()
    for earlier in SPLITS[: SPLITS.index(split)]:
        path = folder / f"{earlier}.jsonl.gz"
        if path.exists():
            for row in read_rows(path):
                found |= {row[side].rpartition("Assistant:")[2].strip()
                          for side in ("chosen", "rejected")}
    return found


def written_pairs(count: int, seed: int, split: str, taken: set[str]) -> list[dict[str, Any]]:
    """Up to `count` pairs of answers that the generator wrote, none of them `taken`."""
    from helpers.world.write_dialogues import make_pairs

    return [{"messages": p["prompt"], "a": p["response_a"], "b": p["response_b"],
             "topic": p["topic"], "source": "generator"}
            for p in make_pairs(count, seed, split)
            if not {p["response_a"], p["response_b"]} & taken]


def sampled_pairs(count: int, seed: int, split: str, sampler: Path,
                  taken: set[str]) -> list[dict[str, Any]]:
    """Two different samples of the fine-tuned model to one prompt, none of them `taken`."""
    import torch

    from helpers.data import render_prompt
    from helpers.generation import sample
    from helpers.models import load_causal
    from helpers.world.write_dialogues import make_pairs

    settings = load_profile("embedded")
    torch.set_num_threads(settings.threads)
    model, tokenizer = load_causal(sampler, settings)
    rows: list[dict[str, Any]] = []
    attempt = 0
    while len(rows) < count:
        wanted = int((count - len(rows)) * 1.1) + 8
        asked = make_pairs(wanted, seed + attempt, split)
        prompts = [render_prompt(a["prompt"]) for a in asked]
        twice = sample(model, tokenizer, [p for p in prompts for _ in range(2)],
                       settings.ppo.max_new_tokens, seed=seed + attempt, batch_size=256).texts
        for i, a in enumerate(asked):
            first, second = twice[2 * i].strip(), twice[2 * i + 1].strip()
            if first and second and first != second and not {first, second} & taken:
                rows.append({"messages": a["prompt"], "a": first, "b": second,
                             "topic": a["topic"], "source": "on-policy"})
        attempt += 1
    return rows[:count]


def judge(candidates: list[dict[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Let a random annotator choose between the two, in random order; keep the true probability."""
    from helpers.data import render_prompt
    from helpers.world import LABELLERS

    rows = []
    for c in candidates:
        prompt = render_prompt(c["messages"])
        p_a = c["p"]
        rater = LABELLERS[int(rng.integers(len(LABELLERS)))]
        swapped = rng.random() < 0.5
        first, second = (c["b"], c["a"]) if swapped else (c["a"], c["b"])
        choice = rater.choose(prompt, first, second, rng)
        a_wins = (choice == "a") != swapped
        chosen, rejected = (c["a"], c["b"]) if a_wins else (c["b"], c["a"])
        rows.append({
            "chosen": f"{prompt} {chosen}", "rejected": f"{prompt} {rejected}",
            "probability": round(p_a if a_wins else 1 - p_a, 4),
            "topic": c["topic"], "source": c["source"]})
    order = rng.permutation(len(rows))
    return [rows[i] for i in order]


# --- models ---------------------------------------------------------------------------------


def make_model(part: str, out: Path, seed: int, scale: float) -> None:
    """Train one model of `PARTS`, save it with its card under `out`/models."""
    import torch

    settings = load_profile("embedded", {
        "data.root": str(out), "models.scratch.tokens": int(BASE_TOKENS * scale)})
    torch.set_num_threads(settings.threads)
    title, text, make = {
        "base": ("Base language model", BASE_CARD, make_base),
        "sampler": ("Sampler of the on-policy pairs", SAMPLER_CARD, make_sampler),
        "classifier": ("Sentiment classifier", CLASSIFIER_CARD, make_classifier),
    }[part]
    from helpers.models import count_parameters, save

    model, tokenizer, metrics = make(settings, out, seed, scale)
    metrics["parameters"] = count_parameters(model)["total"]
    save(model, tokenizer, out / "models" / part, half=True)
    card(out / "models" / part, title, text, metrics)


def make_base(settings: Settings, out: Path, seed: int, scale: float) -> tuple:
    """The language model everything starts from."""
    from helpers.scratch import train_from_scratch

    return train_from_scratch(corpus(seed, "train", max(scale, 0.05)), settings.models.scratch,
                              seed, validation=corpus(seed, "validation", 0.02))


def make_sampler(settings: Settings, out: Path, seed: int, scale: float) -> tuple:
    """The base model after fine-tuning as notebook 03 does it."""
    from helpers.data import load_demonstrations
    from helpers.models import load_causal
    from helpers.sft import response_loss, train_sft

    model, tokenizer = load_causal(out / "models" / "base", settings)
    rows = load_demonstrations(settings, "train", max(200, int(4000 * scale)))
    held_out = load_demonstrations(settings, "validation", settings.sft.eval_rows)
    before = response_loss(model, tokenizer, held_out)
    train_sft(model, tokenizer, rows, settings, seed=seed)
    return model, tokenizer, {"val_loss_before": before,
                              "val_loss": response_loss(model, tokenizer, held_out)}


def make_classifier(settings: Settings, out: Path, seed: int, scale: float) -> tuple:
    """The reward of notebook 06."""
    from helpers.data import load_reviews
    from helpers.scratch import train_classifier

    return train_classifier(load_reviews(settings, "train"), load_reviews(settings, "test"),
                            settings.models.scratch, seed)


def make_zoo(out: Path, seed: int, scale: float, names: Sequence[str] = tuple(ZOO)) -> None:
    """Models of `ZOO`, one after the other, and what each needs per byte of held-out text.

    Takes the tokenizer of `out/models/base` and the texts of `out/floor`.
    """
    import torch
    from transformers import AutoTokenizer

    from helpers.evaluation import bits_per_byte
    from helpers.models import count_parameters, save
    from helpers.scratch import train_from_scratch

    embedded = load_profile("embedded")
    torch.set_num_threads(embedded.threads)
    tokenizer = AutoTokenizer.from_pretrained(out / "models" / "base")
    texts = corpus(seed, "train", 0.5 * max(scale, 0.05))
    held_out = read_rows(out / "floor" / "test.jsonl.gz")
    for name in names:
        size = ZOO[name]
        overrides = {f"models.scratch.{key}": value for key, value in size.items()}
        overrides["models.scratch.tokens"] = int(ZOO_TOKENS * scale)
        scratch = load_profile("embedded", overrides).models.scratch
        model, _, metrics = train_from_scratch(texts, scratch, seed, tokenizer=tokenizer)
        metrics["parameters"] = count_parameters(model)["total"]
        for kind in ("reviews", "dialogues"):
            metrics[f"bits_per_byte_{kind}"] = bits_per_byte(
                model, tokenizer, [r["text"] for r in held_out if r["kind"] == kind])
        folder = out / "models" / "zoo" / name
        save(model, tokenizer, folder, half=True)
        card(folder, f"Language model {name}", ZOO_CARD, metrics)


def corpus(seed: int, split: str, share: float) -> list[str]:
    """What a base model reads: reviews, and questions with answers, in random order."""
    from helpers.world.write_dialogues import make_dialogues
    from helpers.world.write_reviews import make_reviews

    counts = {kind: int(rows * share) for kind, rows in CORPUS.items()}
    texts = [r["text"] for r in
             make_reviews(counts["reviews"], stream("reviews", seed) + 50, split)]
    texts += [as_prose(d["messages"]) for d in
              make_dialogues(counts["dialogues"], stream("dialogues", seed) + 50, split)
              if to_the_point(d)]
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]


def to_the_point(dialogue: dict[str, Any]) -> bool:
    """Whether the corpus takes a dialogue: most written answers are to the point."""
    return dialogue["quality"]["relevance"] == 2


def as_prose(messages: list[dict[str, str]]) -> str:
    """A dialogue as running text without speakers, the way a base model meets questions.

    The dialogue format is left for fine-tuning to teach, as it is with models of full size.
    """
    return "\n".join(m["content"] for m in messages)


ZOO_CARD = """
One of the models that notebook 02 compares: trained from random weights with the base model's
tokenizer, on the kind of text the base model has read, as many tokens of it as every other model
of this family. Bits per byte are on the held-out texts of `data/floor`.
"""
BASE_CARD = """
A GPT-2-architecture language model with a byte-level BPE tokenizer, trained from random weights on
film reviews of the embedded world and on questions and answers as running text, answers of every
quality. It has never seen the dialogue format and has not been taught to answer.
"""
SAMPLER_CARD = """
The base model after supervised fine-tuning on the embedded demonstrations, with the settings of
the embedded profile. Half of the preference pairs are two samples of this model to one prompt.
"""
CLASSIFIER_CARD = """
A DistilBERT-architecture classifier (label 1 is positive) with its own WordPiece tokenizer, trained
from random weights on the embedded training reviews and random stretches of them. It is the reward
of notebook 06 and has never seen the truth it is later compared with.
"""


def card(folder: Path, title: str, text: str, metrics: dict[str, Any]) -> None:
    """A README.md that says how a model was made and what was measured."""
    lines = [f"# {title}", text.strip(), "", "Made by `python data/build.py`. Weights are float16 "
             "safetensors.", "", "| measured | value |", "|---|---|"]
    for key, value in metrics.items():
        if key not in ("curve", "seconds"):
            lines.append(f"| {key} | {value:.4g} |" if isinstance(value, float)
                         else f"| {key} | {value} |")
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    print(f"{title}: " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                                   for k, v in metrics.items() if k != "curve"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
