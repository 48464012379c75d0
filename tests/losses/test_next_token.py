"""The chunked loss against torch's plain cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from framework.batches import types
from framework.losses.next_token import IGNORE, next_token, token_statistics


def problem(vocab_size: int = 50, dtype: torch.dtype = torch.float64, ignored: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden_BTD = torch.randn(3, 7, 16, dtype=dtype, requires_grad=True)
    weight_VD = torch.randn(vocab_size, 16, dtype=dtype, requires_grad=True)
    targets_BT = torch.randint(vocab_size, (3, 7))
    targets_BT[torch.rand(3, 7) < ignored] = IGNORE
    return hidden_BTD, weight_VD, targets_BT


def plain(hidden_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor, softcap: float | None = None) -> Tensor:
    logits_NV = (hidden_BTD @ weight_VD.T).flatten(0, 1)
    if softcap is not None:
        logits_NV = softcap * torch.tanh(logits_NV / softcap)
    return F.cross_entropy(logits_NV, targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def test_one_number_means_not_trained_everywhere() -> None:
    assert IGNORE == types.IGNORE == torch.nn.CrossEntropyLoss().ignore_index


@pytest.mark.parametrize("chunk_tokens", [1, 4, 7, 21, 1000, None])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_loss_and_gradients_are_the_plain_ones(chunk_tokens: int | None, ignored: float, softcap: float | None) -> None:
    hidden_BTD, weight_VD, targets_BT = problem(ignored=ignored)
    expected = plain(hidden_BTD, weight_VD, targets_BT, softcap)
    found = next_token(hidden_BTD, weight_VD, targets_BT, softcap=softcap, chunk_tokens=chunk_tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    scale = 0.37  # as a normaliser
    for one, other in zip(gradients(found * scale, hidden_BTD, weight_VD), gradients(expected * scale, hidden_BTD, weight_VD), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_nothing_trained_is_zero_with_zero_gradients() -> None:
    """TRAP-22: no division, no NaN."""
    hidden_BTD, weight_VD, targets_BT = problem(ignored=1.0)
    loss = next_token(hidden_BTD, weight_VD, targets_BT)
    d_hidden, d_weight = gradients(loss, hidden_BTD, weight_VD)
    assert loss.item() == 0
    assert not d_hidden.any()
    assert not d_weight.any()


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_only_what_is_trained_gets_a_gradient(frozen: str) -> None:
    hidden_BTD, weight_VD, targets_BT = problem()
    expected = gradients(plain(hidden_BTD, weight_VD, targets_BT), hidden_BTD, weight_VD)
    hidden_BTD, weight_VD = hidden_BTD.detach(), weight_VD.detach()
    hidden_BTD.requires_grad_(frozen == "weight")
    weight_VD.requires_grad_(frozen == "hidden")
    loss = next_token(hidden_BTD, weight_VD, targets_BT, chunk_tokens=5)
    assert loss.requires_grad == (frozen != "both")
    if frozen != "both":
        loss.backward()
        trained, gradient = (weight_VD, expected[1]) if frozen == "hidden" else (hidden_BTD, expected[0])
        torch.testing.assert_close(trained.grad, gradient, rtol=0, atol=1e-12)


def test_a_slice_of_a_padded_table() -> None:
    hidden_BTD, weight_VD, targets_BT = problem()
    table = torch.cat([weight_VD.detach(), torch.full((14, 16), 100.0, dtype=torch.float64)]).requires_grad_()
    expected = gradients(plain(hidden_BTD, weight_VD, targets_BT), weight_VD)[0]
    found = gradients(next_token(hidden_BTD, table[:50], targets_BT, chunk_tokens=4), table)[0]
    torch.testing.assert_close(found[:50], expected, rtol=0, atol=1e-12)
    assert not found[50:].any()


def test_untrained_rows_cannot_poison_the_matrix() -> None:
    """TRAP-37's kind: what stands in a row that is not trained has no effect, were it NaN."""
    hidden_BTD, weight_VD, targets_BT = problem()
    expected = gradients(next_token(hidden_BTD, weight_VD, targets_BT), weight_VD)[0]
    poisoned = hidden_BTD.detach().masked_fill((targets_BT == IGNORE)[..., None], math.nan).requires_grad_()
    loss = next_token(poisoned, weight_VD, targets_BT)
    d_hidden, d_weight = gradients(loss, poisoned, weight_VD)
    torch.testing.assert_close(d_weight, expected, rtol=0, atol=1e-12)
    assert loss.isfinite()
    assert d_hidden.isfinite().all()


def test_a_second_backward_is_refused_rather_than_scaled_twice() -> None:
    hidden_BTD, weight_VD, targets_BT = problem()
    loss = next_token(hidden_BTD, weight_VD, targets_BT)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="again"):
        loss.backward()


@pytest.mark.parametrize("vocab_size", [50, 64])
@pytest.mark.parametrize("way", ["autocast", "bf16"])
def test_16_bit_products_with_an_fp32_softmax(way: str, vocab_size: int) -> None:
    """TRAP-35: within bf16's rounding of the float64 loss, and of the plain loss under autocast."""
    exact_hidden, exact_weight, targets_BT = problem(vocab_size)
    exact = plain(exact_hidden, exact_weight, targets_BT)
    exact_gradients = gradients(exact, exact_hidden, exact_weight)
    dtype = torch.bfloat16 if way == "bf16" else torch.float32
    hidden_BTD, weight_VD = exact_hidden.detach().to(dtype).requires_grad_(), exact_weight.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        loss = next_token(hidden_BTD, weight_VD, targets_BT, chunk_tokens=5)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
    for found, expected, given in zip(gradients(loss, hidden_BTD, weight_VD), exact_gradients, (hidden_BTD, weight_VD), strict=True):
        assert found.dtype == given.dtype
        assert (found.double() - expected).norm() < 1e-2 * expected.norm()


def test_large_logits_stay_finite() -> None:
    hidden_BTD, weight_VD, targets_BT = problem(dtype=torch.float32)
    loss = next_token(hidden_BTD * 1e3, weight_VD, targets_BT)
    assert loss.isfinite()
    torch.testing.assert_close(loss, plain(hidden_BTD * 1e3, weight_VD, targets_BT))


def test_no_graph_without_gradients() -> None:
    hidden_BTD, weight_VD, targets_BT = problem()
    with torch.no_grad():
        loss = next_token(hidden_BTD, weight_VD, targets_BT)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(hidden_BTD, weight_VD, targets_BT), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_tokens", [4, None])
def test_statistics(chunk_tokens: int | None) -> None:
    hidden_BTD, weight_VD, targets_BT = problem()
    targets_BT[0, 0] = int((hidden_BTD[0, 0] @ weight_VD.T).argmax())
    nats_BT, correct_BT = token_statistics(hidden_BTD, weight_VD, targets_BT, chunk_tokens=chunk_tokens)
    logits_BTV = hidden_BTD @ weight_VD.T
    expected = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="none").view(3, 7)
    torch.testing.assert_close(nats_BT, expected.detach(), rtol=0, atol=1e-12)
    assert torch.equal(correct_BT, logits_BTV.argmax(-1) == targets_BT)
    assert bool(correct_BT[0, 0])
    assert not nats_BT[targets_BT == IGNORE].any()
    assert not nats_BT.requires_grad


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_tokens is 0"):
        next_token(*problem(), chunk_tokens=0)
