"""Sequences of different lengths in one row, with no padding between them.

Embeddings, norms, projections and MLPs look at one token at a time: they take all sequences as one
long row, `(1, N)`, with positions that start again at 0 in each. Attention alone looks from one
token to another. A `Layout` tells it where each sequence stands; it is computed in groups of
sequences of similar length, padded within a group to the longest, and nothing else is padded.

    layout = Layout(lengths, groups=8)
    with packed_attention(model):
        hidden = trunk(input_ids=ids, position_ids=layout.positions, use_cache=False, layout=layout)

It works for models of transformers that find their attention by `AttentionInterface` and look at
all tokens before them (GPT-2, Llama, Qwen 2); `can_pack` tries it out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from helpers.engine.place import backbone

# What some models' attention does besides, and the one below does not.
UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")
BLOCKED = -3e4  # added to the score of a later token; bfloat16 and float16 can hold it
REPLACED = ("sdpa", "eager")  # the attentions of transformers that "packed" computes the same as
SHORT = 160  # tokens; beyond some 180 a CPU was faster with scores in blocks than all at once


class Layout:
    """Where the tokens of packed sequences stand in the row, and where in padded groups.

    Args:
        lengths: tokens of each sequence, in their order in the row; each at least 1.
        groups: into how many groups of neighbours they are cut for attention. Where neighbours
            are of similar length (sort them), more groups mean less padding and more calls.
        device: of the tensors.

    Attributes:
        positions: (1, N), place of each token in its own sequence, for `position_ids`.
        shapes: (sequences, longest) of each group; P is the sum of their products.
        source: (P,), for each place in the groups the token of the row that stands there; the
            padding after a sequence repeats its last token.
        place: (N,), for each token of the row its place in the groups.
        real: (P, 1, 1), whether a token stands there or padding.
    """

    def __init__(
        self, lengths: Sequence[int], groups: int = 1, device: torch.device | str | None = None
    ) -> None:
        tokens = torch.as_tensor(lengths)
        size = -(-len(tokens) // groups)
        source, place, real, first, before = [], [], [], 0, 0
        self.shapes: list[tuple[int, int]] = []
        for part in tokens.split(size):
            longest = int(part.max())
            column = torch.arange(longest)
            starts = first + part.cumsum(0) - part
            source.append((starts[:, None] + column.minimum(part[:, None] - 1)).flatten())
            real.append((column < part[:, None]).flatten())
            place.append(before + real[-1].nonzero().squeeze(1))
            self.shapes.append((len(part), longest))
            first, before = first + int(part.sum()), before + len(part) * longest
        starts = (tokens.cumsum(0) - tokens).repeat_interleave(tokens)
        self.positions = (torch.arange(first) - starts)[None].to(device)
        self.source, self.place = torch.cat(source).to(device), torch.cat(place).to(device)
        self.real = torch.cat(real)[:, None, None].to(device)


class _Move(torch.autograd.Function):
    """Rows of states (rows, heads, d) at other places: `there` says which, `back` the way back.

    What stands at more than one place or at none needs no sum on the way back: no real token looks
    at padding, so only the place of the token itself has a gradient; `kept` sets others to 0.
    """

    @staticmethod
    def forward(ctx, states, there, back, kept=None):
        ctx.back, ctx.kept = back, kept
        return states.index_select(0, there)

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.index_select(0, ctx.back)
        return gradient if ctx.kept is None else gradient.mul_(ctx.kept), None, None, None


def _attend(query, key, value, scaling):
    """Causal attention of sequences of one length, (n, heads, L, d) each.

    PyTorch's fused attention saves memory by working in blocks, which pays for long sequences
    alone on a CPU, and has no fast bfloat16 there. Plain matrix products do the same. It is the
    values that tell the precision: under autocast, rotary positions leave the others in float32.
    """
    shape, length = query.shape, query.shape[2]
    fused = length > SHORT and value.dtype != torch.bfloat16
    if value.device.type != "cpu" or fused:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    query, key, value = (x.reshape(-1, length, x.shape[-1]) for x in (query, key, value))
    later = query.new_full((length, length), BLOCKED).triu(1)
    weights = torch.baddbmm(later, query, key.transpose(1, 2), alpha=scaling).softmax(-1)
    return torch.bmm(weights.to(value.dtype), value).view(*shape[:3], -1)


def _packed(module, query, key, value, attention_mask, dropout=0.0, scaling=None, *, layout,
            **others):
    """An attention of transformers: (1, heads, N, d) each -> (1, N, heads, d), and no weights."""
    unknown = [name for name in UNKNOWN if others.get(name) is not None]
    if unknown or dropout or attention_mask is not None:
        raise NotImplementedError(f"Packed attention has no {unknown or 'dropout or mask'}.")
    heads, width = query.shape[1], query.shape[3]
    scaling = width**-0.5 if scaling is None else scaling
    sizes, columns = [n * longest for n, longest in layout.shapes], []
    for states in (query, key, value):
        row = states[0].transpose(0, 1)
        groups = _Move.apply(row, layout.source, layout.place).split(sizes)
        columns.append([
            _as_many_heads(group.view(*shape, *group.shape[1:]).transpose(1, 2), heads)
            for group, shape in zip(groups, layout.shapes, strict=True)
        ])
    found = [_attend(q, k, v, scaling).transpose(1, 2).flatten(0, 1)
             for q, k, v in zip(*columns, strict=True)]
    return _Move.apply(torch.cat(found), layout.place, layout.source, layout.real)[None], None


def _as_many_heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Repeat keys or values that several heads of the query share; (n, heads, L, d)."""
    times = heads // states.shape[1]
    return states.repeat_interleave(times, dim=1) if times > 1 else states


