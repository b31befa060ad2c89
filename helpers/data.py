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

import csv
import gzip
import hashlib
import html
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.profiles import ROOT, Settings

SPLITS = ("train", "validation", "test")
OOD = "ood"  # of the embedded world's reviews and pairs: topics, films and clauses of its own
KINDS = ("reviews", "preferences", "demonstrations", "dialogues")
EXTENSIONS = (".parquet", ".jsonl.gz", ".jsonl", ".json.gz", ".json", ".csv")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
# Rows set aside when a dataset has known irregularities; more than this share is an error.
IRREGULAR_SHARE = 0.01
# Held-out shares in per cent, where a source has no split of its own for them.
TEST_PERCENT, VALIDATION_PERCENT = 10, 10

Row = dict[str, Any]


# --- rendering ------------------------------------------------------------------------------


def render_prompt(prompt: str | Sequence[dict[str, str]]) -> str:
    """Text or message list to the string a model continues, ending in `\\n\\nAssistant:`.

    A string that already starts with a speaker's turn is returned as it is.
    """
    if isinstance(prompt, str):
        if prompt.startswith(HUMAN) and prompt.rstrip().endswith(ASSISTANT.strip()):
            return prompt.rstrip()
        return f"{HUMAN} {prompt.strip()}{ASSISTANT}"
    turns = [
        (HUMAN if m["role"] == "user" else ASSISTANT if m["role"] == "assistant" else "\n\nSystem:")
        + " " + m["content"].strip()
        for m in prompt
    ]
    return "".join(turns) + ASSISTANT


def render_example(prompt: str, response: str) -> str:
    """Prompt and response as one text, without the end-of-text token."""
    return f"{render_prompt(prompt)} {response.strip()}"


def plain_prompt(prompt: str) -> str:
    """The last human turn of a rendered prompt, for showing to a reader."""
    last = prompt.rsplit(HUMAN, 1)[-1]
    return last.removesuffix(ASSISTANT).strip()


def parse_hh(text: str) -> tuple[list[dict[str, str]], str]:
    """An Anthropic HH string to its messages and the last assistant turn.

    Raises:
        ValueError: the text has no `\\n\\nAssistant:` turn or does not start with a human one.
    """
    if not text.lstrip().startswith("Human:"):
        raise ValueError("the text does not start with 'Human:'")
    cut = text.rfind(ASSISTANT)
    if cut < 0:
        raise ValueError("the text has no 'Assistant:' turn")
    messages = []
    for match in re.finditer(
        r"(?:\n\n|^)(Human|Assistant): ?(.*?)(?=\n\nHuman:|\n\nAssistant:|\Z)", text[:cut],
        re.DOTALL,
    ):
        role = "user" if match.group(1) == "Human" else "assistant"
        messages.append({"role": role, "content": match.group(2).strip()})
    return messages, text[cut + len(ASSISTANT):].strip()


def clean_review(text: str) -> str:
    """HTML line breaks and entities of IMDB reviews to plain spaces and characters."""
    text = html.unescape(re.sub(r"<br\s*/?>", " ", text))
    return re.sub(r"\s+", " ", text).strip()


# --- the four loaders -----------------------------------------------------------------------


def load_reviews(settings: Settings, split: str, limit: int | None = None) -> list[Row]:
    """Reviews with their label, cleaned, without duplicates, shuffled by a fixed seed."""
    rows = _load(settings, "reviews", split, _review)
    seen: set[str] = set()
    unique = [r for r in rows if not (r["text"] in seen or seen.add(r["text"]))]
    order = np.random.default_rng(0).permutation(len(unique))
    if limit is None and split == "train":
        limit = settings.data.review_limit
    return [unique[i] for i in order[:limit]]


def load_pairs(settings: Settings, split: str, limit: int | None = None) -> list[Row]:
    """Preference pairs from HH strings, TULU or UltraFeedback messages, or arena rows.

    `probability` is the true probability that an annotator prefers `chosen`, where the data come
    from the embedded world; elsewhere None. `score_gap` is `score_chosen - score_rejected`, in the
    units of the scores, where the rows have both (it may be negative); elsewhere None. No loss
    reads it until `with_margins` has made margins of it. Ties of arena rows are left out.
    """
    if limit is None and split == "train":
        limit = settings.data.pair_limit
    return _load(settings, "preferences", split, _pair)[:limit]


def load_handwritten() -> list[Row]:
    """Preference pairs that people wrote for this course, outside of the generator's words.

    Their labels are their writers'; no `probability` is known.
    """
    rows = read_rows(ROOT / "data" / "handwritten" / "dialogues.jsonl")
    return [
        {"prompt": render_prompt(row["messages"]), "chosen": row["chosen"],
         "rejected": row["rejected"], "probability": None, "score_gap": None,
         "topic": row["topic"], "source": "handwritten"}
        for row in rows
    ]


