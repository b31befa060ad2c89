"""A pretended GPU: tensors that carry their values on the CPU and refuse what CUDA refuses.

    def test_something(gpu):          # the fixture below, imported by the test
        model.to(gpu)                 # a device of its own, "gpu:0"
        model(torch.tensor([[1]]))    # RuntimeError: … found gpu:0 and cpu

PyTorch lets a backend of its own be written in Python (`privateuseone`). Here each tensor of it
wraps a tensor of the CPU; an operation looks at the devices of what it was given, refuses or goes
on with the values. It finds the tensor that stayed behind. It does not replace a GPU: nothing
here can run out of memory, be slow, wait for a kernel or round as a GPU does, there is no second
one, `torch.cuda` and bitsandbytes do not know it, and a generator of its own cannot be made.

What CUDA allows besides tensors of one device, and so is allowed here:

- copies between devices: `to`, `cpu`, `copy_`;
- a CPU tensor without dimensions as a number in pointwise operations, unless it is written to;
- CPU indices into a tensor of the device (`x[cpu_index]`, `x[cpu_mask] = …`), not the other way;
- `item`, `tolist`, `bool`, `int` and `float` of a tensor of the device.

Forbidden is all else that mixes devices (`cat`, `gather`, `embedding`, `masked_fill` with a mask
of the CPU …), `numpy()` and `np.asarray` of a tensor of the device, and random numbers there from
a generator of the CPU. PyTorch's `FakeTensor`, which knows the same rules and no values, is what
`test_rehearsal.py` compares with.
"""

import contextlib
import copy
import functools
import os
from collections.abc import Iterator

import pytest
import torch
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "gpu"
_active = False  # the backend stays registered for the process; it is there for the fixture alone

COPIES = {"copy_", "_to_copy", "_copy_from", "_foreach_copy_"}
NUMBER_LAST = {"fill", "fill_", "masked_fill", "masked_fill_", "index_fill", "index_fill_"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index",
            "_unsafe_index_put"}


class _Module:
    """What PyTorch asks of `torch.gpu`."""

    def is_available(self) -> bool:
        return _active

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return int(_active)

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Hook(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return _active

    def has_primary_context(self, index: int) -> bool:
        return _active

    def is_built(self) -> bool:
        return True


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module(), hook=_Hook())
GPU = torch.device(NAME, 0)


