"""How far a recorded number has ranged in stored runs: other seeds, and other machines.

The runs are those of `benchmarks/luck.py` (the embedded profile with other seeds on one machine)
and of `benchmarks/machines.py` (seed 0 with other instructions, threads and load). A row keeps the
commit it was made at; a metric that has come or gone since is read from the rows that have it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from helpers.paths import ROOT

TIMES = ("seconds", "per_second")  # of names of metrics that say more about load than about luck
FEWEST = 3  # runs, below which a range would say too little to be printed


@dataclass(frozen=True)
class Spread:
    """The least and greatest value of a metric, and over how many runs and seeds."""

    low: float
    high: float
    runs: int
    seeds: int

    def __str__(self) -> str:
        """As `course.record` prints it; runs of one seed differ by the machine alone."""
        return (f"in {self.runs} stored runs ({self.seeds} seed{'s' * (self.seeds != 1)}): "
                f"{self.low:.4g} to {self.high:.4g}")


def runs() -> list[dict[str, Any]]:
    """The stored runs: `{"seed" or "machine", "metrics": {notebook: {name: value}}, …}`."""
    found = []
    for name in ("luck", "machines"):
        path = ROOT / "benchmarks" / "results" / f"{name}.json"
        if path.is_file():
            found += [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]
                      if "metrics" in row]
    return found


def spread(stem: str) -> dict[str, Spread]:
    """The range of each metric of a notebook, of those that at least three runs recorded.

    What was the same in every run, such as a number of parameters, has none.

    Args:
        stem: the notebook's file name without its ending, or its two digits.
    """
    values: dict[str, list[float]] = {}
    seeds: dict[str, set[int]] = {}
    for row in runs():
        for name, metrics in row["metrics"].items():
            if name.startswith(stem):
                for metric, value in metrics.items():
                    if value is not None and not any(word in metric for word in TIMES):
                        values.setdefault(metric, []).append(value)
                        seeds.setdefault(metric, set()).add(row.get("seed", 0))
    return {metric: Spread(min(of), max(of), len(of), len(seeds[metric]))
            for metric, of in values.items() if len(of) >= FEWEST and min(of) < max(of)}
