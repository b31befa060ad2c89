"""Muon: what the iteration does to singular values, and agreement with PyTorch's own."""

import pytest
import torch

from helpers.engine.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(2, *shape), full_matrices=False)
    stretched = u @ torch.diag_embed(torch.logspace(0, -1, min(shape)).expand(2, -1)) @ v
    out = orthogonalise(stretched)
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.6
    assert values.max() < 1.3
    # U Vᵀ stays the direction: in its basis the result is diagonal.
    inside = u.mT @ out @ v.mT
    off = inside - torch.diag_embed(torch.diagonal(inside, dim1=1, dim2=2))
    assert off.abs().max() < 1e-3


def test_it_takes_the_steps_of_pytorch():
    torch.manual_seed(0)
    start = [torch.randn(12, 30), torch.randn(30, 12), torch.randn(12, 30)]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    pair = (Muon(ours, lr=0.02, momentum=0.95, weight_decay=0.1),
            torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1,
                             adjust_lr_fn="match_rms_adamw"))
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimiser in pair:
            optimiser.step()
    for a, b, first in zip(ours, theirs, start, strict=True):
        moved, expected = ((p.detach() - first).flatten() for p in (a, b))
        assert torch.cosine_similarity(moved, expected, dim=0) > 0.995  # theirs rounds to bfloat16
        assert moved.norm().item() == pytest.approx(expected.norm().item(), rel=0.03)


def test_a_matrix_without_gradient_is_left_alone():
    still = torch.nn.Parameter(torch.ones(3, 3))
    Muon([still], weight_decay=0.5).step()
    assert torch.equal(still, torch.ones(3, 3))


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="AdamW"):
        Muon([torch.nn.Parameter(torch.ones(3))])
