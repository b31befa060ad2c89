"""Execute one notebook through papermill, watching its cells, time and memory."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.course.progress import Bar
from helpers.errors import UserError, saving
from helpers.paths import ROOT, child_environment, sweep

SAMPLE_SECONDS = 0.2
EVENT = "@course "  # marks the lines a worker says about itself among whatever else it prints
ELSEWHERE = "give a folder that you may write to: --out FOLDER"
SHORT_OF_MEMORY = re.compile(r"^(MemoryError|OutOfMemoryError|DeadKernelError)\b|out of memory"
                             r"|[Cc]an(?:no|')t allocate memory|Unable to allocate \d")
FULL_DISK = re.compile(r"No space left on device|Disk quota exceeded|os error 28\b")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Result:
    """What one execution gave; `error` is None when it went well."""

    notebook: str
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None


def notebook_folder() -> Path:
    """Where the notebooks are: `notebooks/`, or what RLHF_NOTEBOOKS says (the tests do)."""
    return Path(os.environ.get("RLHF_NOTEBOOKS") or ROOT / "notebooks").resolve()


def notebooks() -> dict[str, Path]:
    """The course's notebooks by number, in order."""
    found = sorted(notebook_folder().glob("[0-9][0-9]_*.ipynb"))
    return {path.name[:2]: path for path in found}


def find_notebook(number: str) -> Path:
    """The notebook with this number ("3", "03" or its whole name)."""
    known = notebooks()
    text = str(number).strip().removesuffix(".ipynb")
    for key, path in known.items():
        if text == path.stem or (text.isdecimal() and int(text) == int(key)):
            return path
    there = ", ".join(known) or f"none in {notebook_folder().name}/"
    raise UserError(f"no notebook has the number {text!r}; there are {there}.")


def declared_parameters(path: Path) -> list[str]:
    """Names assigned in the cell tagged `parameters`."""
    for cell in read_notebook(path)["cells"]:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            tree = ast.parse("".join(cell["source"]))
            targets = [
                t for node in tree.body
                for t in (node.targets if isinstance(node, ast.Assign) else
                          [node.target] if isinstance(node, ast.AnnAssign) else [])
            ]
            return [t.id for t in targets if isinstance(t, ast.Name)]
    return []


def check_parameters(path: Path, names: list[str]) -> None:
    """Refuse parameters that a notebook does not declare; papermill would only warn."""
    known = declared_parameters(path)
    for name in names:
        if name not in known:
            raise UserError(
                f"notebook {path.stem} has no parameter {name!r}; "
                f"its parameters cell declares {', '.join(known) or 'none'}."
            )


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as plain data; a file that is none is a UserError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{Path(path).name} is not a valid notebook: {error}.") from error


def own_cells(content: dict[str, Any]) -> list[dict[str, Any]]:
    """A notebook's cells without the one that papermill adds for parameters."""
    return [cell for cell in content["cells"]
            if "injected-parameters" not in cell["metadata"].get("tags", [])]


def sources(content: dict[str, Any]) -> list[str]:
    """The text of each of a notebook's own cells."""
    return ["".join(cell["source"]) for cell in own_cells(content)]


def first_line(source: str | list[str]) -> str:
    """The first line of a cell that says something."""
    lines = "".join(source).splitlines()
    return next((line.strip() for line in lines if line.strip()), "")


def execute(
    path: Path,
    out: Path,
    parameters: dict[str, Any],
    on_cell: Callable[[int, int, str], None] | None = None,
) -> Result:
    """Execute a notebook in its own folder and store it, outputs and all, as `out`.

    Args:
        path: the notebook.
        out: where the executed copy goes; it is written cell by cell.
        parameters: values for the parameters cell; an undeclared name is an error.
        on_cell: called with (code cells begun, code cells in all, first line of the cell).

    Returns:
        Time, peak memory (resident, of the kernel and the processes it started), recorded
        metrics, and the error if a cell failed.
    """
    path, out = Path(path).resolve(), Path(out).resolve()
    check_parameters(path, list(parameters))
    result = Result(path.stem)
    metrics_file = out.parent / f".{path.stem}.metrics.{os.getpid()}.part"
    begun = time.monotonic()
    with saving(out, ELSEWHERE):
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out.parent, ".*.metrics.*.part")
        metrics_file.write_bytes(b"")
        try:
            with Memory() as memory:
                result.error = _papermill(path, out, parameters, on_cell, memory, str(metrics_file))
            result.peak_memory_mb = round(memory.peak / 2**20, 1)
            result.seconds = round(time.monotonic() - begun, 2)
            for line in metrics_file.read_text(encoding="utf-8").splitlines():
                result.metrics.update(json.loads(line))
        finally:
            metrics_file.unlink(missing_ok=True)
    return result


def hint(error: dict[str, Any]) -> str:
    """What to do about a cell that failed for want of memory or disk: a sentence, or nothing."""
    text = f"{error['kind']} {error['message']}"
    if SHORT_OF_MEMORY.search(text):
        return ("Memory ran out. Smaller batches need less (the profile's batch_size, "
                "micro_batch_size and max_length), and so does "
                "--set models.gradient_checkpointing=true; python -m helpers doctor --profile NAME "
                "says what each stage of a profile needs and what this machine has.")
    if FULL_DISK.search(text):
        return "The disk is full. Free some space, or run with --out FOLDER on another one."
    return ""


