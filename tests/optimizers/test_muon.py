"""Muon against a float64 reference written from the papers, torch's own Muon, and torch's AdamW for the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from framework.optimizers.muon import Muon, orthogonalise

Matrix = NDArray[np.float64]


def newton_schulz_by_svd(update: Matrix, steps: int = 5) -> Matrix:
    """The same map done on the singular values: the quintic acts on each of them alone."""
    left, values, right = np.linalg.svd(update, full_matrices=False)
    values = values / np.linalg.norm(update)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ np.diag(values) @ right


def muon_by_hand(weight: Matrix, gradients: list[Matrix], lr: float, decay: float, momentum: float, nesterov: bool) -> Matrix:
    """arXiv 2502.16982, equation 4, with Nesterov's momentum as an average."""
    average = np.zeros_like(weight)
    for gradient in gradients:
        average = momentum * average + (1 - momentum) * gradient
        update = momentum * average + (1 - momentum) * gradient if nesterov else average
        weight = weight - lr * (0.2 * math.sqrt(max(weight.shape)) * newton_schulz_by_svd(update) + decay * weight)
    return weight


def _gradients(shape: tuple[int, ...], count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def _run(optimizer: torch.optim.Optimizer, weight: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    for gradient in gradients:
        weight.grad = gradient.to(weight.dtype)
        optimizer.step()
    return weight.detach()


def _matrix(weight: torch.Tensor) -> list[dict[str, object]]:
    return [{"params": [weight], "role": "matrix"}]


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7), (1, 5)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_follow_the_papers(shape: tuple[int, int], nesterov: bool) -> None:
    weight = torch.nn.Parameter(_gradients(shape, 5)[-1].clone())
    expected = muon_by_hand(weight.detach().numpy().copy(), [g.numpy() for g in _gradients(shape)], 0.01, 0.1, 0.9, nesterov)
    seen = _run(Muon(_matrix(weight), lr=0.01, momentum=0.9, nesterov=nesterov), weight, _gradients(shape))
    assert np.abs(seen.numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_torch_s_muon_agrees(shape: tuple[int, int]) -> None:
    """torch's iterates in bfloat16: the updates, of entries near 0.2, agree to its precision."""
    ours, theirs = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
    _run(Muon(_matrix(ours), lr=1.0, weight_decay=0.0), ours, _gradients(shape, 1))
    _run(torch.optim.Muon([theirs], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), theirs, _gradients(shape, 1))
    assert (ours - theirs).abs().max() < 2e-2
    assert (ours - theirs).square().mean().sqrt() < 5e-3


def test_updates_have_the_size_of_adamw_s() -> None:
    for shape in [(64, 64), (32, 256), (256, 32)]:
        weight = torch.nn.Parameter(torch.zeros(shape))
        _run(Muon(_matrix(weight), lr=1.0, weight_decay=0.0), weight, _gradients(shape, 1))
        assert 0.15 < weight.square().mean().sqrt() < 0.25


def test_orthogonalised_singular_values_are_near_one() -> None:
    update = torch.randn(48, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalise(update))
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert torch.equal(orthogonalise(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_stacks_of_matrices_are_single_matrices() -> None:
    stack = torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    single = torch.stack([orthogonalise(matrix) for matrix in stack])
    assert (orthogonalise(stack) - single).abs().max() < 1e-14


@pytest.mark.parametrize("role", ["embedding", "vector"])
def test_the_rest_is_adamw_bitwise(role: str) -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(5, 3)) for _ in range(2))
    _run(Muon([{"params": [ours], "role": role}], lr=0.01), ours, _gradients((5, 3)))
    _run(torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=True), theirs, _gradients((5, 3)))
    assert torch.equal(ours, theirs)


def test_learning_rates_of_the_two_parts() -> None:
    def groups() -> list[dict[str, object]]:
        return [{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "role": role} for role in ("matrix", "embedding")]

    assert [group["lr"] for group in Muon(groups(), lr=0.02).param_groups] == [0.02, 0.02]
    assert [group["lr"] for group in Muon(groups(), lr=0.02, adamw_lr=0.003).param_groups] == [0.02, 0.003]


def test_groups_must_say_what_they_are() -> None:
    with pytest.raises(ValueError, match='"role"'):
        Muon([torch.nn.Parameter(torch.zeros(2, 2))])
    with pytest.raises(ValueError, match="matrices have two dimensions"):
        Muon([{"params": [torch.nn.Parameter(torch.zeros(2))], "role": "matrix"}])


@pytest.mark.parametrize(
    "settings", [{"lr": -1.0}, {"weight_decay": float("nan")}, {"momentum": 1.0}, {"betas": (0.9, -0.1)}, {"adamw_lr": -1.0}]
)
def test_refuses_values_outside_their_range(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        Muon(_matrix(torch.nn.Parameter(torch.zeros(2, 2))), **settings)  # type: ignore[arg-type]
