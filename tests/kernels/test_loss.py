"""The fused loss and its gradient equal float64's, and say of every input what torch's would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from framework.kernels import calls
from framework.losses.next_token import IGNORE, next_token

pytestmark = pytest.mark.kernels


def problem(rows: int, columns: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    targets_C = torch.randint(columns, (rows,))
    targets_C[::3] = IGNORE
    return torch.randn(rows, columns) * scale, targets_C


def exact(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    wide_CV = logits_CV.double().requires_grad_()
    losses_C = F.cross_entropy(wide_CV, targets_C, ignore_index=IGNORE, reduction="none")
    return losses_C.detach(), torch.autograd.grad(losses_C.sum(), wide_CV)[0]


@pytest.mark.parametrize("columns", [1, 2, 15, 16, 17, 258, 1023, 1025, 50257])
@pytest.mark.parametrize("scale", [0.0, 3.0, 200.0])
def test_losses_and_gradients(columns: int, scale: float) -> None:
    logits_CV, targets_C = problem(7, columns, scale)
    losses_C, gradient_CV = exact(logits_CV, targets_C)
    found_C = calls.next_token(logits_CV, targets_C, IGNORE)
    torch.testing.assert_close(found_C.double(), losses_C, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits_CV.double(), gradient_CV, rtol=0, atol=5e-7)
    assert not logits_CV[::3].any() and not found_C[::3].any()


def test_the_same_bits_with_any_number_of_threads() -> None:
    found = []
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        logits_CV, targets_C = problem(50, 1000)
        found.append((calls.next_token(logits_CV, targets_C, IGNORE), logits_CV))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_what_is_impossible_or_no_number() -> None:
    logits_CV, _ = problem(4, 100)
    logits_CV[0, 5:] = -torch.inf  # a mask
    logits_CV[1, 7] = torch.nan
    logits_CV[2, 7] = torch.inf
    logits_CV[3] = -torch.inf
    targets_C = torch.tensor([2, 3, 3, 3])
    losses_C, gradient_CV = exact(logits_CV, targets_C)
    found_C = calls.next_token(logits_CV, targets_C, IGNORE)
    torch.testing.assert_close(found_C[0].double(), losses_C[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(logits_CV[0].double(), gradient_CV[0], rtol=0, atol=5e-7)
    assert found_C[1:].isnan().all() and losses_C[1:].isnan().all()


@pytest.mark.parametrize("target", [-1, 100, 2**40])
def test_a_target_that_is_no_token(target: int) -> None:
    logits_CV, targets_C = problem(4, 100)
    targets_C[2], before_CV = target, logits_CV.clone()
    with pytest.raises(IndexError, match="not among the 100 tokens"):
        calls.next_token(logits_CV, targets_C, IGNORE)
    assert torch.equal(logits_CV, before_CV)


def test_training_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, kernel = [], calls.next_token

    def counted(logits_CV: Tensor, targets_C: Tensor, ignored: int) -> Tensor:
        made.append(logits_CV.shape)
        return kernel(logits_CV, targets_C, ignored)

    monkeypatch.setattr(calls, "next_token", counted)
    hidden_ND, weight_VD = torch.randn(30, 8, requires_grad=True), torch.randn(40, 8, requires_grad=True)
    targets_N = torch.randint(40, (30,))
    loss = next_token(hidden_ND, weight_VD, targets_N, chunk_tokens=20)
    expected = F.cross_entropy(hidden_ND.double() @ weight_VD.double().T, targets_N, reduction="sum")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    for one, other in zip(
        torch.autograd.grad(loss, [hidden_ND, weight_VD]), torch.autograd.grad(expected, [hidden_ND, weight_VD]), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert made == [(20, 40), (10, 40)]
