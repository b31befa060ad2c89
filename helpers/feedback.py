"""Ratings and choices by people (or by simulated people): stored, checked, turned into data.

The store is one file of JSON lines that only ever grows. A row is written under a lock and is on
the disk before `append` returns, so several people, or several processes, may share a store, and a
killed one loses nothing that it was told is saved. What a person takes back is taken back by a
further row, not by deleting one.

A row holds `id, time, annotator, source` ("human" or "simulated"), `task, prompt`, and either

* `response, model, ratings`: ratings maps each dimension to a whole number from 1 to 5, or
* `response_a, response_b, model_a, model_b, preference`: "a", "b" or "tie", as they were shown, or
* `retracts`: the id of an earlier row of the same annotator.
"""

from __future__ import annotations

import csv
import json
import os
import uuid
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from helpers.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

DIMENSIONS = ("coherence", "creativity", "relevance", "fluency")
SOURCES = ("human", "simulated")
PREFERENCES = ("a", "b", "tie")
Row = dict[str, Any]


# ---------------------------------------------------------------------------------------- rows


def rating_row(
    prompt: str,
    response: str,
    ratings: Mapping[str, int],
    *,
    annotator: str,
    source: str = "human",
    model: str = "",
    task: str = "responses",
) -> Row:
    """A row that says how one response was rated, each dimension from 1 to 5."""
    return _stamp(annotator, source, task, prompt) | {
        "response": response, "model": model, "ratings": dict(ratings)}


def preference_row(
    prompt: str,
    response_a: str,
    response_b: str,
    preference: str,
    *,
    annotator: str,
    source: str = "human",
    model_a: str = "",
    model_b: str = "",
    task: str = "comparisons",
) -> Row:
    """A row that says which of two responses was preferred: "a", "b" or "tie"."""
    return _stamp(annotator, source, task, prompt) | {
        "response_a": response_a, "response_b": response_b,
        "model_a": model_a, "model_b": model_b, "preference": preference}


