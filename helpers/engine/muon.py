"""Muon: an optimiser that makes the update of every weight matrix orthogonal before it is applied.

A gradient of a weight matrix is usually dominated by a few directions; Adam scales entry by entry
and keeps them dominant. Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the
averaged gradient G = U S Vᵀ by about U Vᵀ, so that every direction is learnt at the same pace.
`torch.optim.Muon` does the same in bfloat16, which on a CPU without bfloat16 instructions is some
twenty times slower than float32; here the number type is a choice and matrices of equal shape go
through one batched product.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch

# Quintic that pushes singular values towards one, steepest at zero (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Replace all singular values by about one (0.7 to 1.2), without a decomposition.

    Args:
        matrices: (count, rows, columns).
        steps: of the Newton–Schulz iteration.

    Returns:
        The same shape and number type.
    """
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; for the two-dimensional hidden weights only.

    Embeddings, biases and norms belong to AdamW. The step is scaled by 0.2·sqrt(max(rows,
    columns)), which gives it the root mean square of an AdamW step, so that AdamW's learning
    rates carry over (Liu et al. 2025, arXiv:2502.16982).
    """

    def __init__(self, params: Iterable, lr: float = 1e-2, momentum: float = 0.95,
                 weight_decay: float = 0.0, bfloat16: bool = False) -> None:
        """`bfloat16`: number type of the iteration; only faster where the hardware has it."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay,
                                  "bfloat16": bfloat16})
        for group in self.param_groups:
            if any(p.dim() != 2 for p in group["params"]):
                raise ValueError("Muon takes matrices only; give other parameters to AdamW.")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            same: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    same[p.shape].append(p)
            for shape, params in same.items():
                averages = []
                for p in params:
                    state = self.state[p]
                    if not state:
                        state["momentum"] = torch.zeros_like(p)
                    assert p.grad is not None  # as above
                    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    averages.append(p.grad.lerp(state["momentum"], group["momentum"]))
                stacked = torch.stack(averages)
                update = orthogonalise(
                    stacked.bfloat16() if group["bfloat16"] else stacked).to(stacked.dtype)
                scale = 0.2 * math.sqrt(max(shape)) * group["lr"]
                for p, u in zip(params, update, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-scale)
        return loss
