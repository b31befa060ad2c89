"""Stages: the folder each training notebook leaves, and who makes it again when it is missing.

A stage is written beside its place and renamed into it, so a killed run leaves either the whole
stage or none. `stage.json` says what it was made from; `require` compares that with what is asked
for now and has the maker notebook run again when the two differ.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers.errors import UserError

# stage: (number of the notebook that makes it, settings it depends on)
MAKERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "base": ("", ("data.*", "models.base", "models.scratch.*")),
    "classifier": ("", ("data.reviews", "data.review_limit", "models.scratch.classifier_*")),
    "sft": ("03", ("dtype", "data.*", "models.*", "sft.*")),
    "reward_model": ("04", ("dtype", "data.*", "models.*", "sft.*", "reward.*")),
    "ppo": ("05", ("dtype", "data.*", "models.*", "sft.*", "reward.*", "ppo.*")),
    "ppo_trl": ("06", ("dtype", "data.*", "models.*", "ppo_trl.*")),
}
BASES = ("base", "classifier")  # made by a function, where they are made at all
# What changes how a stage is judged, or what only another stage reads, does not make it stale.
NOT_MADE_OF = {
    "*": ("data.root", "*.eval_rows", "*.eval_pairs", "*.eval_prompts", "*.report_to",
          "ppo_trl.best_of", "ppo_trl.scratch.*"),
    "base": ("models.scratch.classifier_*",),
    "sft": ("models.classifier", "models.scratch.classifier_*", "models.imdb_policy",
            "models.reward_base", "models.quantise"),
    "reward_model": ("models.classifier", "models.scratch.classifier_*", "models.imdb_policy"),
    "ppo": ("models.classifier", "models.scratch.classifier_*", "models.imdb_policy"),
    "ppo_trl": ("models.reward_base", "models.quantise"),
}
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")
HASHED = ("*.safetensors", "config.json", "adapter_config.json", "tokenizer.json",
          "tokenizer_config.json", "vocab.*", "merges.txt")


def save_stage(
    stage: str,
    settings,
    model=None,
    tokenizer=None,
    metrics: dict[str, float] | None = None,
    parents: list[str] | tuple[str, ...] = (),
) -> Path:
    """Write a finished stage to `artifacts/<profile>/<stage>` in one step.

    Args:
        stage: one of `sft`, `reward_model`, `ppo`, `ppo_trl`, `base`, `classifier`.
        model, tokenizer: anything with `save_pretrained(folder)`.
        metrics: kept in `stage.json`.
        parents: names of the stages this one was made from; their hashes are kept, so that a
            stage whose parent was trained anew counts as stale.

    Returns:
        The stage's folder.
    """
    _check_name(stage)
    target = Path(settings.artifacts) / stage
    with write_aside(target) as folder:
        if model is not None:
            model.save_pretrained(str(folder))
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
        info = {
            "stage": stage,
            "profile": settings.name,
            "seed": settings.seed,
            "hash": folder_hash(folder),
            "parents": {name: stage_hash(name, settings) for name in parents},
            "fingerprint": fingerprint(stage, settings),
            "settings": relevant_settings(stage, settings),
            "versions": _versions(),
            "metrics": dict(metrics or {}),
            "made_by": os.environ.get("RLHF_NOTEBOOK"),
            "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - _session()["started"], 1),
        }
        text = json.dumps(info, indent=2, default=float) + "\n"
        (folder / "stage.json").write_text(text, encoding="utf-8")
    return target


@contextlib.contextmanager
def write_aside(target: Path) -> Iterator[Path]:
    """Give a folder beside `target` to write into, and put it in its place when all went well."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    folder = target.parent / f".{target.name}.{os.getpid()}.part"
    old = target.parent / f".{target.name}.{os.getpid()}.old"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        if target.exists():
            target.rename(old)
        folder.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what killed runs left beside a stage."""
    import psutil

    for left in target.parent.glob(f".{target.name}.*.*"):
        pid = left.name.split(".")[-2]
        if left.suffix in (".part", ".old") and pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def stage_info(stage: str, settings) -> dict[str, Any] | None:
    """What `stage.json` says, or None when the stage is not there or not readable."""
    try:
        text = (Path(settings.artifacts) / stage / "stage.json").read_text(encoding="utf-8")
        info = json.loads(text)
    except (OSError, ValueError):
        return None
    return info if isinstance(info, dict) else None


def require(stage: str, settings) -> Path | str:
    """The folder of a stage that this notebook builds on, made first when missing or stale.

    A stage that is not there, or was made from other settings, data or parents, is made by its
    notebook, executed without a window; what that notebook needs is made in the same way. For
    `base` and `classifier` it is the folder that ships with the course, the reader's own, the
    model trained from scratch, or a hub id, as the settings say.

    Raises:
        UserError: no such stage, or bad input met while making it.
        RuntimeError: the maker notebook failed.
    """
    _check_name(stage)
    if stage in BASES:
        return _require_base(stage, settings)
    reason = stale(stage, settings)
    if reason:
        _make(stage, settings, reason)
        reason = stale(stage, settings)
        if reason:
            raise RuntimeError(f"notebook {MAKERS[stage][0]} ran, but stage {stage}: {reason}.")
    return Path(settings.artifacts) / stage


def stale(stage: str, settings) -> str | None:
    """Why a stage has to be made, or None when it can be used as it is."""
    info = stage_info(stage, settings)
    if info is None:
        return "does not exist yet"
    if info.get("fingerprint") != fingerprint(stage, settings):
        old, new = info.get("settings", {}), relevant_settings(stage, settings)
        changed = [f"{k} was {old.get(k)!r}, is {new.get(k)!r}"
                   for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        return "was made from other settings: " + "; ".join(changed[:3])
    for parent, known in info.get("parents", {}).items():
        now = stage_hash(parent, settings)
        if now is not None and known is not None and now != known:
            return f"was made from another {parent}"
    return None


def relevant_settings(stage: str, settings) -> dict[str, Any]:
    """The settings a stage depends on, by dotted key, with a hash of its training files."""
    from helpers.profiles import flatten

    flat = flatten(settings.as_dict())
    keep = MAKERS[stage][1]
    drop = (*NOT_MADE_OF["*"], *NOT_MADE_OF.get(stage, ()))
    chosen = {
        key: value for key, value in flat.items()
        if any(fnmatch(key, k) for k in keep) and not any(fnmatch(key, d) for d in drop)
    }
    for key in [k for k in chosen if k.startswith("models.scratch.")]:
        part = "classifier" if key.startswith("models.scratch.classifier_") else "base"
        if base_source(part, settings) != "scratch":
            del chosen[key]  # not read at all
    chosen["seed"] = settings.seed
    files = _files(settings)
    if files is not None:
        chosen["data.files"] = files
    return dict(sorted(chosen.items()))


def fingerprint(stage: str, settings) -> str:
    """A hash of `relevant_settings`."""
    text = json.dumps(relevant_settings(stage, settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _files(settings) -> str | None:
    try:
        from helpers import data
    except ImportError:
        return None
    return str(data.fingerprint(settings)) if hasattr(data, "fingerprint") else None


def stage_hash(stage: str, settings) -> str | None:
    """Hash of a stage's weights and tokenizer; a hub id stands for itself; None if missing."""
    if stage in BASES:
        place = base_place(stage, settings)
        return place if isinstance(place, str) else folder_hash(place)
    info = stage_info(stage, settings)
    return info.get("hash") if info else None


