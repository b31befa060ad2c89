"""What a language model costs to use: bytes on disk, bytes in memory, seconds to a token.

Everything is timed after a warm-up, and the shortest of a few runs counts: other work on a machine
makes a run longer, never shorter.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers.utils.hub import cached_file

from helpers.engine import hub
from helpers.errors import UserError
from helpers.paths import DATA


def seconds(action: Callable[[], Any], repeats: int = 3) -> float:
    """Shortest of a few runs, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a GPU is handed its work and returns before it is done
        times.append(time.perf_counter() - start)
    return min(times[1:])


@torch.no_grad()
def write_greedily(model: Any, ids: torch.Tensor, tokens: int, cached: bool = True) -> torch.Tensor:
    """Append the likeliest token, `tokens` times; end of text does not stop it.

    Args:
        ids: (batch, length), without padding.
        cached: keep the keys and values of what was read; otherwise read all again every time.

    Returns:
        (batch, tokens) of new ids.
    """
    cache, start = None, ids.shape[1]
    for _ in range(tokens):
        new = ids[:, -1:] if cache is not None else ids
        out = model(input_ids=new, past_key_values=cache, use_cache=cached, logits_to_keep=1)
        cache = out.past_key_values if cached else None
        ids = torch.cat([ids, out.logits[:, -1:].argmax(-1)], 1)
    return ids[:, start:]


class _Watch(TorchDispatchMode):
    """Counts the bytes of storages that operations make, until each of them is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self.known.setdefault(tensor.untyped_storage(), True)  # was there before
        out = func(*args, **(kwargs or {}))
        for storage in (tensor.untyped_storage() for tensor in _tensors(out)):
            if storage not in self.known:
                self.known[storage] = True
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return out

    def _change(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def peak_bytes(action: Callable[[], Any]) -> int:
    """Most bytes that tensors made while `action` runs held at once; what was there is not counted.

    On a GPU this is what PyTorch's allocator had out, on a CPU the sum of the tensors that its
    operations returned and nobody had let go of; what an operation needs inside is not seen there.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _Watch() as watch:
        action()
    return watch.peak


def cache_bytes(config: Any, tokens: int, batch: int = 1, number: int = 4) -> int:
    """Bytes of the keys and values of `tokens` tokens in each of `batch` texts.

    Two vectors a layer and token, as wide as the key-value heads together; `number` is the bytes of
    one number.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * tokens * batch * number


def writing_costs(
    model: Any, prompt: int = 32, tokens: int = 32, batches: Sequence[int] = (1, 16),
    repeats: int = 3,
) -> dict[str, float]:
    """Time to the first token, tokens a second and memory of writing, greedy and with a cache.

    Args:
        prompt: tokens that are read first; `tokens`: how many each text is continued by.
        batches: how many texts at once, one rate for each; memory is that of the last.

    Returns:
        `first token (ms)` of one text, `tokens/s, batch N` of whole calls, the prompt's reading
        included, and `writing (MB)`: the most memory that it took beside the weights.
    """
    ids = torch.arange(prompt).repeat(max(batches), 1) % (model.config.vocab_size - 2) + 2
    ids = ids.to(model.device)
    first = seconds(lambda: write_greedily(model, ids[:1], 1), repeats)
    rates = {f"tokens/s, batch {n}": n * tokens / seconds(
        lambda n=n: write_greedily(model, ids[:n], tokens), repeats) for n in batches}
    peak = peak_bytes(lambda: write_greedily(model, ids[: batches[-1]], tokens))
    return {"first token (ms)": 1e3 * first, **rates, "writing (MB)": peak / 1e6}


def rate_at_length(
    model: Any, lengths: Sequence[int], tokens: int = 9, batch: int = 1, cached: bool = True,
    repeats: int = 3,
) -> list[float]:
    """Tokens a second of a text that is already so long, for each of the lengths.

    The time to the first of `tokens` tokens is taken off, since it is that of reading the text.
    """
    rates = []
    for length in lengths:
        ids = torch.full((batch, length), 2, device=model.device)
        whole, first = (seconds(lambda n=n, ids=ids: write_greedily(model, ids, n, cached), repeats)
                        for n in (tokens, 1))
        rates.append(batch * (tokens - 1) / max(whole - first, 1e-9))
    return rates


def disk_bytes(source: str | Path) -> int:
    """Bytes of the weights of a folder or of a hub id that is here: its `.safetensors` files.

    Raises:
        UserError: the model is not on this disk, or has no such files.
    """
    name, options = hub.pretrained(source)
    options = {key: value for key, value in options.items() if key == "revision"}
    config = cached_file(name, "config.json", local_files_only=True,
                         _raise_exceptions_for_missing_entries=False, **options)
    files = list(Path(config).parent.glob("*.safetensors")) if config else []
    if not files:
        raise UserError(f"{source} has no .safetensors files on this disk; load the model first, "
                        "or give a folder that holds them.")
    return sum(file.stat().st_size for file in files)


def licence(source: str | Path) -> str:
    """The licence that a model's card names, "not stated" where it names none.

    The card is the `README.md` of its folder, between whose first lines of `---` YAML stands.
    """
    if (DATA / "models").resolve() in Path(source).resolve().parents:
        return "mit"  # the course's own, see LICENSE
    name, options = hub.pretrained(source)
    options = {key: value for key, value in options.items() if key == "revision"}
    card = cached_file(name, "README.md", _raise_exceptions_for_missing_entries=False,
                       _raise_exceptions_for_connection_errors=False, **options)
    parts = Path(card).read_text(encoding="utf-8").split("---\n", 2) if card else []
    try:
        head = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
    except yaml.YAMLError:
        head = {}
    found = head.get("license") if isinstance(head, dict) else None
    return str(found[0] if isinstance(found, list) and found else found or "not stated")