def make_unseen_topics(count: int, seed: int = 0) -> list[Row]:
    """New pairs of the embedded world on topics that no split of it speaks of.

    Both responses are the generator's; the label is drawn by the true `probability`.
    """
    from data.generator.dialogues import make_pairs
    from helpers.world import preference_probability

    rng, rows = np.random.default_rng(seed), []
    for made in make_pairs(count + count // 8 + 8, seed, "ood"):
        if made["topic"] == "harm":  # asked about in every split
            continue
        prompt, a, b = render_prompt(made["prompt"]), made["response_a"], made["response_b"]
        p = preference_probability(prompt, a, b)
        if rng.random() >= p:
            a, b, p = b, a, 1 - p
        rows.append({"prompt": prompt, "chosen": a, "rejected": b, "probability": p,
                     "score_gap": None, "topic": made["topic"], "source": "generator"})
    return rows[:count]


def with_margins(pairs: Sequence[Row], mean: float = 0.5) -> list[Row]:
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
    gaps = [max(0.0, pair["score_gap"]) for pair in pairs]
    if not sum(gaps):
        raise UserError(f"in none of the {len(pairs)} pairs is score_chosen above score_rejected, "
                        "so the scores cannot set margins.")
    unit = mean * len(gaps) / sum(gaps)
    return [pair | {"margin": gap * unit} for pair, gap in zip(pairs, gaps, strict=True)]


def load_comparisons(settings: Settings, split: str, limit: int | None = None) -> list[Row]:
    """Pairwise judgements with ties, in the LMSYS arena's manner; pairs count as "a" or "b".

    Which side of a pair stands first is decided by a hash of its text, not by who won; its
    `score_gap` becomes that of a less that of b.
    """
    return _load(settings, "preferences", split, _comparison)[:limit]


def load_demonstrations(settings: Settings, split: str, limit: int | None = None) -> list[Row]:
    """Prompts with a response to imitate; `data.demonstrations: preferences` takes the chosen ones.

    `auto` means the embedded demonstrations while the preferences are embedded too, and the chosen
    responses of the preferences otherwise.
    """
    if _demonstration_source(settings) == "preferences":
        rows = [
            {"prompt": r["prompt"], "response": r["chosen"], "topic": r["topic"]}
            for r in load_pairs(settings, split)
        ]
    else:
        rows = _load(settings, "demonstrations", split, _demonstration)
    return rows[:limit]


def load_dialogues(settings: Settings, split: str, limit: int | None = None) -> list[str]:
    """Whole dialogues as rendered text, for pretraining a language model."""
    if settings.data.preferences == "embedded":
        return _load(settings, "dialogues", split, _dialogue)[:limit]
    return [render_example(r["prompt"], r["chosen"]) for r in load_pairs(settings, split, limit)]


def load_known_texts() -> list[Row]:
    """Held-out texts whose probability under the embedded world's generator is known.

    Returns:
        Rows of `kind` ("reviews" or "dialogues"), `text` and `logprob`: nats, of the way in which
        the generator came to the text, so that the text itself is at least as probable.
    """
    return read_rows(ROOT / "data" / "floor" / "test.jsonl.gz")


def fingerprint(settings: Settings) -> str:
    """Hash of the training data the settings name, so that a stage knows when it is stale."""
    digest = hashlib.sha256()
    for kind in ("reviews", "preferences", "demonstrations"):
        source = _source(settings, kind)
        path = None if source is None else _location(settings, kind, "train")[0]
        digest.update(f"{kind}:".encode())
        digest.update(path.read_bytes() if path else str(source).encode())
    return digest.hexdigest()[:16]


# --- rows of each kind ----------------------------------------------------------------------


class IrregularRow(ValueError):
    """A row that public datasets are known to contain now and then; set aside and counted."""


def _review(row: Row) -> Row:
    text = _text(row, "text")
    label = row.get("label")
    if isinstance(label, str) and label.strip().lower() in ("positive", "negative", "0", "1"):
        label = int(label.strip().lower() in ("positive", "1"))
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int | np.integer) or label not in (0, 1):
        raise ValueError(f"the label is {label!r}; it must be 0 (negative) or 1 (positive)")
    return {"text": clean_review(text), "label": int(label)}


