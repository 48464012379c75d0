"""AdamW against known numbers and plain float64 Python; the fused kernel against the plain one."""

from __future__ import annotations

import pytest
import torch

from framework.optimizers.adamw import AdamW

GRADIENTS = (0.1, -0.2, 0.3)


def adamw_by_hand(gradients: tuple[float, ...], lr: float, betas: tuple[float, float], eps: float, decay: float) -> list[float]:
    """arXiv 1711.05101, algorithm 2, in torch's placement of eps, for one number that begins at 1."""
    weight, first, second, weights = 1.0, 0.0, 0.0, []
    for step, gradient in enumerate(gradients, 1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        corrected = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
        weight = weight * (1 - lr * decay) - lr * corrected[0] / (corrected[1] ** 0.5 + eps)
        weights.append(weight)
    return weights


def _run(fused: bool | None, dtype: torch.dtype = torch.float64, **settings: object) -> list[float]:
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=dtype))
    optimizer = AdamW([weight], fused=fused, **settings)  # type: ignore[arg-type]
    seen = []
    for gradient in GRADIENTS:
        weight.grad = torch.tensor([gradient], dtype=dtype)
        optimizer.step()
        seen.append(weight.item())
    return seen


@pytest.mark.parametrize("fused", [True, False, None])
def test_decay_is_decoupled(fused: bool | None) -> None:
    seen = _run(fused, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.1)
    assert seen == pytest.approx([0.998900000100, 0.999166213604, 0.998723055918], abs=1e-12)  # Adam with L2: 0.999000000050, ...
    assert seen == pytest.approx(adamw_by_hand(GRADIENTS, 1e-3, (0.9, 0.999), 1e-8, 0.1), abs=1e-12)


def test_defaults_are_those_of_language_models() -> None:
    assert _run(None) == pytest.approx(adamw_by_hand(GRADIENTS, 3e-4, (0.9, 0.95), 1e-8, 0.1), abs=1e-12)


def test_fused_where_it_can_be() -> None:
    assert AdamW([torch.nn.Parameter(torch.zeros(2))]).param_groups[0]["fused"] is True
    assert AdamW([torch.nn.Parameter(torch.zeros(2, device="meta"))]).param_groups[0]["fused"] is False
    assert AdamW([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))]).param_groups[0]["fused"] is False


def test_a_fused_optimizer_lets_the_trainer_unscale_and_clip() -> None:
    """torch's flag makes Lightning refuse gradient_clip_val under mixed precision."""
    assert not getattr(AdamW([torch.nn.Parameter(torch.zeros(2))]), "_step_supports_amp_scaling", False)
