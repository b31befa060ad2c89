"""A model's folder, looked at before anything is made of it: what is wrong is one sentence.

The library would tell most of it in a traceback, some in a warning that nobody reads (a missing
tensor is drawn at random), and some not at all (a tokenizer without tokens, weights that are NaN).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from helpers.engine import hub
from helpers.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AGAIN = "fetch or copy the folder again"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
TOKENIZERS = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json")
HEADS = {"classifier", "score"}
FEW = 64  # tokens that people add to a tokenizer without making room for them in the model


def refuse(what: str, source: str | Path, reason: str, remedy: str) -> NoReturn:
    """Raise the one sentence about a folder or hub id."""
    raise UserError(f"the {what} {source} cannot be used: {reason}; {remedy}.")


def check(
    source: str | Path, what: str, weights: bool = True, tokenizer: bool = True
) -> None:
    """Look at the files of a folder; whatever is no folder here is left to the hub's client.

    Args:
        source: a folder or a hub id.
        what: "language model" or the like, for messages.
        weights: whether it must hold a model, or a tokenizer only.
        tokenizer: whether it must hold one; not where the caller has it from elsewhere.

    Raises:
        UserError: naming the folder, the file, what is wrong with it and what helps.
    """
    folder = Path(source)
    if not os.path.exists(folder):  # not Path.exists, which raises for names that are too long
        found = hub.parse(str(source))
        if found is None or found.folder or found.split:
            raise UserError(f"the {what} {source} could not be loaded: there is no such folder; "
                            "give a folder made by the course or a hub id such as owner/name.")
        return
    if not folder.is_dir():
        refuse(what, source, "it is a file", f"give the folder that holds it ({folder.parent})")
    adapters = (folder / "adapter_config.json").is_file()
    if weights and adapters:
        _check_adapters(folder, what)
    elif weights or (folder / "config.json").is_file():
        _check_config(folder, what)
    if weights and not adapters:
        _check_weights(folder, what, "model")
    if tokenizer and not any(next(folder.glob(pattern), None) for pattern in TOKENIZERS):
        refuse(what, source, "it holds no tokenizer (tokenizer.json)",
               "copy the tokenizer's files into it from where its model comes from")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).is_file():
            _object_in(folder / name, what)


def _object_in(path: Path, what: str) -> dict[str, Any]:
    """The JSON object that a file holds."""
    try:
        content = path.read_bytes()
        found = json.loads(content)
    except OSError as error:
        refuse(what, path.parent, f"{path.name} cannot be read ({error.strerror})",
               "look at its permissions")
    except (ValueError, RecursionError) as error:
        _refuse_pointer(path, what, content)
        where = str(error).partition(": ")[2] or error
        refuse(what, path.parent, f"{path.name} is not JSON ({where})", AGAIN)
    if not isinstance(found, dict):
        refuse(what, path.parent, f"{path.name} holds a {type(found).__name__}, not an object",
               AGAIN)
    return found


def _refuse_pointer(path: Path, what: str, start: bytes) -> None:
    if start.startswith(b"version https://git-lfs"):
        refuse(what, path.parent, f"{path.name} is a pointer of Git LFS, not the file itself",
               "run `git lfs pull` there")


def _check_config(folder: Path, what: str) -> None:
    from transformers import CONFIG_MAPPING

    if not (folder / "config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
        refuse(what, folder, "it has no config.json",
               f"give one of the folders in it ({', '.join(inside[:3])})" if inside
               else "give a folder that save_pretrained wrote")
    config = _object_in(folder / "config.json", what)
    kind, made = config.get("model_type"), str((config.get("architectures") or [""])[0])
    if what == "language model" and made.endswith("ForSequenceClassification"):
        refuse(what, folder, f"it is a classifier or a reward model ({made} in config.json)",
               "give the model that it was made from")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return
    if config.get("auto_map"):
        refuse(what, folder, "it brings code of its own (auto_map in config.json), which is not "
               "run here", "choose a model whose architecture transformers has")
    refuse(what, folder, f"config.json has the model_type {kind!r}, which transformers does not "
           "know" if kind else "config.json names no model_type",
           "choose another model, or mend config.json")


def _check_adapters(folder: Path, what: str) -> None:
    """Adapters, and the backbone that they belong on."""
    config = _object_in(folder / "adapter_config.json", what)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not (os.path.exists(base) or hub.parse(base)):
        refuse(what, folder, f"it holds adapters for the model {base!r} (adapter_config.json), "
               "which is not there", "put that model back, or name its new place in that file")
    if os.path.exists(base):
        check(base, f"base of the {what}")
    names = _check_weights(folder, what, "adapter_model")
    parts = set(config.get("modules_to_save") or ())
    heads = parts & HEADS  # PEFT names all that a classifier may have, and stores the one it has
    for any_of in [{part} for part in sorted(parts - heads)] + [heads] * bool(heads):
        if not any(part in name for part in any_of for name in names):
            refuse(what, folder, "adapter_model.safetensors lacks the trained "
                   f"{' or '.join(sorted(any_of))} that adapter_config.json names", AGAIN)


def _check_weights(folder: Path, what: str, stem: str) -> set[str]:
    """Names of all tensors in the folder's safetensors files, which must be whole."""
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return _tensors(single, what)
    if index.is_file():
        places = _object_in(index, what).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
            refuse(what, folder, f"{index.name} has no weight_map of tensors and files", AGAIN)
        shards = sorted(set(places.values()))
        if lost := [name for name in shards if not (folder / name).is_file()]:
            refuse(what, folder, f"{index.name} names {lost[0]}, which is not there "
                   f"({len(lost)} of {len(shards)} files are missing)", AGAIN)
        held = {name: _tensors(folder / name, what) for name in shards}
        if lost := [name for name, place in places.items() if name not in held[place]]:
            refuse(what, folder, f"{places[lost[0]]} lacks the tensor {lost[0]} that {index.name} "
                   "says it holds", AGAIN)
        return set(places)
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if pickled:
        refuse(what, folder, f"its weights are only there as {pickled[0]}, and pickled files can "
               "run any code when they are opened", "where you trust them, convert them once with "
               "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)")
    refuse(what, folder, f"it has no {single.name}"
           + (f", nor an index of {others[0]}" if others else ""), AGAIN)