def _pair(row: Row) -> Row | None:
    if "winner_tie" in row or "winner" in row:
        row = _comparison(row)
        if row["winner"] == "tie":
            return None
        first = row["winner"] == "a"
        row = {
            "prompt": row["prompt"],
            "chosen": row["response_a" if first else "response_b"],
            "rejected": row["response_b" if first else "response_a"],
        }
    sides = {}
    prompts = {}
    for side in ("chosen", "rejected"):
        prompts[side], sides[side] = _prompt_and_response(row, side)
    if prompts["chosen"] != prompts["rejected"]:
        raise IrregularRow("the chosen and the rejected dialogue have different prompts")
    if sides["chosen"] == sides["rejected"]:
        # Scored lists such as UltraFeedback's hold a few such pairs; in pairs made as pairs the
        # same response twice means that a file was put together wrongly.
        kind = IrregularRow if "score_chosen" in row else ValueError
        raise kind("the two responses are equal; a pair must hold two different ones")
    for side, response in sides.items():
        if not response:
            raise IrregularRow(f"the {side} response is empty")
    probability = row.get("probability")
    if probability is not None and not (
        isinstance(probability, int | float) and 0 <= probability <= 1
    ):
        raise ValueError(f"the probability is {probability!r}; it must lie between 0 and 1")
    return {
        "prompt": prompts["chosen"],
        **sides,
        "probability": None if probability is None else float(probability),
        "score_gap": _score_gap(row),
        "topic": str(row.get("topic") or ""),
        "source": str(row.get("source") or ""),
    }


def _score_gap(row: Row) -> float | None:
    """score_chosen - score_rejected, or None where one is missing; CSV brings them as text."""
    scores = []
    for side in ("score_chosen", "score_rejected"):
        value = row.get(side)
        if isinstance(value, str):
            value = value.strip() or None
        if value is None or value != value:  # NaN is how tables write "missing"
            return None
        try:
            scores.append(float(value))
        except (TypeError, ValueError):
            raise ValueError(f"the {side} is {value!r}; it must be a number") from None
    return scores[0] - scores[1]


def _prompt_and_response(row: Row, side: str) -> tuple[str, str]:
    value = row.get(side)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str):
        _text(row, side)
        # With a prompt beside it, "Human: …" is a response in which a model spoke for the user, as
        # HH has some, unless an assistant's turn follows.
        whole = value.lstrip().startswith("Human:") and ASSISTANT in value
        if isinstance(row.get("prompt"), str) and not whole:
            return render_prompt(_text(row, "prompt")), value.strip()
        messages, response = parse_hh(value)
    elif isinstance(value, list) and value and all(
        isinstance(m, dict) and {"role", "content"} <= set(m) for m in value
    ):
        roles = [m["role"] for m in value]
        if roles[-1] != "assistant":
            raise IrregularRow(f"the {side} dialogue does not end with the assistant's turn")
        messages, response = value[:-1], str(value[-1]["content"]).strip()
    else:
        raise ValueError(f"{side!r} must be a dialogue: text with 'Human:' and 'Assistant:' turns, "
                         "or a list of messages with role and content")
    turns = [m["role"] for m in messages if m["role"] != "system"]
    if turns != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise IrregularRow(f"the turns of the {side} dialogue do not alternate")
    return render_prompt(messages), response


def _comparison(row: Row) -> Row:
    if "winner_tie" in row:
        votes = {"a": row["winner_model_a"], "b": row["winner_model_b"], "tie": row["winner_tie"]}
        won = [k for k, v in votes.items() if int(float(v)) == 1]
        if len(won) != 1:
            raise ValueError("exactly one of winner_model_a, winner_model_b, winner_tie must be 1")
        prompts, first, second = (
            _json_turns(row, k) for k in ("prompt", "response_a", "response_b"))
        if not len(prompts) == len(first) == len(second):
            raise IrregularRow("prompt and responses have different numbers of turns")
        messages: list[dict[str, str]] = []
        for i, question in enumerate(prompts):
            messages.append({"role": "user", "content": question})
            if i < len(prompts) - 1:
                messages.append({"role": "assistant", "content": first[i]})
        if not first[-1].strip() or not second[-1].strip():
            raise IrregularRow("a response is empty")
        return {"prompt": render_prompt(messages), "response_a": first[-1].strip(),
                "response_b": second[-1].strip(), "winner": won[0]}
    if "winner" in row:
        winner = str(row["winner"]).strip().lower()
        if winner not in ("a", "b", "tie"):
            raise ValueError(f"the winner is {row['winner']!r}; it must be a, b or tie")
        return {"prompt": render_prompt(_text(row, "prompt")),
                "response_a": _text(row, "response_a").strip(),
                "response_b": _text(row, "response_b").strip(), "winner": winner}
    pair = _pair(row)
    flip = hashlib.sha256((pair["chosen"] + pair["rejected"]).encode()).digest()[0] % 2 == 1
    a, b = ("rejected", "chosen") if flip else ("chosen", "rejected")
    gap = pair["score_gap"]
    return {"prompt": pair["prompt"], "response_a": pair[a], "response_b": pair[b],
            "winner": "b" if flip else "a", "score_gap": -gap if gap and flip else gap}


