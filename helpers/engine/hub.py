"""The hub: what an id in the settings means, what is fetched for it, its errors in one sentence.

    owner/name[/folder][@revision][:split]     folder and split are of datasets only
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from helpers.errors import UserError, sentence

ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)((?:/[\w.-]+)*)(?:@([\w./-]+))?(?::([\w.-]+))?")
LONGEST = 96  # letters of owner/name that the hub allows
HELD_OUT = ("validation", "test")
TRIES, WAIT = 3, 2.0  # the client tries some requests again by itself; seconds, doubled each time
Result = TypeVar("Result")


class HubId(NamedTuple):
    """The parts of an id; None for what it does not say."""

    repo: str
    folder: str | None
    revision: str | None
    split: str | None


def parse(source: str) -> HubId | None:
    """The parts of a hub id, or None when the text is not of that form."""
    if (found := ID.fullmatch(source)) and len(found[1]) <= LONGEST:
        repo, folder, revision, split = found.groups()
        return HubId(repo, folder.lstrip("/") or None, revision, split)
    return None


def pretrained(source: str | Path) -> tuple[str, dict[str, Any]]:
    """What to give `from_pretrained` for a folder or a hub id: a name, and options.

    Code that a repository or a folder brings is never run, and nobody is asked whether it may.
    Weights that are only there as pickled files, which could run any, are refused before anything
    is fetched.

    Raises:
        UserError: no such model on the hub, or none that can be loaded so.
    """
    found = None if os.path.exists(source) else parse(str(source))
    if found is None:
        return str(source), {"trust_remote_code": False}
    if not _offline():
        try:
            _, names = _commit_and_files(found.repo, "model", found.revision)
        except Exception as error:  # of the dozen kinds that the hub's client raises
            raise UserError(refusal(error, source)) from error
        if not any(name.endswith(".safetensors") for name in names):
            pickled = next((n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt"))), None)
            raise UserError(
                f"{source} has no weights in .safetensors files"
                + (f", only pickled ones ({pickled}), which can run any code when they are opened"
                   if pickled else "")
                + f"; choose another model, or a revision that has them ({found.repo}@REVISION).")
    options = {"revision": found.revision} if found.revision else {}
    return found.repo, options | {"trust_remote_code": False}


def dataset_files(source: str, split: str, what: str) -> tuple[list[Path], str, set[str] | None]:
    """Fetch the files that hold a split of a hub dataset, and no others.

    Args:
        source: a hub id. Of the split it names, if it does, all splits are cut; `train_prefs` keeps
            a `test_prefs` that stands beside it.
        split: train, validation or test.
        what: the setting that names the source, for messages.

    Returns:
        The files, a name for messages, and None when they are the wanted split already, or the
        held-out splits that the dataset has of its own when the wanted one must be cut from these.

    Raises:
        UserError: naming the id and what helps.
    """
    found = parse(source)
    if found is None:
        raise UserError(f"{what}: {source!r} is neither a file nor a folder nor a hub id of the "
                        "form owner/name.")
    try:
        groups = _split_files(found)
        train = found.split or ("train" if "train" in groups else next(iter(groups)))
        if train not in groups or (len(groups) > 1 and not found.split and train != "train"):
            raise UserError(
                f"{what}: {found.repo} has no split {found.split or 'train'!r}; name one of its "
                f"splits behind a colon, as in {source.partition(':')[0]}:{next(iter(groups))}; "
                f"there are {', '.join(groups)}.")
        own = {name: twin for name in HELD_OUT if train.startswith("train")
               and (twin := name + train.removeprefix("train")) in groups}
        whole = split in own or (split == "train" and set(own) == set(HELD_OUT))
        chosen = own.get(split, train)
        paths = [_fetched(found, name) for name in groups[chosen]]
    except UserError:
        raise
    except Exception as error:  # the hub's client raises a dozen kinds for one fact: not to be had
        raise UserError(f"{what}: {refusal(error, source, 'dataset')}") from error
    return paths, f"{found.repo} ({chosen})", None if whole else set(own)


def refusal(error: BaseException, source: str | Path, kind: str = "model") -> str:
    """Why a hub id could not be loaded, and what to do about it, in one sentence."""
    found = parse(str(source)) or HubId(str(source), None, None, None)
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{found.repo}"
    kinds = {k.__name__ for cause in _causes(error) for k in type(cause).__mro__}
    status = _status(error)
    start = f"{source} could not be loaded from the hub: "
    if _offline() and kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError"}:
        return start + ("HF_HUB_OFFLINE is set and not all of its files were fetched before; unset "
                        "it, and run again where there is a network.")
    if "GatedRepoError" in kinds or "a gated" in str(error):
        return start + (f"access is granted by its owner; accept the terms at {page} and log in "
                        "with `hf auth login`.")
    if "RevisionNotFoundError" in kinds:
        return start + (f"it has no revision {found.revision!r}; check it at {page}/commits, or "
                        "leave it out.")
    if status == 429:
        return start + ("it was asked too often (429); wait a few minutes and run again; logged "
                        "in with `hf auth login` one may ask more often.")
    if status is not None and status >= 500:
        return start + f"the hub has a fault of its own ({status}); wait a while and run again."
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return start + (f"there is no {kind} of this name, or it is private; check the name at "
                        f"{page}, or log in with `hf auth login`.")
    if _passes(error):
        return start + ("it did not answer, or broke off; check the network and run again (what "
                        "has arrived is kept; with HF_HUB_OFFLINE=1 only that is used).")
    if "trust_remote_code" in str(error):
        return start + ("it brings code of its own (auto_map), which is not run here; choose a "
                        "model whose architecture transformers has.")
    return start + f"{sentence(error)}."


def patiently(act: Callable[[], Result]) -> Result:
    """Do it again, up to `TRIES` times in all, while what stands in the way may pass."""
    for attempt in range(TRIES - 1):
        try:
            return act()
        except Exception as error:
            if not _passes(error):
                raise
            time.sleep(WAIT * 2**attempt)
    return act()


def _passes(error: BaseException) -> bool:
    """Too many requests, a fault of the server, no answer, or a download that broke off."""
    kinds = {k.__name__ for cause in _causes(error) for k in type(cause).__mro__}
    status = _status(error)
    if status is not None or "OfflineModeIsEnabled" in kinds:
        return status in (408, 429) or (status or 0) >= 500
    return bool(kinds & {"TransportError", "ConnectionError", "TimeoutError"}) or any(
        "Consistency check failed" in str(cause) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The server's answer that an error goes back to."""
    codes = (getattr(getattr(e, "response", None), "status_code", None) for e in _causes(error))
    return next((code for code in codes if isinstance(code, int)), None)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@cache
