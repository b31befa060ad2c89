"""Which local file, or which hub id, the settings mean by each kind of rows."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from helpers.engine.tables import ENDINGS, form_of
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


def location(
    settings: Settings, kind: str, split: str
) -> tuple[list[Path] | None, set[str] | None]:
    """The local files with a split's rows (None: on the hub), and how the split is cut from them.

    The second value is None when the files are the split, else the set of held-out splits that
    have files of their own and therefore are not carved out of these.

    Raises:
        UserError: no such file, or a folder without a file for training.
    """
    source = source_of(settings, kind) or ""
    if source == "embedded":
        return [_embedded_file(settings, kind, split)], None
    path = Path(source).expanduser()
    try:
        is_file, is_dir = path.is_file(), path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        is_file = is_dir = False
    if is_file:
        return [path], set()
    if is_dir:
        own = {s: files for s in SPLITS if (files := split_files(path, s, f"data.{kind}"))}
        if "train" not in own and split not in own:
            raise UserError(
                f"data.{kind}: {source} holds no train file{_found_instead(path)}; name it train "
                f"with one of the endings {', '.join(ENDINGS)}.")
        if split in own and (split != "train" or set(own) == set(SPLITS)):
            return own[split], None
        return own["train"], set(own) - {"train"}
    if (source.startswith((".", "/", "~")) or form_of(source) or "/" not in source
            or "\\" in source or path.parent.is_dir() and path.parent != Path(".")):
        raise UserError(f"data.{kind}: {source} does not exist; give a file, a folder with "
                        "train and test files, or a hub id such as owner/name.")
    return None, None


NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"),
         "test": ("test", "testing")}


def split_files(folder: Path, split: str, what: str) -> list[Path]:
    """The files of a split in a folder: `train.csv`, or the parts `train-00000-of-00002.parquet`.

    Raises:
        UserError: two files that could each be the split, or a part that is missing.
    """
    whole: list[Path] = []
    parts: dict[tuple[str, int], dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        stem, _, ending = path.name.lower().partition(".")
        if not path.is_file() or form_of(path.name) is None or not ending:
            continue
        if stem in NAMES[split]:
            whole.append(path)
        elif (part := PART.fullmatch(stem)) and part[1] in NAMES[split]:
            parts.setdefault((ending, int(part[3])), {})[int(part[2])] = path
    if len(whole) + len(parts) > 1:
        names = [p.name for p in whole] + [p.name for of in parts.values() for p in of.values()]
        raise UserError(f"{what}: {folder} holds {names[0]} and {names[1]}, of which only one can "
                        f"be the split {split}; move the other away.")
    for (_, count), found in parts.items():
        if missing := set(range(count)) - set(found):
            raise UserError(f"{what}: {folder} holds {len(found)} of the {count} parts of the "
                            f"split {split}; part {min(missing)} is missing, fetch it.")
        return [found[number] for number in sorted(found)]
    return whole


PART = re.compile(r"([a-z]+)-(\d+)-of-(\d+)")


def _found_instead(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.is_file() or p.is_dir())
    if "dataset_info.json" in names or "dataset_dict.json" in names:
        return (", but what datasets.save_to_disk wrote (write it with to_parquet or to_json "
                "instead)")
    return f" (it holds {', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""


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
    return next((p for e in ENDINGS if (p := folder / f"{split}{e}").is_file()), None)


def fingerprint(settings: Settings) -> str:
    """Hash of the training data the settings name, so that a stage knows when it is stale."""
    digest = hashlib.sha256()
    for kind in ("reviews", "preferences", "demonstrations"):
        source = source_of(settings, kind)
        paths = None if source is None else location(settings, kind, "train")[0]
        digest.update(f"{kind}:".encode())
        for path in paths or ():
            digest.update(path.read_bytes())
        if not paths:
            digest.update(str(source).encode())
    return digest.hexdigest()[:16]


def names_of_parts(paths: list[Path]) -> list[str]:
    """What tells files apart: their names, with the folders that differ before them."""
    depth = 1
    while depth < max(len(path.parts) for path in paths) and len(
            {path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]