AttentionInterface.register("packed", _packed)  # transformers makes no mask for a name of ours


@contextlib.contextmanager
def packed_attention(*models: PreTrainedModel) -> Iterator[None]:
    """Within it, these models of transformers take packed rows and a `layout`, and nothing else.

    What is differentiated with gradient checkpointing must be differentiated within it too.
    """
    before = [cast(str, model.config._attn_implementation) for model in models]
    try:
        for model in models:
            model.set_attn_implementation("packed")
            if model.config._attn_implementation != "packed":
                raise NotImplementedError(f"{type(model).__name__} keeps its own attention.")
        yield
    finally:
        for model, name in zip(models, before, strict=True):
            model.set_attn_implementation(name)


def windowed(config: PretrainedConfig) -> bool:
    """Whether some layer looks at less than all tokens before: it shows in the model's cache."""
    layers = str(getattr(config, "layer_types", "")) + str(getattr(config, "attention_layers", ""))
    return any(kind in layers for kind in ("sliding", "local", "linear")) or any(
        type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers)


@torch.no_grad()
def can_pack(model: PreTrainedModel) -> bool:
    """Whether a model of transformers computes the same for packed sequences as for each alone."""
    if not getattr(model, "_supports_attention_backend", False):
        return False
    if model.config._attn_implementation not in REPLACED:
        return False
    if windowed(model.config):  # it may be longer than the few tokens tried out below
        return False
    trunk, training = backbone(model), model.training
    ids = torch.tensor([[0, 1, 2, 2, 1]], device=model.device)
    model.eval()
    try:
        alone = torch.cat([trunk(input_ids=part, use_cache=False).last_hidden_state
                           for part in ids.split([3, 2], dim=1)], 1)
        with packed_attention(model):
            layout = Layout([3, 2], device=model.device)
            together = trunk(input_ids=ids, position_ids=layout.positions, use_cache=False,
                             layout=layout).last_hidden_state
    except (TypeError, NotImplementedError):
        return False
    finally:
        model.train(training)
    exact = all(p.dtype == torch.float32 for p in model.parameters())
    tolerance = 1e-4 if exact else 0.05
    return bool((together - alone).norm() <= tolerance * alone.norm())