def _stamp(annotator: str, source: str, task: str, prompt: str) -> Row:
    return {"id": uuid.uuid4().hex, "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "annotator": annotator, "source": source, "task": task, "prompt": prompt}


def validate_row(row: Any, where: str = "row", dimensions: Sequence[str] | None = None) -> Row:
    """Return the row when it fits the schema, otherwise raise a UserError that begins with `where`.

    With `dimensions`, every rating must be of exactly these.
    """
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be a JSON object, not {type(row).__name__}.")
    for name in ("time", "annotator", "source", "task"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{where}: {name!r} must be a non-empty string, not {row.get(name)!r}.")
    if row["source"] not in SOURCES:
        raise UserError(f"{where}: 'source' is {row['source']!r}, must be 'human' or 'simulated'.")
    if "retracts" in row:
        if not isinstance(row["retracts"], str):
            raise UserError(f"{where}: 'retracts' must be the id of a row.")
        return row
    texts = ["prompt"] + (["response"] if "ratings" in row else ["response_a", "response_b"])
    for name in texts:
        if not isinstance(row.get(name), str):
            raise UserError(f"{where}: {name!r} must be a string, not {row.get(name)!r}.")
    if "ratings" in row:
        _validate_ratings(row["ratings"], where, dimensions)
    elif row.get("preference") not in PREFERENCES:
        raise UserError(f"{where}: needs 'ratings' (1 to 5 for each dimension) or a 'preference' "
                        f"of 'a', 'b' or 'tie', not {row.get('preference')!r}.")
    return row


def _validate_ratings(ratings: Any, where: str, dimensions: Sequence[str] | None) -> None:
    if not isinstance(ratings, dict) or not ratings:
        raise UserError(f"{where}: 'ratings' must map each dimension to a number from 1 to 5.")
    if dimensions is not None and set(ratings) != set(dimensions):
        raise UserError(f"{where}: rated are {', '.join(map(str, ratings))}; wanted exactly "
                        f"{', '.join(dimensions)}.")
    for name, value in ratings.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 5:
            raise UserError(f"{where}: {name!r} is rated {value!r}, must be a whole number from "
                            "1 to 5.")


# --------------------------------------------------------------------------------------- store


class RatingStore:
    """An append-only file of feedback rows, safe to share between people and processes.

    path: the JSON-lines file; made with its folder at the first `append`. dimensions: when given,
    every rating row must rate exactly these. `torn` lists the half-written lines found so far;
    their bytes are kept in `<path>.torn`.
    """

    def __init__(self, path: str | Path, dimensions: Sequence[str] | None = None) -> None:
        self.path = Path(path)
        self.dimensions = None if dimensions is None else tuple(dimensions)
        self.torn: list[bytes] = []

    def _lock_file(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return open(self.path.with_name(self.path.name + ".lock"), "ab")

    @contextmanager
    def _locked(self):
        import portalocker

        with self._lock_file() as lock:
            portalocker.lock(lock, portalocker.LOCK_EX)
            try:
                yield
            finally:
                portalocker.unlock(lock)

    def append(self, row: Row) -> str:
        """Write one row; when this returns its id, the row is on the disk.

        Raises UserError when the row does not fit the schema; then nothing is written.
        """
        row = {"id": uuid.uuid4().hex} | row
        validate_row(row, "new row", self.dimensions)
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._locked(), open(self.path, "ab") as file:
            self._set_torn_line_aside()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return row["id"]

    def retract(self, row_id: str, annotator: str, source: str, task: str) -> str:
        """Take a row back: it stays in the file and no longer counts."""
        row = _stamp(annotator, source, task, "")
        return self.append(row | {"retracts": row_id})

    def rows(self, **equal: str) -> list[Row]:
        """All rows that count, in the order written; `equal` filters, e.g. task="responses".

        Raises UserError with file and row number at the first row that does not fit the schema.
        """
        history = self.history()
        retracted = {row["retracts"] for row in history if "retracts" in row}
        return [row for row in history
                if "retracts" not in row and row.get("id") not in retracted
                and all(row.get(key) == value for key, value in equal.items())]

    def history(self) -> list[Row]:
        """Every row of the file, with what was retracted and the retractions."""
        if not self.path.exists():
            return []
        try:
            with self._locked():
                self._set_torn_line_aside()
                content = self.path.read_bytes()
        except PermissionError:  # somebody else's store: read it, and leave it as it is
            content = self.path.read_bytes()
        rows = []
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            where = f"{self.path}, row {number}"
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError as error:
                raise UserError(f"{where}: not a JSON object in UTF-8 ({error}).") from None
            rows.append(validate_row(row, where, self.dimensions))
        return rows

    def _set_torn_line_aside(self) -> None:
        """Move what a killed writer left after the last line break to `<path>.torn`."""
        if not self.path.exists():
            return
        with open(self.path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                return
            file.seek(size - 1)
            if file.read(1) == b"\n":
                return
            start, block = size, b""
            while start and b"\n" not in block:
                start = max(0, start - 65536)
                file.seek(start)
                block = file.read(size - start)
            tail = block.rsplit(b"\n", 1)[-1]
            with open(self.path.with_name(self.path.name + ".torn"), "ab") as aside:
                aside.write(tail + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            file.truncate(size - len(tail))
            file.flush()
            os.fsync(file.fileno())
        self.torn.append(tail)
        warnings.warn(f"{self.path}: the last line was cut short by a writer that ended while "
                      f"writing; its {len(tail)} bytes were moved to {self.path.name}.torn and "
                      "were never acknowledged.", stacklevel=3)

    def to_csv(self, path: str | Path) -> int:
        """Write the rows that count to a CSV file, ratings as columns `rating.<dimension>`."""
        flat = [_flatten(row) for row in self.rows()]
        columns = list(dict.fromkeys(key for row in flat for key in row))
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(flat)
        return len(flat)

    def add_csv(self, path: str | Path) -> int:
        """Append the rows of a CSV file as `to_csv` writes it; all are checked before any is."""
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                flat = list(csv.DictReader(file))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
        rows = [_unflatten(row, f"{path}, row {n}") for n, row in enumerate(flat, 1)]
        return self.extend(rows, str(path))

    def to_dataset(self) -> Dataset:
        """The rows that count as a `datasets.Dataset`, columns as in `to_csv`."""
        from datasets import Dataset

        flat = [_flatten(row) for row in self.rows()]
        columns = list(dict.fromkeys(key for row in flat for key in row))
        return Dataset.from_dict({c: [row.get(c) for row in flat] for c in columns})

    def add_dataset(self, dataset: Dataset) -> int:
        """Append the rows of a dataset as `to_dataset` makes it; all are checked before any is."""
        rows = [_unflatten(cast(Row, row), f"dataset, row {n}") for n, row in enumerate(dataset, 1)]
        return self.extend(rows, "dataset")

    def extend(self, rows: Iterable[Row], where: str = "new rows") -> int:
        """Append rows whose ids are not here yet; all are checked before any is written."""
        rows = list(rows)
        for number, row in enumerate(rows, 1):
            validate_row(row, f"{where}, row {number}", self.dimensions)
        known = {row.get("id") for row in self.history()}
        fresh = [row for row in rows if row.get("id") is None or row["id"] not in known]
        for row in fresh:
            self.append(row)
        return len(fresh)


def _flatten(row: Row) -> Row:
    flat = {key: value for key, value in row.items() if key != "ratings"}
    return flat | {f"rating.{k}": v for k, v in row.get("ratings", {}).items()}


def _unflatten(flat: Mapping[str, Any], where: str) -> Row:
    row: Row = {}
    ratings: dict[str, int] = {}
    comparison = bool(flat.get("preference"))
    for key, value in flat.items():
        if key is None:
            raise UserError(f"{where}: has more fields than the header has columns.")
        if key.startswith("rating."):
            if value not in (None, ""):
                try:
                    ratings[key.removeprefix("rating.")] = int(value)
                except ValueError:
                    raise UserError(f"{where}: {key} is {value!r}, must be a whole number from "
                                    "1 to 5.") from None
        elif key in ("response", "model") and comparison:
            continue
        elif key in ("response_a", "response_b", "model_a", "model_b", "preference") \
                and not comparison:
            continue
        else:
            row[key] = "" if value is None else value
    return row | ({} if comparison else {"ratings": ratings})


# ------------------------------------------------------------------------------- what rows say


def average_ratings(
    rows: Iterable[Row], by: str | None = None, seed: int = 0
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Mean rating per dimension with a bootstrap 95 % interval over rated responses.

    Returns {group: {dimension: (mean, low, high)}}; `by` names the column that groups, such as
    "model" or "annotator", and without it there is one group, "all".
    """
    values: dict[str, dict[str, dict[tuple, list[int]]]] = {}
    for row in rows:
        for name, value in row.get("ratings", {}).items():
            group = values.setdefault("all" if by is None else str(row.get(by, "")), {})
            items = group.setdefault(name, {})
            items.setdefault((row["prompt"], row["response"]), []).append(value)
    return {group: {name: _bootstrap_mean([float(np.mean(v)) for v in items.values()], seed)
                    for name, items in names.items()} for group, names in values.items()}


def _bootstrap_mean(
    values: Sequence[float], seed: int, draws: int = 1000
) -> tuple[float, float, float]:
    means = np.asarray(values, float)
    index = np.random.default_rng(seed).integers(0, len(means), (draws, len(means)))
    low, high = np.quantile(means[index].mean(axis=1), [0.025, 0.975])
    return float(means.mean()), float(low), float(high)


def rating_matrix(rows: Iterable[Row], dimension: str) -> np.ndarray:
    """Ratings of one dimension, (annotators, responses), NaN where an annotator gave none.

    Where an annotator rated a response twice, the later rating stands.
    """
    ratings: dict[str, dict[tuple, int]] = defaultdict(dict)
    items: dict[tuple, int] = {}
    for row in rows:
        if dimension in row.get("ratings", {}):
            item = (row["task"], row["prompt"], row["response"])
            items.setdefault(item, len(items))
            ratings[row["annotator"]][item] = row["ratings"][dimension]
    matrix = np.full((len(ratings), len(items)), np.nan)
    for i, given in enumerate(ratings.values()):
        for item, value in given.items():
            matrix[i, items[item]] = value
    return matrix


def agreement(
    rows: Iterable[Row], dimension: str, draws: int = 500, seed: int = 0
) -> tuple[float, float, float]:
    """Krippendorff's alpha for ordinal ratings, with a bootstrap 95 % interval over responses.

    1 is full agreement, 0 what chance gives, below 0 systematic disagreement (Krippendorff 2004,
    chapter 11). NaN when no response has two ratings. Returns (alpha, low, high).
    """
    matrix = rating_matrix(rows, dimension)
    matrix = matrix[:, (~np.isnan(matrix)).sum(axis=0) >= 2] if matrix.size else matrix
    if matrix.size == 0:
        return np.nan, np.nan, np.nan
    rng = np.random.default_rng(seed)
    draws_of_alpha = [_alpha(matrix[:, rng.integers(0, matrix.shape[1], matrix.shape[1])])
                      for _ in range(draws)]
    low, high = np.nanquantile(draws_of_alpha, [0.025, 0.975])
    return _alpha(matrix), float(low), float(high)


def _alpha(matrix: np.ndarray) -> float:
    import krippendorff

    counts = np.stack([(matrix == value).sum(axis=0) for value in range(1, 6)], axis=1)
    if (counts.sum(axis=0) > 0).sum() < 2:
        return 1.0
    return float(krippendorff.alpha(value_counts=counts, value_domain=[1, 2, 3, 4, 5],
                                    level_of_measurement="ordinal"))


def ratings_to_pairs(
    rows: Iterable[Row],
    weights: Mapping[str, float] | None = None,
    min_gap: float = 0.5,
    ties: str = "drop",
) -> list[Row]:
    """Turn ratings into preference pairs: for each prompt, every two responses rated.

    A response's score is the mean over its annotators of the weighted mean of its dimensions
    (`weights`, equal by default). Two responses whose scores differ by less than `min_gap` are a
    tie: left out with ties="drop", kept with ties="keep" and `tie: True`. Returns rows of
    `prompt, chosen, rejected, rating_gap` (of their scores, in rating points), `tie, source`.
    """
    if ties not in ("drop", "keep"):
        raise UserError(f"ties is {ties!r}, must be 'drop' or 'keep'.")
    scores: dict[str, dict[str, list[float]]] = {}
    simulated: dict[tuple[str, str], bool] = {}
    for row in rows:
        if "ratings" not in row:
            continue
        names = list(weights or row["ratings"])
        if missing := [name for name in names if name not in row["ratings"]]:
            raise UserError(f"weights name {missing[0]!r}, which a row of {row['annotator']!r} "
                            f"does not rate; it rates {', '.join(row['ratings'])}.")
        value = np.average([row["ratings"][n] for n in names],
                           weights=[weights[n] for n in names] if weights else None)
        scores.setdefault(row["prompt"], {}).setdefault(row["response"], []).append(float(value))
        key = (row["prompt"], row["response"])
        simulated[key] = simulated.get(key, False) or row["source"] == "simulated"
    pairs = []
    for prompt, responses in scores.items():
        ranked = sorted(responses, key=lambda r: -np.mean(responses[r]))
        for i, chosen in enumerate(ranked):
            for rejected in ranked[i + 1:]:
                gap = float(np.mean(responses[chosen]) - np.mean(responses[rejected]))
                tie = gap < min_gap or gap == 0
                if tie and ties == "drop":
                    continue
                source = "simulated" if simulated[prompt, chosen] or simulated[prompt, rejected] \
                    else "human"
                pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected,
                              "rating_gap": gap, "tie": tie, "source": source})
    return pairs


def preferences_to_pairs(rows: Iterable[Row], ties: str = "drop") -> list[Row]:
    """Turn choices into rows of `prompt, chosen, rejected, tie, source`, one per choice.

    A choice says nothing of how much better; ties are left out unless ties="keep".
    """
    if ties not in ("drop", "keep"):
        raise UserError(f"ties is {ties!r}, must be 'drop' or 'keep'.")
    pairs = []
    for row in rows:
        if "preference" not in row or (row["preference"] == "tie" and ties == "drop"):
            continue
        chosen, rejected = row["response_a"], row["response_b"]
        if row["preference"] == "b":
            chosen, rejected = rejected, chosen
        tie = row["preference"] == "tie"
        pairs.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected,
                      "tie": tie, "source": row["source"]})
    return pairs


def bradley_terry(
    comparisons: Iterable[tuple[str, str, float]],
    prior: float = 0.1,
    draws: int = 300,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A leaderboard from comparisons (model_a, model_b, outcome): 1 a won, 0 b won, 0.5 a tie.

    Bradley and Terry 1952: P(a beats b) = sigmoid(strength a - strength b). Strengths (in nats)
    sum to zero; `prior` is a small Gaussian precision that keeps a model that never lost finite.
    Returns `model, strength, low, high, games`, best first, with a bootstrap 95 % interval over
    comparisons.
    """
    comparisons = list(comparisons)
    if not comparisons:
        raise UserError("A leaderboard needs at least one comparison; there are none.")
    names = sorted({name for a, b, _ in comparisons for name in (a, b)})
    index = {name: i for i, name in enumerate(names)}
    first = np.array([index[a] for a, _, _ in comparisons])
    second = np.array([index[b] for _, b, _ in comparisons])
    outcome = np.array([o for _, _, o in comparisons], float)
    rng = np.random.default_rng(seed)
    strengths = _strengths(first, second, outcome, len(names), prior)
    resampled = []
    for _ in range(draws):
        pick = rng.integers(0, len(outcome), len(outcome))
        resampled.append(_strengths(first[pick], second[pick], outcome[pick], len(names), prior))
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    games = np.bincount(first, minlength=len(names)) + np.bincount(second, minlength=len(names))
    board = [{"model": name, "strength": float(strengths[i]), "low": float(low[i]),
              "high": float(high[i]), "games": int(games[i])} for name, i in index.items()]
    return sorted(board, key=lambda entry: -entry["strength"])


def _strengths(first, second, outcome, count: int, prior: float) -> np.ndarray:
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(strength):
        logit = strength[first] - strength[second]
        gap = expit(logit) - outcome
        slope = np.bincount(first, gap, count) - np.bincount(second, gap, count)
        value = (np.logaddexp(0, logit) - outcome * logit).sum()
        return value + prior / 2 * strength @ strength, slope + prior * strength

    found = minimize(loss, np.zeros(count), jac=True, method="L-BFGS-B").x
    return found - found.mean()


def comparisons_of(rows: Iterable[Row]) -> list[tuple[str, str, float]]:
    """The choices among rows as comparisons of models, ready for `bradley_terry`."""
    outcome = {"a": 1.0, "b": 0.0, "tie": 0.5}
    return [(row["model_a"], row["model_b"], outcome[row["preference"]])
            for row in rows if "preference" in row]