def folder_hash(folder: Path) -> str | None:
    """SHA-256 over names and bytes of the model and tokenizer files of a folder."""
    names = sorted({p.name for pattern in HASHED for p in Path(folder).glob(pattern)})
    if not names:
        return None
    total = hashlib.sha256()
    for name in names:
        total.update(name.encode())
        with open(Path(folder) / name, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def base_source(stage: str, settings) -> str:
    """`embedded`, `scratch`, a folder or a hub id: where `base` or `classifier` comes from.

    Real reviews are judged by a classifier of real reviews, so there `embedded` means `scratch`.
    """
    source = getattr(settings.models, stage)
    if stage == "classifier" and source == "embedded" and settings.data.reviews != "embedded":
        return "scratch"
    return source


def base_place(stage: str, settings) -> Path | str:
    """Where `base` or `classifier` lives: a folder, or a hub id as text."""
    from helpers.profiles import ROOT

    source = base_source(stage, settings)
    if source == "embedded":
        return ROOT / "data" / "models" / stage
    if source == "scratch":
        return Path(settings.artifacts) / stage
    return Path(source) if Path(source).exists() else source


def _require_base(stage: str, settings) -> Path | str:
    place, source = base_place(stage, settings), base_source(stage, settings)
    if source == "scratch":
        reason = stale(stage, settings)
        if reason:
            print(f"Stage {stage} {reason}; training it from scratch.", flush=True)
            _train_base(stage, settings)
    elif source == "embedded" and not (place / "config.json").is_file():
        raise UserError(
            f"data/models/{stage} is missing from this copy of the course; "
            "restore it with `git checkout data/models` or make it with `python data/build.py`."
        )
    return place


def _train_base(stage: str, settings) -> None:
    import torch

    from helpers import data, models

    scratch = settings.models.scratch
    reviews = data.load_reviews(settings, "train")
    with torch.random.fork_rng():  # what comes after must not depend on whether this was needed
        if stage == "base":
            texts = [r["text"] for r in reviews] + data.load_dialogues(settings, "train")
            held_out = [r["text"] for r in data.load_reviews(settings, "test", 200)]
            model, tokenizer, metrics = models.train_from_scratch(
                texts, scratch, settings.seed, validation=held_out)
        else:
            model, tokenizer, metrics = models.train_classifier(
                reviews, data.load_reviews(settings, "test"), scratch, settings.seed)
    save_stage(stage, settings, model, tokenizer, metrics)


def expected_seconds(stem: str, settings) -> float | None:
    """How long a notebook took before: here under this profile, else where bounds were set."""
    from helpers.course import bounds

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        summary = json.loads((Path(settings.runs) / "summary.json").read_text(encoding="utf-8"))
        entry = summary["notebooks"][stem]
        if entry["status"] == "ok":
            return float(entry["seconds"])
    return bounds.seconds(stem) if settings.name == "embedded" else None


def _make(stage: str, settings, reason: str) -> None:
    from helpers.course import execute

    path = execute.find_notebook(MAKERS[stage][0])
    seconds = expected_seconds(path.stem, settings)
    about = f"about {execute.clock(seconds)}" if seconds else "time not known yet"
    print(f"Stage {stage} {reason}; making it with notebook {path.stem} ({about}).", flush=True)
    execute.execute_in_worker(
        path,
        out=Path(settings.runs) / path.name,
        parameters={
            "profile": _session()["profile"] or settings.name,
            "overrides": dict(settings.overrides),
            "seed": settings.seed,
        },
        expected=seconds,
    )


def _session() -> dict[str, Any]:
    notebook = sys.modules.get("helpers.course.notebook")
    return notebook.session if notebook else {"profile": None, "started": time.monotonic()}


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _check_name(stage: str) -> None:
    if stage not in MAKERS:
        raise UserError(f"no stage is called {stage!r}; there are {', '.join(MAKERS)}.")
