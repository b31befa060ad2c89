"""Stages on disk: the folder that a training notebook leaves, and whether it can still be used.

A stage is written beside its place and renamed into it, so a killed run leaves either the whole
stage or none. `stage.json` says what it was made from; `stale` compares that with what is asked
for now.
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
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers.engine import sources
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profiles import Settings, flatten

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
          "ppo_trl.best_of", "ppo_trl.scratch.*", "models.gradient_checkpointing", "models.candidates"),
    "base": ("models.scratch.classifier_*",),
    "sft": ("models.classifier", "models.scratch.classifier_*", "models.imdb_policy",
            "models.reward_base"),
    "reward_model": ("models.classifier", "models.scratch.classifier_*", "models.imdb_policy"),
    "ppo": ("models.classifier", "models.scratch.classifier_*", "models.imdb_policy"),
    "ppo_trl": ("models.reward_base",),
}
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")
HASHED = ("*.safetensors", "config.json", "adapter_config.json", "tokenizer.json",
          "tokenizer_config.json", "vocab.*", "merges.txt")


# What `course.start` says of this process's run, and each stage that it makes repeats.
session: dict[str, Any] = {"profile": None, "started": time.monotonic()}


def save_stage(
    stage: str,
    settings: Settings,
    model: Any = None,
    tokenizer: Any = None,
    metrics: dict[str, float] | None = None,
    parents: list[str] | tuple[str, ...] = (),
) -> Path:
    """Write a finished stage to `artifacts/<profile>/<stage>` in one step.

    Of several processes that train together all call it; the first one writes, the others wait.

    Args:
        stage: one of `sft`, `reward_model`, `ppo`, `ppo_trl`, `base`, `classifier`.
        model, tokenizer: anything with `save_pretrained(folder)`. A language model with adapters,
            and a reward model with adapters on weights that are not quantised, is stored whole, in
            float32 with its adapters merged, so that whatever comes next builds on it as on any
            other. A quantised reward model is stored as adapters and head, beside the name of its
            backbone.
        metrics: kept in `stage.json`.
        parents: names of the stages this one was made from; their hashes are kept, so that a
            stage whose parent was trained anew counts as stale.

    Returns:
        The stage's folder.
    """
    from helpers.engine import place  # loads torch, which whoever reads stages may do without

    check_name(stage)
    return place.once(lambda: _write(stage, settings, model, tokenizer, metrics, parents))


def _write(
    stage: str, settings: Settings, model: Any, tokenizer: Any, metrics: dict[str, float] | None,
    parents: Sequence[str],
) -> Path:
    from helpers.engine import adapters

    target = Path(settings.artifacts) / stage
    with write_aside(target) as folder:
        if model is not None:
            adapters.stored_as(model).save_pretrained(str(folder))
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
            "made_with": {} if model is None else adapters.made_with(model),
            "versions": _versions(),
            "metrics": dict(metrics or {}),
            "made_by": os.environ.get("RLHF_NOTEBOOK"),
            "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - session["started"], 1),
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


def stage_info(stage: str, settings: Settings) -> dict[str, Any] | None:
    """What `stage.json` says, or None when the stage is not there or not readable."""
    try:
        text = (Path(settings.artifacts) / stage / "stage.json").read_text(encoding="utf-8")
        info = json.loads(text)
    except (OSError, ValueError):
        return None
    return info if isinstance(info, dict) else None


def stale(stage: str, settings: Settings) -> str | None:
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


def relevant_settings(stage: str, settings: Settings) -> dict[str, Any]:
    """The settings a stage depends on, by dotted key, with a hash of its training files."""
    flat = flatten(settings.as_dict())
    keep = MAKERS[stage][1]
    drop = (*NOT_MADE_OF["*"], *NOT_MADE_OF.get(stage, ()))
    chosen = {
        key: value for key, value in flat.items()
        if any(fnmatch(key, k) for k in keep) and not any(fnmatch(key, d) for d in drop)
    }
    for key in [k for k in chosen if k.startswith("models.scratch.")]:
        part = "classifier" if key.startswith("models.scratch.classifier_") else "base"
        if base_origin(part, settings) != "scratch":
            del chosen[key]  # not read at all
    if "models.quantised" in chosen:  # what counts is whether this stage's own model is
        part = "reward" if stage == "reward_model" else "policy"
        del chosen["models.quantised"]
        if not settings.models.quantises(part):
            chosen["models.quantise"] = "none"
    if not chosen.get("models.chat_template", True):
        del chosen["models.chat_template"]  # stages made before there was one are as good
    chosen["seed"] = settings.seed
    chosen["data.files"] = sources.fingerprint(settings)
    return dict(sorted(chosen.items()))


def fingerprint(stage: str, settings: Settings) -> str:
    """A hash of `relevant_settings`."""
    text = json.dumps(relevant_settings(stage, settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_hash(stage: str, settings: Settings) -> str | None:
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


def base_origin(stage: str, settings: Settings) -> str:
    """`embedded`, `scratch`, a folder or a hub id: where `base` or `classifier` comes from.

    Real reviews are judged by a classifier of real reviews, so there `embedded` means `scratch`.
    """
    source = getattr(settings.models, stage)
    if stage == "classifier" and source == "embedded" and settings.data.reviews != "embedded":
        return "scratch"
    return source


def base_place(stage: str, settings: Settings) -> Path | str:
    """Where `base` or `classifier` lives: a folder, or a hub id as text."""
    source = base_origin(stage, settings)
    if source == "embedded":
        return ROOT / "data" / "models" / stage
    if source == "scratch":
        return Path(settings.artifacts) / stage
    return Path(source) if os.path.exists(source) else source


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def check_name(stage: str) -> None:
    if stage not in MAKERS:
        raise UserError(f"no stage is called {stage!r}; there are {', '.join(MAKERS)}.")
