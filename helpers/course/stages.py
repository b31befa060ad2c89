"""Who makes a stage that is missing or stale: its notebook, executed without a window."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from helpers.course import execute, expected
from helpers.course.progress import clock
from helpers.engine import artifacts
from helpers.profiles import Settings


def require(stage: str, settings: Settings) -> Path | str:
    """The folder of a stage that this notebook builds on, made first when missing or stale.

    A stage that is not there, or was made from other settings, data or parents, is made by its
    notebook, executed without a window; what that notebook needs is made in the same way. So is one
    that is damaged or that other code made, under `embedded`: `artifacts.reason_to_make`. For
    `base` and `classifier` it is the folder that ships with the course, the reader's own, the
    model trained from scratch, or a hub id, as the settings say.

    Raises:
        UserError: no such stage, a damaged one, or bad input met while making it.
        RuntimeError: the maker notebook failed.
    """
    artifacts.check_name(stage)
    if stage in artifacts.BASES:
        from helpers import scratch  # loads torch, which the command line can do without

        return scratch.require_base(stage, settings)
    reason = artifacts.reason_to_make(stage, settings)
    if reason:
        _make(stage, settings, reason)
        reason = artifacts.stale(stage, settings) or artifacts.damage(stage, settings)
        if reason:
            maker = artifacts.MAKERS[stage][0]
            raise RuntimeError(f"notebook {maker} ran, but stage {stage}: {reason}.")
    return Path(settings.artifacts) / stage


def expected_seconds(stem: str, settings: Settings) -> float | None:
    """How long a notebook took before: here under this profile, else where bounds were set."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        summary = json.loads((Path(settings.runs) / "summary.json").read_text(encoding="utf-8"))
        entry = summary["notebooks"][stem]
        if entry["status"] == "ok":
            return float(entry["seconds"])
    return expected.seconds(stem) if settings.name == "embedded" else None


def _make(stage: str, settings: Settings, reason: str) -> None:
    path = execute.find_notebook(artifacts.MAKERS[stage][0])
    seconds = expected_seconds(path.stem, settings)
    about = f"about {clock(seconds)}" if seconds else "time not known yet"
    print(f"Stage {stage} {reason}; making it with notebook {path.stem} ({about}).", flush=True)
    execute.execute_in_worker(
        path,
        out=Path(settings.runs) / path.name,
        parameters={
            "profile": artifacts.session["profile"] or settings.name,
            "overrides": dict(settings.overrides),
            "seed": settings.seed,
        },
        expected=seconds,
    )
