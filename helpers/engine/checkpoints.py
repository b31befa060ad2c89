"""Checkpoints of a training run: all that is needed to go on as if it had not stopped.

A checkpoint is written aside and renamed, so what a killed run leaves is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from helpers.errors import UserError, saving


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates stands."""
    return folder / f"update-{step:06d}"


def newest(folder: Path | None) -> Path | None:
    """The newest complete checkpoint in a folder, or None."""
    if folder is None or not folder.is_dir():
        return None
    return max(folder.glob("update-*[0-9]"), default=None)


def newest_of_trainer(folder: str | Path) -> Path | None:
    """The newest checkpoint of transformers' `Trainer` in a folder that was written to its end."""
    whole = [path.parent for path in Path(folder).glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def write(folder: Path, step: int, tensors: Mapping[str, torch.Tensor],
          optimiser: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint and remove the one before it.

    tensors: what training changes, by name; optimiser: its `state_dict()`; state: what else a run
    needs to go on, for JSON, with its settings under `config`.

    Raises:
        UserError: the disk is full, or the place cannot be written; the one before it stays.
    """
    with saving(folder, "give a checkpoint_dir that you may write to"):
        _write(folder, step, tensors, optimiser, state)


def _write(folder: Path, step: int, tensors: Mapping[str, torch.Tensor],
           optimiser: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    target = place(folder, step)
    aside = target.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(dict(tensors), aside / "trained.safetensors")
    torch.save(optimiser, aside / "optimiser.pt")
    (aside / "state.json").write_text(json.dumps(state), encoding="utf-8")
    earlier = newest(folder)
    if target.exists():
        shutil.rmtree(target)
        earlier = None
    os.replace(aside, target)
    if earlier is not None and earlier != target:
        shutil.rmtree(earlier)


def read(folder: Path, config: Mapping[str, Any], may_differ: Sequence[str] = ()
         ) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Tensors, the optimiser's state and the run's state, as `write` took them.

    Raises:
        UserError: the checkpoint was written with another `config`, except for `may_differ`.
    """
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    for name, value in config.items():
        if state["config"].get(name) != value and name not in may_differ:
            raise UserError(
                f"{folder} was written with {name} = {state['config'].get(name)!r} and this run "
                f"has {value!r}; resume with the same settings or use another checkpoint_dir.")
    optimiser = torch.load(folder / "optimiser.pt", weights_only=True)
    return load_file(folder / "trained.safetensors"), optimiser, state