def _json_turns(row: Row, key: str) -> list[str]:
    value = row[key]
    try:
        turns = json.loads(value) if isinstance(value, str) else list(value)
    except json.JSONDecodeError:
        turns = [value]
    return ["" if t is None else str(t) for t in (turns if isinstance(turns, list) else [turns])]


def _demonstration(row: Row) -> Row:
    if "messages" in row:
        prompt, response = _prompt_and_response({"chosen": row["messages"]}, "chosen")
        if not response:
            raise IrregularRow("the response is empty")
    else:
        prompt, response = render_prompt(_text(row, "prompt")), _text(row, "response").strip()
    return {"prompt": prompt, "response": response, "topic": str(row.get("topic") or "")}


def _dialogue(row: Row) -> str:
    prompt, response = _prompt_and_response({"chosen": row.get("messages")}, "chosen")
    return render_example(prompt, response)


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} is empty; it must hold text")
    return value


COLUMNS: dict[str, tuple[tuple[set[str], ...], str]] = {
    "reviews": (({"text", "label"},), "text, label"),
    "preferences": (
        ({"chosen", "rejected"}, {"prompt", "response_a", "response_b", "winner"},
         {"prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"}),
        "chosen, rejected; or prompt, response_a, response_b, winner",
    ),
    "demonstrations": (({"prompt", "response"}, {"messages"}), "prompt, response; or messages"),
    "dialogues": (({"messages"},), "messages"),
}


# --- where rows come from -------------------------------------------------------------------


def _demonstration_source(settings: Settings) -> str:
    source = settings.data.demonstrations
    if source == "auto":
        return "embedded" if settings.data.preferences == "embedded" else "preferences"
    return source


def _source(settings: Settings, kind: str) -> str | None:
    if kind == "demonstrations":
        source = _demonstration_source(settings)
        return None if source == "preferences" else source
    return getattr(settings.data, "preferences" if kind == "dialogues" else kind)


def _load(settings: Settings, kind: str, split: str, convert: Callable[[Row], Any]) -> list:
    if split == OOD and _source(settings, kind) != "embedded":
        raise UserError(f"data.{kind}: only the embedded world has the split {OOD!r}.")
    if split not in (*SPLITS, OOD):
        raise UserError(f"split {split!r} is not known; choose one of {', '.join(SPLITS)}, {OOD}.")
    path, own = _location(settings, kind, split)
    if path is not None:
        rows, name = read_rows(path), path.name
    else:
        rows, name, own = _hub_rows(_source(settings, kind), kind, split)
    converted = _convert(rows, convert, kind, name)
    return converted if own is None else [r for r in converted if _carved_split(r, own) == split]


def _carved_split(row: Row | str, own: Iterable[str]) -> str:
    """Which split a training row falls into; by its prompt, so no prompt lies on both sides."""
    key = row if isinstance(row, str) else row.get("prompt") or row["text"]
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    if "test" not in own and draw < TEST_PERCENT:
        return "test"
    if "validation" not in own and TEST_PERCENT <= draw < TEST_PERCENT + VALIDATION_PERCENT:
        return "validation"
    return "train"


def _location(settings: Settings, kind: str, split: str) -> tuple[Path | None, set[str] | None]:
    """The local file with a split's rows (None: on the hub), and how the split is cut from it.

    The second value is None when the file is the split, else the set of held-out splits that have
    a file of their own and therefore are not carved out of this one.
    """
    source = _source(settings, kind)
    if source == "embedded":
        return _embedded_file(settings, kind, split), None
    path = Path(source)
    if path.is_file():
        return path, set()
    if path.is_dir():
        own = {s for s in SPLITS if _own_file(path, s)}
        if "train" not in own and split not in own:
            raise UserError(f"data.{kind}: {source} holds no train file; name it train with one "
                            f"of the endings {', '.join(EXTENSIONS)}.")
        if split in own and (split != "train" or own == set(SPLITS)):
            return _own_file(path, split), None
        return _own_file(path, "train"), own - {"train"}
    if source.startswith((".", "/", "~")) or source.endswith(EXTENSIONS) or "/" not in source:
        raise UserError(f"data.{kind}: {source} does not exist; give a file, a folder with "
                        "train and test files, or a hub id such as owner/name.")
    return None, None


