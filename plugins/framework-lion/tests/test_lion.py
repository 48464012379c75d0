"""Lion against the paper's algorithm in plain float64 Python, and the conformance suite."""

from __future__ import annotations

import pytest
import torch
from framework_lion import Lion

from framework.testing.optimizers import CHECKS


def lion_by_hand(weight: float, gradients: list[float], lr: float, betas: tuple[float, float], decay: float) -> list[float]:
    """arXiv 2302.06675, algorithm 2, for one number."""
    average, weights = 0.0, []
    for gradient in gradients:
        mixed = betas[0] * average + (1 - betas[0]) * gradient
        sign = (mixed > 0) - (mixed < 0)
        weight -= lr * (sign + decay * weight)
        average = betas[1] * average + (1 - betas[1]) * gradient
        weights.append(weight)
    return weights


def test_values_are_the_paper_s() -> None:
    """Gradients whose sign differs from the momentum's tell the two averages apart."""
    gradients = [0.1, -0.2, 0.3, -0.001, -0.001, 5.0, -0.5, -0.02]
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = Lion([weight], lr=1e-2, weight_decay=0.5)
    seen = []
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        seen.append(weight.item())
    assert seen == pytest.approx(lion_by_hand(1.0, gradients, 1e-2, (0.9, 0.99), 0.5), abs=1e-14)
    assert seen[:2] == pytest.approx([0.985, 0.990075], abs=1e-12)  # by hand: 1 - .01 * 1.5, then .985 + .01 * (1 - .5 * .985)


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}, {"lr": float("nan")}])
def test_refuses_values_outside_their_range(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Lion([torch.nn.Parameter(torch.zeros(2))], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check) -> None:  # type: ignore[no-untyped-def]
    check(Lion)
