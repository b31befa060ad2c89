"""Stages on disk: the folder that a training notebook leaves, and whether it can still be used.

A stage is written beside its place and renamed into it, so a killed run leaves either the whole
stage or none. `stage.json` says what it was made from and what its files are: `stale` compares
settings and parents with what is asked for now, `damage` the files with those that were saved, and
`aged` the code and the libraries with those of today.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import errno
import functools
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

from helpers.engine import sources
from helpers.errors import UserError, saving
from helpers.paths import ROOT, sweep
from helpers.profiles import MINUTES, Settings, flatten

EVERY = ("dtype", "mixed_precision", "data.*", "models.*")
# stage: (number of the notebook that makes it, settings it depends on)
MAKERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "base": ("", ("data.*", "models.base", "models.scratch.*")),
    "classifier": ("", ("data.reviews", "data.review_limit", "models.scratch.classifier_*")),
    "sft": ("03", (*EVERY, "sft.*")),
    "reward_model": ("04", (*EVERY, "sft.*", "reward.*")),
    "ppo": ("05", (*EVERY, "sft.*", "reward.*", "ppo.*")),
    "ppo_trl": ("06", (*EVERY, "ppo_trl.*")),
    "best_of_n_sft": ("08", (*EVERY, "sft.*", "reward.*", "ppo.*", "preference.*")),
    "dpo": ("08", (*EVERY, "sft.*", "reward.*", "ppo.*", "preference.*")),
    "rloo": ("08", (*EVERY, "sft.*", "reward.*", "ppo.*", "preference.*")),
}
BASES = ("base", "classifier")  # made by a function, where they are made at all
# What changes how a stage is judged, or what only another stage reads, does not make it stale.
NOT_MADE_OF = {
    "*": ("data.root", "*.eval_rows", "*.eval_pairs", "*.eval_prompts", "*.report_to",
          "ppo_trl.best_of", "ppo_trl.scratch.*", "models.gradient_checkpointing",
          "models.candidates", "models.judge", "*.checkpoint_every"),
    "base": ("models.scratch.classifier_*",),
    "sft": ("models.classifier", "models.scratch.classifier_*", "models.imdb_policy",
            "models.reward_base"),
    "reward_model": ("models.classifier", "models.scratch.classifier_*", "models.imdb_policy"),
    "ppo": ("models.classifier", "models.scratch.classifier_*", "models.imdb_policy"),
    "ppo_trl": ("models.reward_base",),
    **dict.fromkeys(("best_of_n_sft", "dpo", "rloo"), (
        "models.classifier", "models.scratch.classifier_*", "models.imdb_policy")),
}
# The modules whose code decides what is in a stage, below `helpers`.
COMMON = ("data", "models", "engine.adapters", "engine.dialogues", "engine.forms", "engine.heads",
          "engine.kinds", "engine.muon", "engine.rows", "engine.tokens")
JUDGED = ("generation", "reward.functions", "reward.model", "engine.packing", "engine.scale",
          "engine.token_logprobs", "engine.class_logits")
MADE_BY: dict[str, tuple[str, ...]] = {
    "base": ("scratch", *COMMON),
    "classifier": ("scratch", *COMMON),
    "sft": ("sft", *COMMON),
    "reward_model": ("reward.pairs", "reward.training", "reward.measures", *JUDGED, *COMMON),
    "ppo": ("ppo", "ppo_trainer", *JUDGED, *COMMON),
    "ppo_trl": ("ppo", "ppo_trainer", "trl_adapter", *JUDGED, *COMMON),
    "best_of_n_sft": ("preference", "ppo", "ppo_trainer", *JUDGED, *COMMON),
    "dpo": ("preference", "ppo", "ppo_trainer", *JUDGED, *COMMON),
    "rloo": ("preference", "ppo", "ppo_trainer", *JUDGED, *COMMON),
}
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")
# Files that loading a stage reads; one that was not saved with it is damage too.
READ = ("*.safetensors", "*.json", "*.bin", "*.model", "*.jinja", "merges.txt", "vocab.*")
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
        stage: one of `sft`, `reward_model`, `ppo`, `ppo_trl`, `best_of_n_sft`, `dpo`, `rloo`,
            `base`, `classifier`.
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


def unfinished(stage: str, settings: Settings, parents: Sequence[str] = ()) -> Path:
    """Where a training that is to become `stage` keeps what it needs to go on after a stop.

    The folder belongs to these settings, these parents and this code: with others training begins
    anew, in another folder. `save_stage` removes all of a stage's. Under `embedded` and `quick`,
    where training takes minutes, it begins anew every time.
    """
    from helpers.engine import place

    check_name(stage)
    made_of = [fingerprint(stage, settings), code_digests(stage),
               {name: stage_hash(name, settings) for name in parents}]
    text = json.dumps(made_of, sort_keys=True)
    folder = _unfinished(stage, settings) / hashlib.sha256(text.encode()).hexdigest()[:16]
    if settings.name in MINUTES:
        place.once(lambda: shutil.rmtree(folder, ignore_errors=True))
    return folder


def _unfinished(stage: str, settings: Settings) -> Path:
    return Path(settings.artifacts) / "unfinished" / stage


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
            "files": _files(folder),
            "parents": {name: stage_hash(name, settings) for name in parents},
            "fingerprint": fingerprint(stage, settings),
            "settings": relevant_settings(stage, settings),
            "made_with": {} if model is None else adapters.made_with(model),
            "versions": _versions(),
            "code": code_digests(stage),
            "metrics": dict(metrics or {}),
            "made_by": os.environ.get("RLHF_NOTEBOOK"),
            "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - session["started"], 1),
        }
        text = json.dumps(info, indent=2, default=float) + "\n"
        (folder / "stage.json").write_text(text, encoding="utf-8")
    shutil.rmtree(_unfinished(stage, settings), ignore_errors=True)
    return target


@contextlib.contextmanager
def write_aside(target: Path) -> Iterator[Path]:
    """Give a folder beside `target` to write into, and put it in its place when all went well.

    Of two that write the same folder at once both finish, and the later one is what stays.

    Raises:
        UserError: the disk is full, or the place cannot be written; what was there stays.
    """
    target = Path(target)
    folder = _beside(target, "part")
    with saving(target, "run again with --out FOLDER, a folder that you may write to"):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, f".{target.name}.*.*")
        folder.mkdir()
        try:
            yield folder
            _replace(folder, target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _beside(target: Path, kind: str) -> Path:
    """A name that nobody has, with this process's number in it, by which `sweep` knows it."""
    return target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.{os.getpid()}.{kind}"


