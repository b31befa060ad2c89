"""Who is asked about which pair next, on which side each response stands, and what was said.

Every annotator has an order of their own, fixed by name, and so is the side of each response:
neither the place of a pair in the file nor that of a response in its row can be guessed from the
page, and both stay the same when the server is started again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.engine.dialogues import ASSISTANT, HUMAN
from helpers.engine.rows import as_comparison, choices_of_tools, sorted_out
from helpers.engine.tables import read_table
from helpers.errors import UserError
from helpers.feedback import PREFERENCES, RatingStore, preference_row

SIDES = ("left", "right", "tie")
TASK = "comparisons"
LONGEST_NAME = 60


@dataclass(frozen=True)
class Item:
    """A prompt with two responses; `gold` is the known answer of a test question, "a" or "b"."""

    prompt: str
    response_a: str
    response_b: str
    model_a: str = ""
    model_b: str = ""
    gold: str | None = None

    @property
    def id(self) -> str:
        """The first 16 digits of a SHA-256 over its texts."""
        text = "\0".join((self.prompt, self.response_a, self.response_b))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_items(path: str | Path, gold: bool = False) -> list[Item]:
    """Pairs of responses from a file of preferences or comparisons, in any form the course reads.

    Args:
        path: the file. What it says is better is used only for gold.
        gold: the answers are known and are those of the file; ties are left out.

    Raises:
        UserError: naming file and row.
    """
    table = read_table(path)
    name, rows = Path(path).name, table.rows
    judged = {"winner", "preference"} & {*(rows[0] if rows else ())}
    if rows and {"response_a", "response_b"} <= {*rows[0]} and not judged and not gold:
        return _unjudged(rows, name)
    found = sorted_out(choices_of_tools(rows, name), as_comparison, all_faults=False)
    if found.faulty or not found.good:
        row, reason = found.faulty[0] if found.faulty else (
            found.irregular or [(1, "there is no pair of responses")])[0]
        raise UserError(f"{name}, row {row}: {reason}; give rows with prompt, response_a and "
                        "response_b, or with chosen and rejected.")
    return [Item(row["prompt"], row["response_a"], row["response_b"],
                 gold=row["winner"] if gold else None)
            for row in found.good if not (gold and row["winner"] == "tie")]


def _unjudged(rows: Sequence[dict[str, Any]], name: str) -> list[Item]:
    items = []
    for number, row in enumerate(rows, 1):
        prompt, first, second = (row.get(key) for key in ("prompt", "response_a", "response_b"))
        if not all(isinstance(text, str) and text.strip() for text in (prompt, first, second)):
            raise UserError(f"{name}, row {number}: prompt, response_a and response_b must be "
                            "texts that are not empty.")
        models = (str(row.get(key) or "") for key in ("model_a", "model_b"))
        items.append(Item(str(prompt), str(first), str(second), *models))
    return items


class Queue:
    """The pairs to compare and the store of answers.

    items: equal ones count once. store: answers that are there already count as given. gold: test
    questions, mixed in among the others; their answers go to a file of their own beside the store,
    `<name>.gold.jsonl`, so that no model learns from them.

    Raises:
        UserError: no items; or an answer cannot be stored, as the store says.
    """

    def __init__(self, items: Sequence[Item], store: RatingStore, gold: Sequence[Item] = (),
                 seed: int = 0) -> None:
        self.items = {item.id: item for item in (*items, *gold)}
        if not self.items:
            raise UserError("there are no pairs to compare; give a file that has some.")
        self.store, self.seed = store, seed
        self.gold_store = RatingStore(store.path.with_name(f"{store.path.stem}.gold.jsonl"))
        self.given: dict[str, dict[str, str]] = {}  # annotator: {item: "a", "b" or "tie"}
        known = {(i.prompt, i.response_a, i.response_b): key for key, i in self.items.items()}
        for one in (store, self.gold_store)[: 2 if gold else 1]:
            one.check_writable()
            for row in one.rows(task=TASK):
                texts = (row["prompt"], row.get("response_a", ""), row.get("response_b", ""))
                if key := known.get(texts):
                    self._remember(row["annotator"], key, row["preference"])

    def next(self, annotator: str) -> dict[str, Any]:
        """The next pair for an annotator as the page shows it, or none; and how far they are.

        Returns:
            `item` (id, prompt, left, right) or None; `done`, `of`; `gold` (right, of) and
            `agreement` (alpha, pairs), None while there is nothing to say.
        """
        name = _name(annotator)
        given = self.given.get(name, {})
        waiting = [key for key in sorted(self.items, key=lambda k: self._chance(name, k, "order"))
                   if key not in given]
        return {"item": self.shown(name, waiting[0]) if waiting else None,
                "done": len(given), "of": len(self.items),
                "gold": self._gold(given), "agreement": self.agreement()}

    def shown(self, annotator: str, key: str) -> dict[str, Any]:
        """A pair as an annotator sees it: no models, each response on the side chance gave it."""
        item = self.items[key]
        sides = [item.response_a, item.response_b]
        if self._turned(annotator, key):
            sides.reverse()
        return {"id": key, "prompt": _readable(item.prompt), "left": sides[0], "right": sides[1]}

    def last(self, annotator: str) -> dict[str, Any] | None:
        """The pair an annotator answered last, with that answer as `choice`, to be put right."""
        name = _name(annotator)
        given = self.given.get(name, {})
        if not given:
            return None
        key = next(reversed(given))
        choice = given[key]
        if choice != "tie":
            choice = "left" if (choice == "a") != self._turned(name, key) else "right"
        return {**self.shown(name, key), "choice": choice}

    def answer(self, annotator: str, key: str, choice: str, source: str = "human") -> None:
        """Store an answer before returning; the same again changes nothing, another one corrects.

        Args:
            choice: "left", "right" or "tie".
            source: "simulated" where no person answers.

        Raises:
            UserError: no such pair or choice, or the store cannot be written.
        """
        name = _name(annotator)
        if not isinstance(key, str) or key not in self.items:
            raise UserError("there is no such pair; load the page again.")
        if choice not in SIDES:
            raise UserError("an answer is left, right or tie.")
        preference = choice
        if choice != "tie":
            preference = "a" if (choice == "left") != self._turned(name, key) else "b"
        item = self.items[key]
        row = preference_row(item.prompt, item.response_a, item.response_b, preference,
                             annotator=name, source=source, model_a=item.model_a,
                             model_b=item.model_b, task=TASK)
        del row["id"], row["time"]  # the same pair by the same person is the same row
        with contextlib.redirect_stdout(io.StringIO()):
            (self.gold_store if item.gold else self.store).extend([row], "an answer")
        self._remember(name, key, preference)

    def agreement(self) -> dict[str, float] | None:
        """Krippendorff's alpha for nominal data over pairs that two or more have answered."""
        import krippendorff

        by_item = [[given[key] for given in self.given.values() if key in given]
                   for key in self.items]
        counts = np.array([[row.count(p) for p in PREFERENCES] for row in by_item if len(row) > 1])
        if not len(counts):
            return None
        if (counts.sum(axis=0) > 0).sum() < 2:
            return {"alpha": 1.0, "pairs": len(counts)}
        alpha = krippendorff.alpha(value_counts=counts, value_domain=list(PREFERENCES),
                                   level_of_measurement="nominal")
        return {"alpha": float(alpha), "pairs": len(counts)}

    def _gold(self, given: dict[str, str]) -> dict[str, int] | None:
        asked = [key for key in given if self.items[key].gold]
        right = sum(given[key] == self.items[key].gold for key in asked)
        return {"right": right, "of": len(asked)} if asked else None

    def _remember(self, annotator: str, key: str, preference: str) -> None:
        given = self.given.setdefault(annotator, {})
        given.pop(key, None)
        given[key] = preference  # the latest stands last

    def _chance(self, annotator: str, key: str, what: str) -> bytes:
        return hashlib.sha256(f"{self.seed}\0{what}\0{annotator}\0{key}".encode()).digest()

    def _turned(self, annotator: str, key: str) -> bool:
        return bool(self._chance(annotator, key, "side")[0] & 1)


def _readable(prompt: str) -> str:
    """A question without its markers; of several turns all, with who says what."""
    if prompt.count(HUMAN) > 1:
        return prompt.strip().removesuffix(ASSISTANT.strip()).strip()
    return prompt.strip().removeprefix(HUMAN.strip()).removesuffix(ASSISTANT.strip()).strip()


def _name(annotator: str) -> str:
    name = annotator.strip() if isinstance(annotator, str) else ""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise UserError(f"give a name of 1 to {LONGEST_NAME} letters.")
    return name