def _commit_and_files(repo: str, kind: str, revision: str | None) -> tuple[str, tuple[str, ...]]:
    """What a revision means, and the names of its files: the first question to the hub."""
    from huggingface_hub import HfApi, constants

    info: Any = patiently(lambda: HfApi().repo_info(
        repo, repo_type=kind, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT))
    return info.sha, tuple(file.rfilename for file in info.siblings)


@cache
def _split_files(found: HubId) -> dict[str, list[str]]:
    """Names of the files of each split, as `load_dataset` would group them; nothing is fetched.

    They are kept beside the files, for times without a network: by then the cache holds some of
    the files only, which would make other splits.
    """
    from datasets import load_dataset_builder
    from huggingface_hub import constants

    name = "--".join(("splits", found.revision or "main", found.folder or "")).replace("/", "--")
    folder = f"datasets--{found.repo.replace('/', '--')}"
    kept = Path(constants.HF_HUB_CACHE, folder, f"{name}.json")
    if _offline() and kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    commit, _ = _commit_and_files(found.repo, "dataset", found.revision)
    builder = patiently(lambda: load_dataset_builder(
        found.repo, data_dir=found.folder, revision=commit))
    if not builder.config.data_files:
        raise ValueError("it holds no files that datasets can read")
    start = f"hf://datasets/{found.repo}@{commit}/"
    groups = {str(split): [str(name).removeprefix(start) for name in names]
              for split, names in builder.config.data_files.items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(groups), encoding="utf-8")
    return groups


def _fetched(found: HubId, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(patiently(lambda: hf_hub_download(
        found.repo, name, repo_type="dataset", revision=found.revision)))
