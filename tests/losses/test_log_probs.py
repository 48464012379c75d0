"""Log-probabilities and entropies in chunks against torch's plain ones."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from framework.losses import log_probs


def problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(13, 8, dtype=dtype, requires_grad=True),
        torch.randn(21, 8, dtype=dtype, requires_grad=True),
        torch.randint(21, (13,)),
    )


def plain(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    logits_NV = hidden_ND @ weight_VD.T
    if softcap is not None:
        logits_NV = softcap * torch.tanh(logits_NV / softcap)
    table_NV = (logits_NV / temperature).log_softmax(-1)
    return table_NV.gather(1, targets_N[:, None])[:, 0], torch.distributions.Categorical(logits=table_NV).entropy()


@pytest.mark.parametrize("chunk_tokens", [None, 1, 5, 13, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
@pytest.mark.parametrize(("kept", "softcap"), [(True, None), (False, None), (True, 2.0)])
def test_values_and_gradients_are_the_plain_ones(
    chunk_tokens: int | None,
    temperature: float,
    entropy_weight: float,
    kept: bool,
    softcap: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not kept:
        monkeypatch.setattr(sys.modules["framework.losses.log_probs"], "KEPT_LOGITS", 0)
    hidden_ND, weight_VD, targets_N = problem()
    weights_N = torch.randn(13, dtype=torch.float64)

    def total(of: tuple[Tensor, Tensor]) -> Tensor:
        return (of[0] * weights_N).sum() + entropy_weight * (of[1] * weights_N.cos()).sum()

    ours = log_probs(hidden_ND, weight_VD, targets_N, temperature, softcap=softcap, chunk_tokens=chunk_tokens)
    theirs = plain(hidden_ND, weight_VD, targets_N, temperature, softcap)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    for a, b in zip(torch.autograd.grad(total(ours), (hidden_ND, weight_VD)), torch.autograd.grad(total(theirs), (hidden_ND, weight_VD))):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_a_frozen_output_matrix_gets_no_gradient() -> None:
    hidden_ND, weight_VD, targets_N = problem()
    ours = log_probs(hidden_ND, weight_VD.detach(), targets_N)
    ours.log_probs_N.sum().backward()
    assert hidden_ND.grad is not None and weight_VD.grad is None


def test_the_softmax_of_bf16_is_fp32() -> None:
    hidden_ND, weight_VD, targets_N = problem(torch.bfloat16)
    ours = log_probs(hidden_ND, weight_VD, targets_N)
    assert ours.log_probs_N.dtype == torch.float32
    exact, _ = plain(hidden_ND.double(), weight_VD.double(), targets_N, 1.0)
    torch.testing.assert_close(ours.log_probs_N.double(), exact, atol=5e-2, rtol=0)


def test_no_tokens() -> None:
    _, weight_VD, targets_N = problem()
    ours = log_probs(torch.empty(0, 8, dtype=torch.float64, requires_grad=True), weight_VD, targets_N[:0])
    ours.log_probs_N.sum().backward()
    assert len(ours.log_probs_N) == 0


def test_temperature_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        log_probs(*problem(), temperature=0.0)