class OnGPU(torch.Tensor):
    """A tensor that says it is on the device; `value` holds its numbers, on the CPU."""

    value: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value):
        return torch.Tensor._make_wrapper_subclass(
            cls, value.size(), strides=value.stride(), storage_offset=value.storage_offset(),
            dtype=value.dtype, device=GPU)

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f"OnGPU({self.value!r})"

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other):  # PyTorch copies what it knows: shape, dtype, not the attribute
        if not isinstance(other, OnGPU):
            raise RuntimeError("incompatible tensor type: data of a tensor on another device")
        torch.Tensor.data.__set__(self, other)
        self.value = other.value

    def numpy(self, *, force=False):
        if force:
            return self.cpu().numpy()
        raise TypeError(f"can't convert {GPU} device type tensor to numpy. Use Tensor.cpu() to "
                        "copy the tensor to host memory first.")

    def __format__(self, spec):
        return format(self.item() if self.dim() == 0 else str(self), spec)

    def tolist(self):
        return self.value.tolist()

    def data_ptr(self):
        return self.value.data_ptr()

    def untyped_storage(self):  # two names for the same memory are found by it
        return self.value.untyped_storage()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            twin = OnGPU(self.value.clone()).requires_grad_(self.requires_grad)
            twin.__dict__.update({k: v for k, v in vars(self).items() if k != "value"})
            twin.grad = copy.deepcopy(self.grad, memo)
            memo[id(self)] = twin
        return memo[id(self)]

    def __reduce_ex__(self, protocol):  # as tensors of backends without storage are pickled
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, (
            self.value, self.dtype, str(GPU), self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    """Refuse what CUDA refuses, otherwise compute with the values and wrap what comes out."""
    if torch.is_inference_mode_enabled() and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"):
        return func.decompose(*args, **kwargs)  # outside inference mode PyTorch does it before
    tensors: list[torch.Tensor] = []
    generators: list[torch.Generator] = []

    def bare(a):
        if isinstance(a, torch.Tensor):
            tensors.append(a)
            return a.value if isinstance(a, OnGPU) else a
        if isinstance(a, torch.Generator):
            generators.append(a)
        return torch.device("cpu") if isinstance(a, torch.device) else a

    values, options = _each(bare, args), _each(bare, kwargs)
    asked = kwargs.get("device")
    here = any(isinstance(t, OnGPU) for t in tensors) if asked is None else (
        torch.device(asked).type == NAME)
    _refuse_mixed(func, args, tensors)
    if here and generators:
        raise RuntimeError(
            f"Expected a '{NAME}' device type for generator but found 'cpu' in {func}")
    # Wrapped values are nobody's inference tensors: views of tensors made outside would be too.
    quiet = torch.is_inference_mode_enabled()
    with torch.inference_mode(False) if quiet else contextlib.nullcontext():
        out = func(*values, **options)
        if here:
            out = _each(lambda t: OnGPU(t) if isinstance(t, torch.Tensor) else t, out)
        return return_and_correct_aliasing(func, args, kwargs, out)


def _each(change, a):
    """`change` of everything inside tuples, lists and dictionaries; PyTorch's own is slower."""
    if isinstance(a, tuple | list):
        return type(a)([_each(change, b) for b in a])
    if isinstance(a, dict):
        return {key: _each(change, b) for key, b in a.items()}
    return change(a)


def _refuse_mixed(func, args, tensors) -> None:
    """Raise RuntimeError where CUDA would not take tensors of these devices together."""
    cpu = [t for t in tensors if not isinstance(t, OnGPU)]
    name = func._overloadpacket.__name__
    if not cpu or len(cpu) == len(tensors) or name in COPIES:
        return
    if name in INDEXING:
        if not isinstance(args[0], OnGPU):
            raise RuntimeError("indices should be either on cpu or on the same device as the "
                               "indexed tensor (cpu)")
        cpu = [t for t in args[2:3] if not isinstance(t, OnGPU) and t.dim()]  # the new values
    elif name in NUMBER_LAST:
        cpu = [t for t in cpu if t.dim() or t is not args[-1]]
    elif torch.Tag.pointwise in func.tags:
        written = [a for a, of in zip(args, func._schema.arguments, strict=False)
                   if of.alias_info is not None and of.alias_info.is_write]
        cpu = [t for t in cpu if t.dim() or any(t is a for a in written)]
    if cpu:
        raise RuntimeError("Expected all tensors to be on the same device, but found at least "
                           f"two devices, {GPU} and cpu, in {func}")


# What PyTorch makes of nothing, or below the level where tensors are asked, comes here by the
# device's dispatch key: an autograd thread, `torch.tensor(…, device="gpu")`, `torch.arange`.
_made = torch.library.Library("aten", "IMPL")


def _factory(name: str):
    packet, _, overload = name.partition(".")
    func = getattr(getattr(torch.ops.aten, packet), overload or "default")

    def make(*args, **kwargs):
        return _run(func, args, kwargs | {"device": GPU, "pin_memory": False})

    _made.impl(name, make, "PrivateUse1")


def _copy_from(source, target, non_blocking=False):
    given, taken = (t.value if isinstance(t, OnGPU) else t for t in (source, target))
    taken.copy_(given)
    return target


for _name in ("empty.memory_format", "empty_strided", "arange", "arange.start",
              "arange.start_step", "randperm", "randperm.generator", "linspace", "eye", "eye.m"):
    _factory(_name)
_made.impl("_copy_from", _copy_from, "PrivateUse1")
_made.impl("_local_scalar_dense", lambda tensor: tensor.value.item(), "PrivateUse1")


# Autocast, as on CUDA: products in the lower precision, what sums many numbers in float32. A
# backend brings its own list.
LOWER = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention")
FLOAT32 = ("layer_norm", "softmax.int", "log_softmax.int", "cross_entropy_loss", "cumsum",
           "nll_loss", "nll_loss_nd", "binary_cross_entropy_with_logits", "logsumexp")
_cast = torch.library.Library("aten", "IMPL")
_uncast = torch.library.Library("_", "IMPL")
_uncast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


def _autocasts(name: str, dtype: torch.dtype | None) -> None:
    packet, _, overload = name.partition(".")
    func = getattr(getattr(torch.ops.aten, packet), overload or "default")

    def call(*args, **kwargs):
        wanted = dtype or torch.get_autocast_dtype(NAME)

        def cast(a):
            floats = isinstance(a, torch.Tensor) and a.is_floating_point()
            return a.to(wanted) if floats and a.dtype != torch.float64 else a

        with torch.autocast(NAME, enabled=False):
            return func(*_each(cast, args), **_each(cast, kwargs))

    _cast.impl(name, call, "AutocastPrivateUse1")


for _name in LOWER:
    _autocasts(_name, None)
for _name in FLOAT32:
    _autocasts(_name, torch.float32)


def _checked(backward):
    """A written backward pass of whose gradients the devices are looked at, as a GPU's engine does.

    The engine itself asks wrapped tensors nothing, and dies of what comes later.
    """
    def apply(function, *gradients):
        out = backward(function, *gradients)
        if any(isinstance(g, OnGPU) for g in gradients):
            for index, g in enumerate(out if isinstance(out, tuple) else (out,)):
                if isinstance(g, torch.Tensor) and g.dim() and not isinstance(g, OnGPU):
                    raise RuntimeError(
                        f"Function {function.name()} returned an invalid gradient at index "
                        f"{index} - expected device {GPU} but got {g.device}")
        return out

    return apply


# ------------------------------------------------------------------------- the course on it


@pytest.fixture(name="gpu")
def pretended_gpu(monkeypatch) -> Iterator[torch.device]:
    """The pretended device, which `device: auto`, Accelerate and Trainer find and take.

    With REHEARSE_ON=cpu in the environment it is the CPU as it is: what fails then fails anywhere,
    and is no matter of devices.
    """
    global _active
    if os.environ.get("REHEARSE_ON") == "cpu":
        yield torch.device("cpu")
        return
    from accelerate.state import AcceleratorState, PartialState
    from transformers import TrainingArguments, training_args

    from helpers import scratch
    from helpers.engine import place

    for module in (place, scratch):
        monkeypatch.setattr(module, "gpu_or_cpu", lambda: GPU)
    monkeypatch.setattr(place, "native_bfloat16", lambda: True)
    place.fast_bfloat16.cache_clear()
    monkeypatch.setattr(PartialState, "default_device", property(lambda self: GPU))
    monkeypatch.setattr(training_args, "is_torch_bf16_gpu_available", lambda: True)

    found = TrainingArguments._setup_devices.func

    def setup_devices(arguments):
        if arguments.use_cpu:
            return found(arguments)
        with pytest.MonkeyPatch.context() as for_now:
            for_now.setenv("ACCELERATE_TORCH_DEVICE", str(GPU))
            return found(arguments)

    once = functools.cached_property(setup_devices)
    once.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", once)
    monkeypatch.setattr(BackwardCFunction, "apply", _checked(BackwardCFunction.apply))
    # Parameters keep their identity when they move, as on a GPU: tied ones stay tied.
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    AcceleratorState._reset_state(reset_partial_state=True)
    _active = True
    try:
        yield GPU
    finally:
        _active = False
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.__future__.set_swap_module_params_on_conversion(before)
        place.fast_bfloat16.cache_clear()