def _replace(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`; what stands there is put aside first, and then removed."""
    taken = (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.ENOENT)
    for attempt in range(50):
        old = _beside(target, "old")
        with contextlib.suppress(FileNotFoundError):  # another has just put it aside
            target.rename(old)
        try:
            folder.rename(target)
        except OSError as error:
            if old.exists() and not target.exists():
                old.rename(target)
            if error.errno not in taken or attempt == 49 or not folder.exists():
                raise
            shutil.rmtree(old, ignore_errors=True)  # another's stage stands there by now
            time.sleep(0.01 * (1 + attempt % 5))  # another's rename came between the two
        else:
            shutil.rmtree(old, ignore_errors=True)
            return


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
        if "files" not in info:  # saved before some of the settings were written down
            new = {key: value for key, value in new.items() if key in old}
        changed = [f"{k} was {old.get(k)!r}, is {new.get(k)!r}"
                   for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        if changed or "files" in info:
            return "was made from other settings: " + "; ".join(changed[:3])
    for parent, known in info.get("parents", {}).items():
        now = stage_hash(parent, settings)
        if now is not None and known is not None and now != known:
            return f"was made from another {parent}"
    return None


def damage(stage: str, settings: Settings) -> str | None:
    """Why a stage's files are not those that were saved, or None.

    A stage from before the digests were kept is held against the hash of its weights and tokenizer.
    """
    folder, info = Path(settings.artifacts) / stage, stage_info(stage, settings)
    if info is None:
        return None
    if info.get("stage", stage) != stage:
        return f"is stage {info['stage']} under another name"
    known = info.get("files")
    if not isinstance(known, dict):
        hash_ = info.get("hash")
        same = hash_ is None or hash_ == folder_hash(folder)
        return None if same else "is damaged: its weights or its tokenizer are not those saved"
    now = _files(folder)
    for name in sorted(known):
        if name not in now:
            return f"is damaged: {name} is missing"
        if now[name] != known[name]:
            return f"is damaged: {name} is not the file that was saved"
    more = [n for n in sorted(set(now) - set(known)) if any(fnmatch(n, kind) for kind in READ)]
    return f"is damaged: {more[0]} was not saved with it" if more else None


def aged(stage: str, settings: Settings) -> str | None:
    """What of the code and the libraries that made a stage has changed since, or None.

    Comments and docstrings do not count, nor does the last part of Python's version.
    """
    info = stage_info(stage, settings) or {}
    code, versions, changed = info.get("code"), info.get("versions"), []
    if isinstance(code, dict):
        now = code_digests(stage)
        modules = [name for name in sorted({*code, *now}) if code.get(name) != now.get(name)]
        if modules:
            files = ", ".join(f"helpers/{name.replace('.', '/')}.py" for name in modules[:3])
            changed.append(files + (f" and {len(modules) - 3} more" if modules[3:] else ""))
    if isinstance(code, dict) and isinstance(versions, dict):
        now = _versions()
        for name in sorted({*versions, *now}):
            parts = 2 if name == "python" else None
            old, new = (str(v.get(name)).split("+")[0].split(".")[:parts] for v in (versions, now))
            if old != new:
                changed.append(f"{name} {'.'.join(old)} in place of {'.'.join(new)}")
    return "was made by other code: " + "; ".join(changed[:3]) if changed else None


_said: set[str] = set()


def reason_to_make(stage: str, settings: Settings) -> str | None:
    """Why a stage has to be made now, or None when what is there is used.

    Whatever is to be replaced is moved aside first, to `<stage>.replaced`. A stage that other code
    or other libraries made is made anew under `embedded` and `quick`; under other profiles, where
    it may have cost hours, it is named and used.

    Raises:
        UserError: it is damaged, under another profile than those two.
    """
    folder, own = Path(settings.artifacts) / stage, settings.name not in MINUTES
    where = f"artifacts/{settings.name}/{stage}"
    broken = damage(stage, settings)
    if broken and own:
        raise UserError(f"stage {stage} {broken}. Bring the folder {where} back as it was, or move "
                        "it away to have it made anew.")
    reason, old = broken or stale(stage, settings), aged(stage, settings)
    if reason is None and old and not own:
        reason = old
    if reason is None:
        unverified = "files" not in (stage_info(stage, settings) or {})
        note = old or ("has no digest of its files and its code, so that it cannot be verified"
                       if unverified else None)
        if note and str(folder) not in _said:
            _said.add(str(folder))
            print(f"Stage {stage} {note}. It is used as it is; move the folder {where} away to "
                  "have it made anew.", flush=True)
    elif folder.exists():
        aside = folder.with_name(f"{stage}.replaced")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    return reason


def relevant_settings(stage: str, settings: Settings) -> dict[str, Any]:
    """The settings a stage depends on, by dotted key, with a hash of its training files."""
    flat = flatten(settings.as_dict())
    keep = MAKERS[stage][1]
    if stage == "ppo_trl" and settings.ppo_trl.reward == "reward_model":
        keep = (*keep, "sft.*", "reward.*")
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
    if chosen.get("data.demonstration_limit", 0) is None:
        del chosen["data.demonstration_limit"]  # as above
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
        total.update(_digest(Path(folder) / name))
    return total.hexdigest()[:16]


_digests: dict[tuple[str, int, int, int], bytes] = {}


def _digest(path: Path) -> bytes:
    """SHA-256 of a file, worked out once in a process while its size and times stay the same."""
    stat = path.stat()
    key = (os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if key not in _digests:
        with open(path, "rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").digest()
    return _digests[key]


def _files(folder: Path) -> dict[str, str]:
    """Of every file below a stage's folder but `stage.json`, by its name there, the SHA-256."""
    return {path.relative_to(folder).as_posix(): _digest(path).hex()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path != folder / "stage.json"}


@functools.cache
def _code_digest(path: Path) -> str:
    """Of a module's code: comments, docstrings and the form of its lines do not change it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                    and isinstance(first.value.value, str)):
                node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def code_digests(stage: str) -> dict[str, str]:
    """By the name of each module that decides what is in a stage, a digest of its code."""
    return {name: _code_digest(ROOT / "helpers" / f"{name.replace('.', '/')}.py")
            for name in sorted(MADE_BY[stage])}


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
