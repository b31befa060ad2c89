"""Where a benchmark's rows go: JSON with the date, the commit and the machine they came from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from helpers.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def machine() -> str:
    """Processor, cores and threads in use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    import torch

    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit the code was at, marked when the helpers or benchmarks had changed since."""
    try:
        short = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT,
                               capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "helpers", "benchmarks/*.py"],
                               cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return short + ("+" if dirty else "")


def save(name: str, rows: list[dict[str, Any]], **info: Any) -> Path:
    """Write `results/<name>.json`; the file is replaced as a whole."""
    from importlib import metadata

    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "date": datetime.date.today().isoformat(), "commit": commit(), "machine": machine(),
        "torch": metadata.version("torch"), **info, "rows": rows,
    }
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def load(name: str) -> dict[str, Any] | None:
    """The stored results, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def merged(old: dict, new: dict) -> dict:
    """The new row of a course's metrics by notebook, with the notebooks that only the old one has.

    `earlier` names the commits of those.
    """
    before = {stem: old.get("earlier", {}).get(stem, old["commit"])
              for stem in old["metrics"] if stem not in new["metrics"]}
    row = {**new, "metrics": {**old["metrics"], **new["metrics"]}}
    return row | ({"earlier": before} if before else {})
