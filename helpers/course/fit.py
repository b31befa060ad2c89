"""Whether a profile fits a machine: its memory plan, what it downloads, and what would not work.

Nothing is fetched; the hub is asked for the sizes of files where it can be reached.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from helpers.course import plan
from helpers.course.doctor import cpu_bf16
from helpers.course.session import hub_ids
from helpers.engine import hub
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profiles import SOURCES, Settings, flatten, load_profile

GB = 2**30
LIBRARIES = 1 * GB  # what Python, PyTorch and transformers hold before a model is loaded
# Multiplications and additions a second and core that training reached on CPUs like those the
# course was measured on (140 tokens of a 135 M model on two cores); for days, not for minutes.
CPU_SPEED = 5e10
PATIENCE = 24  # hours; a profile that would take longer on a CPU needs a GPU
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")  # what transformers reads



@dataclass(frozen=True)
class Machine:
    """What counts of a machine; bytes, and what is free of memory and disk."""

    memory: int
    disk: int
    cores: int
    gpu: str | None = None
    gpu_memory: int = 0
    gpu_bfloat16: bool = False  # multiplied by the GPU itself, not emulated
    cpu_bfloat16: bool = False
    packages: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Download:
    """One hub id: bytes in all and bytes that are not here yet; None where they are not known."""

    source: str
    bytes: int | None
    missing: int | None
    told_by: str  # hub | counted | nobody
    problem: str = ""


def this_machine() -> Machine:
    """Look at the machine this runs on."""
    import psutil
    import torch

    from helpers.engine.place import native_bfloat16

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return Machine(
        psutil.virtual_memory().available, shutil.disk_usage(ROOT).free, cores or 1,
        gpu and gpu.name, gpu.total_memory if gpu else 0, native_bfloat16(), cpu_bf16(),
        frozenset(name for name in ("bitsandbytes", "peft") if importlib.util.find_spec(name)))


def downloads(settings: Settings) -> list[Download]:
    """What the profile takes from the hub, models first; without the hub, models by their shape."""
    values = flatten(settings.as_dict())
    datasets = {values[key] for key in SOURCES if key.startswith("data.")}
    ids = sorted(set(hub_ids(settings)), key=lambda source: (source in datasets, source))
    return [_asked(source, source in datasets) for source in ids]


def _asked(source: str, dataset: bool) -> Download:
    repo, folder, revision, split = hub.parse(source) or hub.HubId(source, None, None, None)
    counted = None if dataset else plan.model_bytes_on_disk(repo)
    unknown = Download(source, counted, counted, "nobody" if counted is None else "counted")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        return unknown
    disable_progress_bars()
    patterns: Any = ([f"{folder}/*"] if folder else None) if dataset else list(MODEL_FILES)
    try:
        files: Any = snapshot_download(
            repo, repo_type="dataset" if dataset else "model", revision=revision,
            allow_patterns=patterns, dry_run=True, etag_timeout=5)
    except Exception as error:  # offline, a hub that is down: a dozen kinds for one fact
        cause = error.__cause__ or error
        if isinstance(cause, GatedRepoError):
            return replace(unknown, problem="is gated: accept its terms on its page of the hub and "
                           "log in with `hf auth login`")
        if isinstance(cause, RepositoryNotFoundError):
            return Download(source, None, None, "hub", "is not on the hub, or is private")
        return unknown
    names, problem = [file.filename for file in files], ""
    if not dataset:
        if not any(name.endswith(".safetensors") for name in names):
            problem = ("has no weights in .safetensors files; pickled ones, which can run any "
                       "code, are not opened")
        files = [file for file in files if "/" not in file.filename]
    elif split and any(split in name for name in names):
        files = [file for file in files if split in file.filename]
    return Download(source, sum(file.file_size for file in files),
                    sum(file.file_size for file in files if file.will_download), "hub", problem)


def on_gpu(settings: Settings, machine: Machine) -> bool:
    """Whether the profile would train on the GPU there."""
    return settings.device != "cpu" and machine.gpu is not None


def precision(settings: Settings, machine: Machine) -> dict[str, bool]:
    """`half`, `autocast` and `on_cpu` as `plan.plan` takes them."""
    gpu = on_gpu(settings, machine)
    return {"half": gpu and machine.gpu_bfloat16, "on_cpu": not gpu,
            "autocast": machine.gpu_bfloat16 if gpu else machine.cpu_bfloat16}


def would_not_work(
    settings: Settings, machine: Machine, found: Sequence[Download]
) -> tuple[list[str], list[str]]:
    """What keeps the profile from running on a machine, and what only limits it; sentences."""
    broken, limits = [], []
    gpu, name = on_gpu(settings, machine), settings.name
    if settings.device == "cuda" and not gpu:
        broken.append(f"the profile {name} asks for a GPU (device: cuda), and there is none.")
    if settings.models.quantise != "none" and "bitsandbytes" not in machine.packages:
        broken.append(f"the profile {name} quantises ({settings.models.quantise}), and "
                      "bitsandbytes is not installed: `pip install bitsandbytes`.")
    if settings.models.lora and "peft" not in machine.packages:
        broken.append(f"the profile {name} trains adapters, and peft is not installed: "
                      "`pip install peft`.")
    _memory(settings, machine, broken, limits)
    if gpu and not machine.gpu_bfloat16:
        if settings.dtype == "bfloat16":
            broken.append(f"{machine.gpu} has no bfloat16 of its own: take dtype=auto, which is "
                          "float32 there.")
        else:
            limits.append(f"{machine.gpu} has no bfloat16 of its own: weights and products stay in "
                          "float32.")
    missing = sum(d.missing or 0 for d in found)
    stages = plan.disk_bytes(settings)
    if missing + stages > machine.disk:
        broken.append(
            f"{missing / GB:.1f} GB of downloads and {stages / GB:.1f} GB of stages and "
            f"checkpoints do not fit the {machine.disk / GB:.1f} GB that are free on the disk; "
            "HF_HOME moves the downloads, --out DIR the stages.")
    broken += [f"{d.source} {d.problem}." for d in found if d.problem]
    return broken, limits


def _memory(
    settings: Settings, machine: Machine, broken: list[str], limits: list[str]
) -> None:
    gpu = on_gpu(settings, machine)
    if not gpu and settings.device != "cuda":
        hours = sum(plan.work(settings).values()) / (CPU_SPEED * machine.cores) / 3600
        if hours > PATIENCE:
            broken.append(
                f"the profile {settings.name} needs a GPU: on {machine.cores} cores training would "
                f"take about {hours / 24:.0f} days.")
        elif hours > 1:
            limits.append(f"on {machine.cores} cores training takes about {hours:.0f} hours.")
    room = plan.USABLE * machine.gpu_memory if gpu else machine.memory - LIBRARIES
    where = f"{machine.gpu}" if gpu else "the memory that is free here"
    how = precision(settings, machine)
    for stage in plan.STAGES:
        needed = plan.peak(plan.plan(settings, stage, **how))
        if needed > room:
            broken.append(
                f"stage {stage} needs {needed / GB:.1f} GB, and {where} has "
                f"{max(0, room) / GB:.1f} for it; smaller batches or lengths, "
                "models.gradient_checkpointing, models.lora or models.quantise need less.")


def report(settings: Settings, machine: Machine, found: Sequence[Download]) -> list[str]:
    """The plan against the machine and the downloads, as lines to print."""
    how = precision(settings, machine)
    place = f"{machine.gpu}, {machine.gpu_memory / GB:.0f} GB" if on_gpu(settings, machine) else (
        f"CPU, {machine.cores} cores, {machine.memory / GB:.1f} GB free")
    half = settings.dtype == "bfloat16" or (settings.dtype == "auto" and how["half"])
    cast = settings.mixed_precision == "auto" and how["autocast"]
    lines = [f"Profile      {settings.name} on {place}",
             f"Precision    frozen weights {'bfloat16' if half else 'float32'}, trained weights "
             f"float32, products {'bfloat16' if cast else 'float32'}",
             "Memory       GB at the longest rows; the peak is the fullest moment's sum"]
    for stage in plan.STAGES:
        parts = plan.plan(settings, stage, **how)
        sums = plan.at(parts)
        fullest = max(sums, key=lambda moment: sums[moment])
        lines.append(f"  {stage:<17} {sums[fullest] / GB:>6.2f}  at its peak "
                     f"({plan.SAYS[fullest]})")
        for model in dict.fromkeys(part.model for part in parts):
            told = ", ".join(f"{part.what} {part.bytes / GB:.2f}" for part in parts
                             if part.model == model and part.bytes >= GB / 100)
            lines += textwrap.wrap(f"{model}: {told or 'less than 0.01'}", 98,
                                   initial_indent=" " * 16, subsequent_indent=" " * 18)
    lines.append("Downloads    bytes")
    for d in found:
        size = "?" if d.bytes is None else f"{d.bytes:,}"
        more = {"hub": "" if d.missing == d.bytes or d.missing is None else
                f" ({d.missing:,} of them are not here yet)",
                "counted": " (weights, counted from the shape: the hub was not asked)",
                "nobody": " (not known without the hub)"}[d.told_by]
        lines.append(f"  {d.source:<52} {size:>16}{more}")
    if found:
        unknown = sum(d.missing is None for d in found)
        lines.append(f"  {'to be fetched':<52} {sum(d.missing or 0 for d in found):>16,}"
                     + (f" and what {unknown} of unknown size take" if unknown else ""))
    else:
        lines.append("  none")
    lines.append(f"Disk         {plan.disk_bytes(settings) / GB:.1f} GB of stages and checkpoints, "
                 f"{machine.disk / GB:.1f} GB free")
    return lines


def fit(profile: str, overrides: dict[str, Any] | None = None) -> int:
    """Print how a profile fits this machine; 1 where it would not run, else 0.

    Raises:
        UserError: unknown profile or key, or a value that cannot be meant.
    """
    settings = load_profile(profile, overrides)
    return check(settings, this_machine(), downloads(settings))


def check(settings: Settings, machine: Machine, found: Sequence[Download]) -> int:
    """Print the report and what would not work, as `fit` does on this machine."""
    try:
        lines = report(settings, machine, found)
        broken, limits = would_not_work(settings, machine, found)
    except UserError as error:
        print(f"MISSING  {error}")
        return 1
    print("\n".join(lines), end="\n\n")
    for text in broken:
        print(f"WOULD NOT WORK  {text}")
    for text in limits:
        print(f"limit    {text}")
    print(f"The profile {settings.name} would not run here." if broken else
          f"The profile {settings.name} fits this machine.")
    return 1 if broken else 0
