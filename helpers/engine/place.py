"""Where and in which precision a computation runs, and what makes it fast there."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from helpers.errors import UserError
from helpers.profiles import Settings

Made = TypeVar("Made")


def gpu_or_cpu() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device(settings: Settings) -> torch.device:
    """The device the settings ask for; `auto` is the GPU where there is one.

    Raises:
        UserError: a GPU is asked for and none is there.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but PyTorch sees no GPU; set device=cpu, or in Colab "
                        "choose Runtime > Change runtime type > GPU.")
    if settings.device == "auto":
        return gpu_or_cpu()
    return torch.device(settings.device)


def dtype(settings: Settings) -> torch.dtype:
    """Type of weights that do not train: `auto` is bfloat16 on a GPU that has it, else float32.

    Weights that train are always float32: a step of 1e-5 is lost in what bfloat16 rounds away.
    """
    if settings.dtype == "auto":
        good = device(settings).type != "cpu" and native_bfloat16()
        return torch.bfloat16 if good else torch.float32
    return getattr(torch, settings.dtype)


def native_bfloat16() -> bool:
    """Whether the GPU multiplies in bfloat16 itself.

    PyTorch also counts GPUs that emulate it, such as the T4, where it is slower than float32.
    """
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def fast_bfloat16(kind: str = "cpu") -> bool:
    """Whether bfloat16 matrix products beat float32 on this machine, found out by trying.

    A CPU with bf16 instructions is several times faster with them, one without is slower, so that
    any threshold between decides the same way each time.
    """
    if kind != "cpu":
        return native_bfloat16()

    matrices = {dtype: torch.ones(512, 512, dtype=dtype)
                for dtype in (torch.bfloat16, torch.float32)}
    fastest = dict.fromkeys(matrices, float("inf"))
    for _ in range(10):  # in turn and each for a few milliseconds, so that other work beside this
        for dtype, a in matrices.items():  # process does not decide
            start = time.perf_counter()
            a @ a
            fastest[dtype] = min(fastest[dtype], time.perf_counter() - start)
    return fastest[torch.bfloat16] < 0.7 * fastest[torch.float32]


def mixed_precision(settings: Settings) -> bool:
    """Whether training multiplies in bfloat16: the profile allows it and it is faster here."""
    return settings.mixed_precision == "auto" and fast_bfloat16(device(settings).type)


def inner_model(model: Any) -> Any:
    """The model of transformers itself, whatever wraps it: data parallelism, PEFT, both or none."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: nn.Module) -> Any:
    """What makes hidden states of tokens, below any head and inside any wrapper.

    Not `getattr(model, model.base_model_prefix)`: of a PEFT model that is LoRA's own `model` where
    the prefix is `model` (Llama, Qwen 2, Mistral, Gemma), which gives no hidden states.
    """
    inner = inner_model(model)
    return getattr(inner, inner.base_model_prefix)


def forget_precision() -> None:
    """Let the next `Accelerator()` of this process choose its precision itself.

    Accelerate keeps one state for the process: without this, float32 after a Trainer with `bf16`
    would quietly be bfloat16. Process groups stay as they are. transformers' Trainer does it too.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()


def processes() -> int:
    """How many processes train together, as `torchrun` and `accelerate launch` tell each."""
    return int(os.environ.get("WORLD_SIZE", 1))


def once(make: Callable[[], Made]) -> Made:
    """What `make` returns, called in the first process only; the others wait for it.

    For what is written to a place that all processes share. Models that are cut among processes
    (FSDP, DeepSpeed's stage 3) are not put together here.

    Raises:
        UserError: in the others, when the first process could not make it.
    """
    if processes() == 1:
        return make()
    import torch.distributed as dist

    if not dist.is_initialized():  # no trainer has let the processes meet
        dist.init_process_group()
    told: list[Any] = [None, None]
    try:
        if dist.get_rank() == 0:
            told = [make(), None]
    except BaseException as error:
        told = [None, str(error) or type(error).__name__]
        raise
    finally:
        dist.broadcast_object_list(told)
    made, fault = told
    if fault is not None:
        raise UserError(f"the first process could not write what all wait for: {fault}")
    return made


def one_device(arguments: Any) -> Any:
    """Arguments of a Trainer that stays on one GPU; more take more processes.

    With several GPUs in one process it would copy the model to each at every step (DataParallel),
    and copies do not know the forward pass that was given to the model they were made from.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def share_of_batch(batch_size: int, name: str) -> int:
    """Rows of a batch that fall to each process, so that any number of them trains the same.

    Raises:
        UserError: they cannot be shared evenly.
    """
    if batch_size % processes():
        raise UserError(f"{name} is {batch_size}, and {processes()} processes cannot share that "
                        "evenly; make it a multiple of their number.")
    return batch_size // processes()


def plain_attention(model: nn.Module) -> nn.Module:
    """On a CPU, compute attention by plain matrix products; elsewhere change nothing.

    PyTorch 2.13's fused attention has no fast bfloat16 there: its backward pass took three times
    as long as in float32, and ate up what all other layers had gained.
    """
    inner = inner_model(model)
    if next(inner.parameters()).device.type == "cpu" and hasattr(inner, "set_attn_implementation"):
        inner.set_attn_implementation("eager")
    return model


def without_wrappers(model: nn.Module) -> nn.Module:
    """Give a model that Trainer has trained its own `forward` back, in place.

    Trainer and TRL leave theirs on the model: it would go on computing in mixed precision, and a
    second training, which takes it for prepared, would not.
    """
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)
    return model


@cache
def reuse_memory() -> bool:
    """Ask glibc to keep freed memory instead of giving every large tensor back to the system.

    Training on a CPU frees and takes the same tens of megabytes at every step, and a third of the
    time went into fresh pages. Returns whether it was set: elsewhere than on Linux it cannot be,
    and where the reader has set how glibc gives memory back (`MALLOC_MMAP_THRESHOLD_`), it is left.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # noqa: N806, the names of mallopt(3)
        return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False