def _tensors(path: Path, what: str) -> set[str]:
    """Names of the tensors in one file; its header is read and compared with its length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        size = path.stat().st_size
        with path.open("rb") as file:
            _refuse_pointer(path, what, file.read(64))
        refuse(what, path.parent, f"{path.name} is empty" if not size else
               f"{path.name} ({size} bytes) is cut off or damaged ({error})", AGAIN)


def check_tensors(
    model: Any, info: dict[str, Any], what: str, source: str | Path, new_head: bool = False
) -> None:
    """Raise UserError where a loaded model is not the one that was stored.

    Args:
        info: what `from_pretrained(…, output_loading_info=True)` says.
        new_head: whether the head may be missing, for one that is drawn now.
    """
    backbone = f"{model.base_model_prefix}."
    misfits = [entry for entry in info["mismatched_keys"]
               if not new_head or entry[0].startswith(backbone)]
    if misfits:
        name, stored, made = sorted(misfits, key=lambda entry: entry[0])[0]
        refuse(what, source, f"its tensor {name} is stored as {tuple(stored)}, and config.json "
               f"asks for {tuple(made)}", "the two are of different models: " + AGAIN)
    missing = sorted(name for name in info["missing_keys"]
                     if not new_head or name.startswith(backbone))
    if missing and not any(name.startswith(backbone) for name in missing):
        refuse(what, source, f"it has no trained head ({missing[0]} is not among its weights)",
               f"give a folder or hub id of a {what}")
    if missing:
        refuse(what, source, f"{len(missing)} of its tensors are not there ({missing[0]}), and "
               "would be drawn at random", AGAIN)
    check_finite(model, what, source)


def check_finite(model: Any, what: str, source: str | Path) -> None:
    """Raise UserError where a weight is not a number, or is infinite."""
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and tensor.numel() and tensor.device.type != "meta":
            low, high = (float(end) for end in tensor.detach().aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                refuse(what, source, f"its tensor {name} holds values that are not finite",
                       "training broke there: go back to an earlier checkpoint, or " + AGAIN)


def check_words(
    tokenizer: PreTrainedTokenizerBase, what: str, source: str | Path, ends: bool = True
) -> None:
    """Raise UserError where a tokenizer knows no words, or no end of text where one is needed."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if not set(tokenizer.get_vocab().values()) - special - set(tokenizer.all_special_ids):
        refuse(what, source, "its tokenizer has an empty vocabulary",
               "copy tokenizer.json from where its model comes from")
    if ends and tokenizer.eos_token_id is None:
        refuse(what, source, "its tokenizer has no end-of-text token, so that no response could "
               'ever end', 'name it as "eos_token" in tokenizer_config.json')


def check_fit(
    tokenizer: PreTrainedTokenizerBase, rows: int, what: str, source: str | Path
) -> None:
    """Raise UserError where a tokenizer cannot be that of a model with `rows` embeddings.

    A few tokens that somebody added may have no row yet; a model may have rows to spare, but not as
    many again as the tokenizer has tokens.
    """
    vocabulary, added = tokenizer.get_vocab(), set(tokenizer.added_tokens_decoder)
    beyond = [index for index in vocabulary.values() if index >= rows]
    if len(beyond) > FEW or not added.issuperset(beyond):
        refuse(what, source, f"its tokenizer has {highest(vocabulary.values())} ids and the model "
               f"{rows} embeddings", "they do not belong together: copy the tokenizer's files from "
               "where the model comes from")
    if rows > 2 * highest(vocabulary.values()):
        refuse(what, source, f"its tokenizer has {len(vocabulary)} tokens and the model {rows} "
               "embeddings", "they do not belong together: copy the tokenizer's files from where "
               "the model comes from")


def highest(ids: Collection[int]) -> int:
    """One more than the largest id: so many embeddings a vocabulary needs."""
    return max(ids, default=-1) + 1
