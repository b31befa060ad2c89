"""One canonical schema for every kind of text the course learns from.

Reviews, preference pairs, comparisons with ties and demonstrations come out of this module as
plain lists of dictionaries, whatever they came from: the embedded world, a local file or folder,
or a dataset on the hub. Rows are checked one by one, and a bad one is named by file and row.

| kind | canonical row |
|---|---|
| review | `text: str, label: int` (0 negative, 1 positive) |
| pair | `prompt, chosen, rejected, topic, source: str`, `probability, score_gap: float or None` |
| comparison | `prompt, response_a, response_b: str`, `winner`: "a", "b" or "tie" |
| demonstration | `prompt, response: str`, `topic: str` |

A `prompt` is already rendered for a model: every turn begins with a blank line and its speaker,
and the text ends in `Assistant:`. A response has no leading space; `render_example` adds it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np

from helpers.engine import hub
from helpers.engine.kinds import Comparison, Demonstration, KnownText, Pair, Review, Row
from helpers.engine.rows import (
    ASSISTANT,
    HUMAN,
    as_comparison,
    as_demonstration,
    as_dialogue,
    as_pair,
    as_review,
    convert_rows,
    read_rows,
    render_example,
    render_prompt,
)
from helpers.engine.sources import (
    OOD,
    SPLITS,
    demonstration_source,
    location,
    names_of_parts,
    source_of,
)
from helpers.errors import UserError
from helpers.paths import DATA
from helpers.profiles import Settings

KINDS = ("reviews", "preferences", "demonstrations", "dialogues")
# Held-out shares in per cent, where a source has no split of its own for them.
TEST_PERCENT, VALIDATION_PERCENT = 10, 10


def plain_prompt(prompt: str) -> str:
    """The last human turn of a rendered prompt, for showing to a reader."""
    last = prompt.rsplit(HUMAN, 1)[-1]
    return last.removesuffix(ASSISTANT).strip()


def load_reviews(settings: Settings, split: str, limit: int | None = None) -> list[Review]:
    """Reviews with their label, cleaned, without duplicates, shuffled by a fixed seed."""
    rows = _load(settings, "reviews", split, as_review)
    seen: set[str] = set()
    unique = [r for r in rows if not (r["text"] in seen or seen.add(r["text"]))]
    order = np.random.default_rng(0).permutation(len(unique))
    if limit is None and split == "train":
        limit = settings.data.review_limit
    return [unique[i] for i in order[:limit]]


def load_pairs(settings: Settings, split: str, limit: int | None = None) -> list[Pair]:
    """Preference pairs from HH strings, TULU or UltraFeedback messages, or arena rows.

    `probability` is the true probability that an annotator prefers `chosen`, where the data come
    from the embedded world; elsewhere None. `score_gap` is `score_chosen - score_rejected`, in the
    units of the scores, where the rows have both (it may be negative); elsewhere None. No loss
    reads it until `with_margins` has made margins of it. Ties of arena rows are left out.
    """
    if limit is None and split == "train":
        limit = settings.data.pair_limit
    return _load(settings, "preferences", split, as_pair)[:limit]


def load_handwritten() -> list[Pair]:
    """Preference pairs that people wrote for this course, outside of the generator's words.

    Their labels are their writers'; no `probability` is known.
    """
    rows = read_rows(DATA / "handwritten" / "dialogues.jsonl")
    return [
        {"prompt": render_prompt(row["messages"]), "chosen": row["chosen"],
         "rejected": row["rejected"], "probability": None, "score_gap": None,
         "topic": row["topic"], "source": "handwritten"}
        for row in rows
    ]


def with_margins(pairs: Sequence[Pair], mean: float = 0.5) -> list[Pair]:
    """The pairs with a `margin` in units of reward, in proportion to their `score_gap`.

    The mean over the pairs is `mean`, so that a constant margin of the same size asks for as much
    in all. Where the scores do not put `chosen` first, the margin is 0: the choice is believed, and
    no distance is asked for.

    Raises:
        UserError: a pair without scores, or no pair whose scores agree with the choice.
    """
    bare = next((i for i, pair in enumerate(pairs) if pair.get("score_gap") is None), None)
    if bare is not None:
        raise UserError(f"pair {bare} has no scores to make a margin of; "
                        "its row needs score_chosen and score_rejected.")
    gaps = [max(0.0, pair["score_gap"] or 0.0) for pair in pairs]
    if not sum(gaps):
        raise UserError(f"in none of the {len(pairs)} pairs is score_chosen above score_rejected, "
                        "so the scores cannot set margins.")
    unit = mean * len(gaps) / sum(gaps)
    return [cast(Pair, pair | {"margin": gap * unit})
            for pair, gap in zip(pairs, gaps, strict=True)]


def load_comparisons(
    settings: Settings, split: str, limit: int | None = None
) -> list[Comparison]:
    """Pairwise judgements with ties, in the LMSYS arena's manner; pairs count as "a" or "b".

    Which side of a pair stands first is decided by a hash of its text, not by who won; its
    `score_gap` becomes that of a less that of b.
    """
    return _load(settings, "preferences", split, as_comparison)[:limit]


def load_demonstrations(
    settings: Settings, split: str, limit: int | None = None
) -> list[Demonstration]:
    """Prompts with a response to imitate; `data.demonstrations: preferences` takes the chosen ones.

    `auto` means the embedded demonstrations while the preferences are embedded too, and the chosen
    responses of the preferences otherwise.
    """
    if demonstration_source(settings) == "preferences":
        rows: list[Demonstration] = [
            {"prompt": r["prompt"], "response": r["chosen"], "topic": r["topic"]}
            for r in load_pairs(settings, split)
        ]
    else:
        rows = _load(settings, "demonstrations", split, as_demonstration)
    if limit is None and split == "train":
        limit = settings.data.demonstration_limit
    return rows[:limit]


def load_dialogues(settings: Settings, split: str, limit: int | None = None) -> list[str]:
    """Whole dialogues as rendered text, for pretraining a language model."""
    if settings.data.preferences == "embedded":
        return _load(settings, "dialogues", split, as_dialogue)[:limit]
    return [render_example(r["prompt"], r["chosen"]) for r in load_pairs(settings, split, limit)]


def load_known_texts() -> list[KnownText]:
    """Held-out texts whose probability under the embedded world's generator is known.

    Returns:
        Rows of `kind` ("reviews" or "dialogues"), `text` and `logprob`: nats, of the way in which
        the generator came to the text, so that the text itself is at least as probable.
    """
    return cast(list[KnownText], read_rows(DATA / "floor" / "test.jsonl.gz"))


def cut_prompts(
    reviews: Sequence[str],
    tokenizer: Any,
    count: int,
    min_tokens: int = 2,
    max_tokens: int = 8,
    min_characters: int = 200,
    seed: int = 0,
) -> list[str]:
    """The first few tokens of reviews, as in the classic IMDB experiment.

    Only reviews longer than `min_characters` are cut; the length is drawn evenly between
    `min_tokens` and `max_tokens`. A prompt is kept if its text encodes to the same tokens again,
    so that a text and its ids mean one thing. When there are fewer reviews than prompts, reviews
    are cut again at another length.

    Raises:
        UserError: no review is long enough.
    """
    from helpers.engine.tokens import text_ids  # loads torch

    rng = np.random.default_rng(seed)
    usable = [r for r in reviews if len(r) > min_characters]
    if not usable:
        raise UserError(
            f"none of the {len(reviews)} reviews is longer than {min_characters} characters; "
            "prompts are cut from reviews that are.")
    prompts: list[str] = []
    for _ in range(20):
        for row in rng.permutation(len(usable)):
            length = int(rng.integers(min_tokens, max_tokens + 1))
            ids = text_ids(tokenizer, [usable[row][:400]])[0][:length]
            text = tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if len(ids) == length and text_ids(tokenizer, [text])[0] == ids:
                prompts.append(text)
            if len(prompts) == count:
                return prompts
    raise UserError(
        f"only {len(prompts)} prompts of {min_tokens} to {max_tokens} tokens could be cut from "
        f"{len(usable)} reviews; {count} were asked for.")


def policy_prompts(settings: Settings, tokenizer: Any) -> tuple[list[str], list[str]]:
    """Prompts of the demonstrations to train a policy on, and others to measure it on.

    Each once, those of at most `ppo.max_prompt_tokens` tokens, shuffled; of the test split the
    first `ppo.eval_prompts`, and none of these among the former.
    """
    from helpers.engine.tokens import encode_prompts  # loads torch

    def of(split: str) -> list[str]:
        prompts = dict.fromkeys(r["prompt"] for r in load_demonstrations(settings, split))
        unique = [prompt for prompt in prompts if prompt]
        encoded = encode_prompts(tokenizer, unique) if unique else []
        kept = [p for p, ids in zip(unique, encoded, strict=True)
                if len(ids) <= settings.ppo.max_prompt_tokens]
        Random(0).shuffle(kept)
        return kept

    test = of("test")[: settings.ppo.eval_prompts]
    train = sorted(set(of("train")) - set(test))
    Random(settings.seed).shuffle(train)
    return train, test


def _load(settings: Settings, kind: str, split: str, convert: Callable[[Row], Any]) -> list:
    """A split's rows, of which callers may do with as they like; all but reviews are shuffled."""
    embedded = source_of(settings, kind) == "embedded"
    if split == OOD and not embedded:
        raise UserError(f"data.{kind}: only the embedded world has the split {OOD!r}.")
    if split not in (*SPLITS, OOD):
        raise UserError(f"split {split!r} is not known; choose one of {', '.join(SPLITS)}, {OOD}.")
    source = source_of(settings, kind) or ""
    paths, own = location(settings, kind, split)
    if paths is not None:
        name, salt = paths[0].name if len(paths) == 1 else source, ""
    else:
        paths, name, own = _hub_files(source, split, f"data.{kind}")
        salt = (hub.parse(source) or hub.HubId(source, None, None, None)).repo
    stamps = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    rows = _converted(stamps, convert, kind, name)
    if own is not None:
        count = len(rows)
        rows = [r for r in rows if carved_split(r, own, salt) == split]
        if not rows:
            raise UserError(
                f"data.{kind}: of the {count} rows of {name} none falls into the split {split} "
                f"(by its prompt, one in {100 // TEST_PERCENT} goes to each held-out split); give "
                f"more rows, or a folder with a {split} file of its own.")
    if not embedded and kind != "reviews":  # the embedded rows were written in a random order
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    return [dict(r) if isinstance(r, dict) else r for r in rows]


