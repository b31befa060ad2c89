"""`python -m helpers refresh`: execute notebooks and store their outputs, cleaned."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from helpers.course import execute, provenance, runner
from helpers.course.progress import Bar, clock
from helpers.course.upkeep import prose, results, sync
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profiles import load_profile

VIEW = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"\d+%\||\d+it \[|\?it/s\]")


def refresh(numbers: list[str], stored: bool = False) -> int:
    """Bring shown sources up to date, execute under the embedded profile, store clean outputs.

    With `stored`, the outputs of the last `make course` are taken and nothing is executed again.
    A notebook that fails is left as it was; 0 when none did.
    """
    paths = runner.choose(None, ",".join(numbers) if numbers else None)
    sync.sync()
    if stored:
        return _from_runs(paths)
    for path in paths:
        with tempfile.TemporaryDirectory() as folder, Bar(path.stem) as bar:
            out = Path(folder) / path.name
            result = execute.execute(path, out, {}, bar)
            done = execute.read_notebook(out)
        if result.error:
            print(runner.failure(path.stem, result.error), file=sys.stderr)
            return 2 if result.error["kind"] == "UserError" else 1
        sync.write_notebook(
            path, merge(execute.read_notebook(path), done, provenance.machine()))
        print(f"{path.name}: refreshed in {clock(result.seconds)}", flush=True)
    return 0


def _from_runs(paths: list[Path]) -> int:
    """Take outputs from `runs/embedded`, where the executed cells are still the notebook's."""
    runs, ran = load_profile("embedded").runs, results.default_run()
    for path in paths:
        if path.stem not in ran or not (runs / path.name).is_file():
            raise UserError(f"{path.name} has not been run: runs/embedded holds no such notebook; "
                            "run make course first.")
        source, done = execute.read_notebook(path), execute.read_notebook(runs / path.name)
        done["cells"] = execute.own_cells(done)
        if execute.sources(source) != execute.sources(done):
            raise UserError(f"{path.name} has changed since it was run; run make course again.")
        for count, cell in enumerate((c for c in done["cells"] if c["cell_type"] == "code"), 1):
            cell["execution_count"] = count
            for output in cell["outputs"]:
                if "execution_count" in output:
                    output["execution_count"] = count
        sync.write_notebook(path, merge(source, done, ran[path.stem].get("machine")))
        print(f"{path.name}: outputs taken from the last run", flush=True)
    return 0


def merge(
    source: dict[str, Any], executed: dict[str, Any], machine: str | None = None
) -> dict[str, Any]:
    """The source notebook with the executed one's outputs, and nothing that is only of that run.

    `machine`: where it was executed, as `provenance.machine` says it; kept in the metadata.
    """
    cells = []
    for cell, done in zip(source["cells"], executed["cells"], strict=True):
        cell = {**cell, "metadata": clean_metadata(cell["metadata"])}
        if cell["cell_type"] == "code":
            cell["execution_count"] = done["execution_count"]
            cell["outputs"] = prose.with_alt(
                clean_outputs(done["outputs"]), cell["metadata"].get("alt"))
        cells.append(cell)
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    metadata = {k: v for k, v in source["metadata"].items() if k not in ("papermill", "widgets")}
    metadata["language_info"] = language
    if machine is not None:
        metadata["course"] = {"machine": machine}
    return {**source, "cells": cells, "metadata": metadata}


def clean_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Cell metadata without papermill's, and without an empty list of tags."""
    kept = {k: v for k, v in metadata.items() if k not in ("papermill", "execution")}
    return {k: v for k, v in kept.items() if not (k == "tags" and not v)}


def clean_outputs(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs without stderr, progress bars, widget views and absolute paths."""
    clean: list[dict[str, Any]] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        output = dict(output)
        if "data" in output:
            data = {k: _clean(k, v) for k, v in output["data"].items() if k != VIEW}
            if VIEW in output["data"] and BAR.search("".join(data.get("text/plain", ""))):
                continue
            output["data"] = data
        if "text" in output:
            output["text"] = _clean("text/plain", output["text"])
            last = clean[-1] if clean else {}
            if last.get("name") == output["name"] == "stdout":
                last["text"] = [*last["text"], *output["text"]]
                continue
        if "execution_count" in output or output["output_type"] != "execute_result":
            clean.append(output)
    return clean


def _clean(kind: str, value: Any) -> Any:
    if kind.startswith("image/") or not isinstance(value, str | list):
        return value
    text = without_paths("".join(value))
    return text.splitlines(keepends=True)


def without_paths(text: str) -> str:
    """Text in which this copy of the course stands at no particular place."""
    for folder, short in ((str(ROOT), "."), (str(Path.home()), "~")):
        if len(folder) > 1:
            text = text.replace(folder + os.sep, "" if short == "." else f"{short}/")
            text = text.replace(folder, short)
    return re.sub(r"\S*ipykernel_\d+[/\\]\d+\.py", "cell", text)
