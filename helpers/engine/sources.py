"""Which local file, or which hub id, the settings mean by each kind of rows."""

from __future__ import annotations

import hashlib
from pathlib import Path

from helpers.engine.rows import EXTENSIONS
from helpers.errors import UserError
from helpers.paths import DATA
from helpers.profiles import Settings

SPLITS = ("train", "validation", "test")
OOD = "ood"  # of the embedded world's reviews and pairs: topics, films and clauses of its own


def demonstration_source(settings: Settings) -> str:
    """`embedded`, `preferences` (the chosen responses are imitated), a path or a hub id."""
    source = settings.data.demonstrations
    if source == "auto":
        return "embedded" if settings.data.preferences == "embedded" else "preferences"
    return source


def source_of(settings: Settings, kind: str) -> str | None:
    """What the settings name for a kind of rows; None for demonstrations taken from preferences."""
    if kind == "demonstrations":
        source = demonstration_source(settings)
        return None if source == "preferences" else source
    return getattr(settings.data, "preferences" if kind == "dialogues" else kind)


def location(settings: Settings, kind: str, split: str) -> tuple[Path | None, set[str] | None]:
    """The local file with a split's rows (None: on the hub), and how the split is cut from it.

    The second value is None when the file is the split, else the set of held-out splits that have
    a file of their own and therefore are not carved out of this one.
    """
    source = source_of(settings, kind) or ""
    if source == "embedded":
        return _embedded_file(settings, kind, split), None
    path = Path(source)
    if path.is_file():
        return path, set()
    if path.is_dir():
        own = {s for s in SPLITS if _own_file(path, s)}
        if "train" not in own and split not in own:
            raise UserError(f"data.{kind}: {source} holds no train file; name it train with one "
                            f"of the endings {', '.join(EXTENSIONS)}.")
        if split in own and (split != "train" or own == set(SPLITS)):
            return _own_file(path, split), None
        return _own_file(path, "train"), own - {"train"}
    if source.startswith((".", "/", "~")) or source.endswith(EXTENSIONS) or "/" not in source:
        raise UserError(f"data.{kind}: {source} does not exist; give a file, a folder with "
                        "train and test files, or a hub id such as owner/name.")
    return None, None


def _embedded_file(settings: Settings, kind: str, split: str) -> Path:
    root = settings.data.root
    if root != "embedded":
        if not Path(root).is_dir():
            raise UserError(f"data.root: the folder {root} does not exist; "
                            "make it with python data/build.py --split test --out FOLDER.")
        if path := _own_file(Path(root) / kind, split):
            return path
    path = _own_file(DATA / kind, split)
    if path is None:
        raise UserError(f"the embedded {kind} have no {split} file; make them with make data.")
    return path


def _own_file(folder: Path, split: str) -> Path | None:
    return next((p for e in EXTENSIONS if (p := folder / f"{split}{e}").is_file()), None)


def fingerprint(settings: Settings) -> str:
    """Hash of the training data the settings name, so that a stage knows when it is stale."""
    digest = hashlib.sha256()
    for kind in ("reviews", "preferences", "demonstrations"):
        source = source_of(settings, kind)
        path = None if source is None else location(settings, kind, "train")[0]
        digest.update(f"{kind}:".encode())
        digest.update(path.read_bytes() if path else str(source).encode())
    return digest.hexdigest()[:16]