@lru_cache(maxsize=16)
def _converted(
    stamps: tuple[tuple[Path, int, int], ...], convert: Callable[[Row], Any], kind: str, name: str
) -> tuple:
    """The rows of files, kept for as long as their time and size stay (the last 16 sets)."""
    paths = [path for path, *_ in stamps]
    names = [""] if len(paths) == 1 else names_of_parts(paths)
    parts = zip(names, map(read_rows, paths), strict=True)
    return tuple(convert_rows(parts, convert, kind, name))


def forget() -> None:
    """Give up the rows that are kept in memory."""
    _converted.cache_clear()


@cache
def _hub_files(source: str, split: str, what: str) -> tuple[list[Path], str, set[str] | None]:
    return hub.dataset_files(source, split, what)


def carved_split(row: Row | str, own: Iterable[str], salt: str = "") -> str:
    """Which split a training row falls into; by its prompt, so no prompt lies on both sides.

    Another `salt` draws anew: the rows of one split, written to a file, have all splits again.
    """
    key = row if isinstance(row, str) else row.get("prompt") or row["text"]
    draw = int.from_bytes(hashlib.sha256((salt + key).encode()).digest()[:4], "big") % 100
    if "test" not in own and draw < TEST_PERCENT:
        return "test"
    if "validation" not in own and TEST_PERCENT <= draw < TEST_PERCENT + VALIDATION_PERCENT:
        return "validation"
    return "train"