def _papermill(path, out, parameters, on_cell, memory, metrics_file) -> dict[str, Any] | None:
    import nbclient.exceptions
    import papermill
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.exceptions import PapermillExecutionError

    place = {"index": None, "cells": []}
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel first
    env = child_environment(
        RLHF_METRICS_FILE=metrics_file, RLHF_NOTEBOOK=path.stem,
        PYDEVD_DISABLE_FILE_VALIDATION="1",
        RLHF_NO_PROGRESS="1",  # nobody watches the bars inside
    )

    class CourseEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, start_timeout=120, **kwargs):
            client = PapermillNotebookClient(
                nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, timeout=None,
                log=logging.getLogger("papermill"), extra_arguments=["--log-level=CRITICAL"],
                shutdown_kernel="immediate",  # all is on disk; a polite end takes two seconds
            )
            place["cells"] = list(nb_man.nb.cells)  # papermill adds marker cells on error
            code = [i for i, cell in enumerate(nb_man.nb.cells) if cell.cell_type == "code"]
            begin = nb_man.cell_start

            def cell_start(cell, cell_index=None, **more):
                assert client.km is not None  # it has started
                memory.pid = getattr(client.km.provisioner, "pid", None)
                place["index"] = cell_index
                if cell_index in code and on_cell:
                    on_cell(code.index(cell_index) + 1, len(code), first_line(cell.source))
                begin(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            if on_cell:
                on_cell(0, len(code), "starting the kernel")
            return client.execute(env=env)

    papermill_engines.register("course", CourseEngine)
    # papermill formats its paths, so a brace in a folder's name has to be doubled
    source, target = (str(p).replace("{", "{{").replace("}", "}}") for p in (path, out))
    try:
        with _quiet_loggers():
            papermill.execute_notebook(
                source, target, parameters=parameters, engine_name="course", progress_bar=False,
                cwd=str(path.parent), autosave_cell_every=0,
            )
    except PapermillExecutionError as error:
        return _error(place, error.ename, error.evalue)
    except nbclient.exceptions.DeadKernelError:
        return _error(place, "DeadKernelError",
                      "the kernel died; the usual cause is that memory ran out")
    return None


def _error(place: dict[str, Any], kind: str, message: str) -> dict[str, Any]:
    cells, index = place["cells"], place["index"]
    source = cells[index].source if index is not None else ""
    number = sum(cell.cell_type == "code" for cell in cells[: (index or 0) + 1])
    injected = any("injected-parameters" in c.metadata.get("tags", []) for c in cells[: index or 0])
    return {
        "cell": number - injected,
        "line": first_line(source),
        "kind": kind,
        "message": ANSI.sub("", str(message)).strip(),
    }


@contextlib.contextmanager
def _quiet_loggers():
    import warnings

    loggers = [logging.getLogger(name) for name in ("papermill", "traitlets", "nbclient")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Memory:
    """Samples the resident memory of a process and its descendants in a thread; `peak` in bytes."""

    def __init__(self, pid: int | None = None, every: float = SAMPLE_SECONDS) -> None:
        self.pid, self.every = pid, every
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self.every):
            if self.pid is not None:
                self.peak = max(self.peak, tree_memory(self.pid))


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and all it started; 0 when it is gone."""
    import psutil

    try:
        top = psutil.Process(pid)
        family = [top, *top.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in family:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def execute_in_worker(
    path: Path, out: Path, parameters: dict[str, Any], expected: float | None = None
) -> None:
    """Execute a notebook in a process of its own, as a kernel has to, and show its progress.

    Raises:
        UserError: a cell met bad input.
        RuntimeError: a cell failed otherwise.
    """
    job = json.dumps({"path": str(path), "out": str(out), "parameters": parameters})
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.course.execute", job],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", errors="replace",
    )
    error: dict[str, Any] | None = {"kind": "RuntimeError", "message": "it ended without a word"}
    tail: list[str] = []
    assert process.stdout is not None  # a pipe
    try:
        with Bar(path.stem, expected) as bar:
            for line in process.stdout:
                if not line.startswith(EVENT):
                    tail = [*tail, line.rstrip()][-5:]
                    continue
                event = json.loads(line[len(EVENT):])
                if "cell" in event:
                    bar(*event["cell"])
                else:
                    error = event["error"]
        process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if error is None:
        return
    if error["kind"] == "UserError":
        raise UserError(error["message"])
    where = f" in code cell {error['cell']} (`{error['line']}`)" if "cell" in error else ""
    said = f" It said last: {' / '.join(tail)}" if tail and "cell" not in error else ""
    raise RuntimeError(f"notebook {path.stem} failed{where}: {error['kind']}: {error['message']}."
                       f"{said} {hint(error)}".rstrip())


def _worker(job: str) -> None:
    def say(**event: Any) -> None:
        print(EVENT + json.dumps(event), flush=True)

    spec = json.loads(job)
    try:
        result = execute(
            Path(spec["path"]), Path(spec["out"]), spec["parameters"],
            on_cell=lambda done, total, line: say(cell=[done, total, line]),
        )
        say(error=result.error)
    except UserError as error:
        say(error={"kind": "UserError", "message": str(error)})


if __name__ == "__main__":
    _worker(sys.argv[1])