def _embedded_file(settings: Settings, kind: str, split: str) -> Path:
    root = settings.data.root
    if root != "embedded":
        if not Path(root).is_dir():
            raise UserError(f"data.root: the folder {root} does not exist; "
                            "make it with python data/build.py --split test --out FOLDER.")
        if path := _own_file(Path(root) / kind, split):
            return path
    path = _own_file(ROOT / "data" / kind, split)
    if path is None:
        raise UserError(f"the embedded {kind} have no {split} file; make them with make data.")
    return path


def _own_file(folder: Path, split: str) -> Path | None:
    return next((p for e in EXTENSIONS if (p := folder / f"{split}{e}").is_file()), None)


def _convert(rows: Iterable[Row], convert: Callable[[Row], Any], kind: str, name: str) -> list:
    good, irregular, count = [], [], 0
    choices, wanted = COLUMNS[kind]
    for count, row in enumerate(rows, start=1):
        if count == 1 and not any(c <= set(row) for c in choices):
            raise UserError(f"{kind}: {name} has the columns {', '.join(map(str, row))}; "
                            f"it must have {wanted}.")
        try:
            value = convert(row)
        except IrregularRow as error:
            irregular.append(f"row {count}: {error}")
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{kind}: {name}, row {count}: {error}.") from error
        if value is not None:
            good.append(value)
    if not count:
        raise UserError(f"{kind}: {name} is empty; it must hold at least one row.")
    if len(irregular) > IRREGULAR_SHARE * count:
        raise UserError(
            f"{kind}: {name}, {irregular[0]}; mend or remove it ({len(irregular)} of {count} rows "
            "are of this kind, too many to set aside)."
        )
    if irregular:
        _note(f"{kind}: {name}: {len(irregular)} of {count} rows set aside, the first being "
              f"{irregular[0]}.")
    return good


def read_rows(path: Path) -> list[Row]:
    """Rows of a .parquet, .csv, .json or .jsonl file (optionally gzipped) as dictionaries."""
    name = path.name
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        opener = gzip.open if name.endswith(".gz") else open
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            if ".csv" in name:
                csv.field_size_limit(10**9)
                return list(csv.DictReader(file))
            if ".jsonl" in name:
                return [_json_line(line, number) for number, line in enumerate(file, 1)
                        if line.strip()]
            if ".json" in name:
                rows = json.load(file)
                if not isinstance(rows, list):
                    raise ValueError("it must hold a list of rows")
                return rows
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except Exception as error:  # every reader has its own family of errors for a broken file
        raise UserError(f"{name} cannot be read: {_sentence(error)}.") from error
    raise UserError(f"{name} has an unknown ending; use one of {', '.join(EXTENSIONS)}.")


def _json_line(line: str, number: int) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"row {number} is not valid JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise ValueError(f"row {number} is not an object with named fields")
    return row


def _hub_rows(source: str, kind: str, split: str) -> tuple[Iterable[Row], str, set[str] | None]:
    """Rows of a hub dataset, `owner/name[/data_dir][:split]`.

    Returns the rows, a name for messages, and None when they are the wanted split already, or the
    set of splits the dataset has of its own when the wanted one must be carved from training rows.
    """
    from datasets import get_dataset_split_names, load_dataset

    spec, _, fixed = source.partition(":")
    parts = spec.split("/")
    if len(parts) < 2:
        raise UserError(f"data.{kind}: {source!r} is neither a file nor a folder nor a hub id of "
                        "the form owner/name.")
    repo, data_dir = "/".join(parts[:2]), "/".join(parts[2:]) or None
    options = {"data_dir": data_dir} if data_dir else {}
    try:
        if fixed:
            return load_dataset(repo, split=fixed, **options), f"{repo} ({fixed})", set()
        names = set(SPLITS) & set(get_dataset_split_names(repo, **options))
        if split in names and (split != "train" or set(SPLITS) <= names):
            return load_dataset(repo, split=split, **options), f"{repo} ({split})", None
        return load_dataset(repo, split="train", **options), f"{repo} (train)", names - {"train"}
    except UserError:
        raise
    except Exception as error:  # the hub client raises a dozen kinds for one fact: not to be had
        raise UserError(f"data.{kind}: {source} could not be loaded from the hub: "
                        f"{_sentence(error)}.") from error


@cache
def _note(text: str) -> None:
    """Say a thing once per process, however often the file is read."""
    print(text, file=sys.stderr)


def _sentence(error: Exception) -> str:
    """First line of an error's message, without its final full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
