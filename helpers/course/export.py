"""`python -m helpers export`: a stage as a folder that others load, with a card filled from it.

The folder holds what `from_pretrained` reads, the settings the answers are drawn with, the form of
a dialogue as a chat template, so that a server asks the model as it was trained to be asked, and a
model card (https://huggingface.co/docs/hub/model-cards). Policies are stored with their adapters
merged, so what is exported is a whole model: an adapter by itself is to be had only of a quantised
reward model, which is stored so.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers.engine import artifacts
from helpers.engine.dialogues import MARKERS
from helpers.errors import UserError, saving
from helpers.profiles import Settings

TASKS = {"reward_model": "text-classification", "classifier": "text-classification"}
NAMES = {
    "sft": "A language model fine-tuned on demonstrations", "ppo": "A policy trained by PPO on a "
    "learned reward", "ppo_trl": "A policy trained by TRL's PPO to continue reviews gladly",
    "dpo": "A policy trained by DPO on pairs of answers", "rloo": "A policy trained by RLOO on a "
    "learned reward", "best_of_n_sft": "A policy that imitates its own best answers by a learned "
    "reward",
    "session": "A policy trained by DPO on the labels of one session",
    "reward_model": "A reward model: one number for a prompt with its response, higher is better"}
# The `Human:` and `Assistant:` turns of `engine.dialogues.render_prompt`, in Jinja.
TEMPLATE = (
    "{%- set speakers = " + json.dumps(MARKERS) + " -%}"
    "{%- for message in messages -%}"
    "{{- speakers[message['role']] + ' ' + message['content'] | trim -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- speakers['assistant'] -}}{%- endif -%}")


def export(settings: Settings, stage: str, folder: str | Path) -> Path:
    """Write a stage, its template and its card to a new folder, whole or not at all.

    Returns:
        the folder.

    Raises:
        UserError: the stage is not there or is damaged; the folder is there already, or cannot be
            written.
    """
    artifacts.check_name(stage)
    info, target = artifacts.stage_info(stage, settings), Path(folder)
    if info is None:
        maker = artifacts.MAKERS[stage][0]
        raise UserError(f"stage {stage} is not there under profile {settings.name}; make it with "
                        f"`python -m helpers run --notebooks {maker} --profile {settings.name}`.")
    if fault := artifacts.damage(stage, settings):
        raise UserError(f"stage {stage} {fault}; it is not exported.")
    with _new(target) as aside:
        for path in (Path(settings.artifacts) / stage).iterdir():
            if path.name != "stage.json":
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, aside / path.name)
        if stage not in TASKS:
            _ask_as_trained(aside, settings, stage)
        (aside / "README.md").write_text(card(info), encoding="utf-8")
    return target


def export_model(
    settings: Settings, model: Any, tokenizer: Any, folder: str | Path, name: str,
    metrics: dict[str, float], parents: Sequence[str] = (),
) -> Path:
    """The same for a policy in memory that is no stage: its adapters, if it has some, merged.

    Args:
        name: what the card calls it; one of `NAMES`, or another.
        metrics, parents: what was measured of it, and the stages it was made from, for the card.

    Returns:
        the folder.

    Raises:
        UserError: the folder is there already, or cannot be written.
    """
    from helpers.engine import adapters  # loads torch, which exporting a stage does without

    target = Path(folder)
    with _new(target) as aside:
        adapters.stored_as(model).save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        _ask_as_trained(aside, settings, name)
        (aside / "README.md").write_text(card({
            "stage": name, "profile": settings.name, "seed": settings.seed, "metrics": metrics,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "hash": artifacts.folder_hash(aside), "settings": {"models.base": settings.models.base},
            "parents": {stage: artifacts.stage_hash(stage, settings) for stage in parents}}),
            encoding="utf-8")
    return target


@contextlib.contextmanager
def _new(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target`, which must not be there, when all went well."""
    if target.exists():
        raise UserError(f"{target} is there already; give the name of a new folder.")
    with saving(target, "give a folder you may write to"), artifacts.write_aside(target) as aside:
        yield aside


def _ask_as_trained(folder: Path, settings: Settings, stage: str) -> None:
    """Add how answers are drawn, and how a dialogue is written, where the folder does not say."""
    section = settings.ppo_trl if stage == "ppo_trl" else settings.ppo
    path = folder / "generation_config.json"
    drawn = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    drawn |= {"do_sample": True, "temperature": section.temperature, "top_k": 0, "top_p": 1.0,
              "max_new_tokens": section.max_new_tokens}
    path.write_text(json.dumps(drawn, indent=2) + "\n", encoding="utf-8")
    template = folder / "chat_template.jinja"
    if stage != "ppo_trl" and not template.is_file():  # which continues texts
        template.write_text(TEMPLATE, encoding="utf-8")


def card(info: dict[str, Any]) -> str:
    """The model card of a stage.

    Args:
        info: what `stage.json` says.
    """
    stage, settings = info["stage"], info.get("settings", {})
    base = settings.get("models.base", "")
    head = ["---", "library_name: transformers",
            f"pipeline_tag: {TASKS.get(stage, 'text-generation')}", "tags: [rlhf]"]
    if "/" in base and not Path(base).exists():
        head.append(f"base_model: {base.partition('@')[0]}")
    parents = ", ".join(f"`{name}` ({hash_})" for name, hash_ in info.get("parents", {}).items())
    versions = ", ".join(f"{name} {v}" for name, v in info.get("versions", {}).items())
    lines = [
        *head, "---", "", f"# {stage}", "",
        f"{NAMES.get(stage, 'A model')}, made by the course's profile `{info['profile']}` with "
        f"seed {info['seed']} at {info['made_at']}.", "",
        f"- Base model: `{base}`", f"- Made from the stages: {parents or 'none'}",
        f"- Weights and tokenizer: {info['hash']} (the first digits of their SHA-256)",
        *([f"- Libraries: {versions}"] if versions else []), "", "## Measured when it was made", "",
        *_table(("measure", "value"), info.get("metrics", {})), "",
        "## Settings that made it", "", *_table(("setting", "value"), settings), "",
        "## What it is not", "",
        "A model of a course, made to show how it was trained. Nobody has examined it for safety; "
        "the rewards it was trained on are a proxy of what people want.", ""]
    return "\n".join(lines)


def _table(head: tuple[str, str], rows: dict[str, Any]) -> list[str]:
    if not rows:
        return ["Nothing was recorded."]
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value
             for name, value in rows.items()}
    return [f"| {head[0]} | {head[1]} |", "|---|---|",
            *(f"| {name} | {value} |" for name, value in shown.items())]
