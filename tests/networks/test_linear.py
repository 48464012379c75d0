"""The kernel's products equal float64's, to the bit alone as in a batch; everything else goes to torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.kernels import calls
from framework.networks.linear import MOST_ROWS, Linear, linear


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each call of the kernel."""
    made: list[int] = []
    kernel = calls.linear

    def counted(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        made.append(x.shape[:-1].numel())
        return kernel(x, weight_OI, bias_O)

    monkeypatch.setattr(calls, "linear", counted)
    return made


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inputs", [1, 7, 16, 33, 100, 576])
@pytest.mark.parametrize("outputs", [1, 3, 4, 6, 65])
def test_products(dtype: torch.dtype, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(MOST_ROWS, inputs), torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype)
    exact = F.linear(x.double(), weight.double(), bias.double())
    alone = torch.cat([calls.linear(x[n : n + 1], weight, bias) for n in range(MOST_ROWS)])
    magnitudes = F.linear(x.double().abs(), weight.double().abs(), bias.double().abs())  # a sum's rounding errors are fractions of this
    assert ((alone - exact).abs() <= 2**-22 * magnitudes).all()
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        for rows in (*range(1, 14), 32, MOST_ROWS):
            assert torch.equal(calls.linear(x[:rows], weight, bias), alone[:rows])
    torch.testing.assert_close(calls.linear(x, weight, None).double(), exact - bias.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inference_goes_through_the_kernel(dtype: torch.dtype, kernel_calls: list[int]) -> None:
    torch.manual_seed(0)
    layer = Linear(48, 80, dtype=dtype)
    x = torch.randn(2, 3, 48, dtype=dtype).transpose(0, 1)  # not contiguous
    with torch.no_grad():
        out = layer(x)
    assert kernel_calls == [6] and out.shape == (3, 2, 80) and out.dtype == dtype
    torch.testing.assert_close(
        out,
        F.linear(x.double(), layer.weight.double(), layer.bias.double()).to(dtype),
        rtol=1e-5 if dtype == torch.float32 else 1e-2,
        atol=1e-5,
    )


@pytest.mark.parametrize("case", ["training", "many rows", "float64", "no rows", "autocast", "columns", "meta"])
def test_everything_else_goes_to_torch(case: str, kernel_calls: list[int]) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 48), torch.randn(80, 48)
    match case:
        case "many rows":
            x = torch.randn(MOST_ROWS + 1, 48)
        case "float64":
            x, weight = x.double(), weight.double()
        case "no rows":
            x = x[:0]
        case "columns":
            weight = torch.randn(48, 80).T
        case "meta":
            x, weight = x.to("meta"), weight.to("meta")
    with torch.set_grad_enabled(case == "training"), torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        out, theirs = linear(x, weight), F.linear(x, weight)
    assert not kernel_calls
    assert out.shape == theirs.shape and out.dtype == theirs.dtype and (case == "meta" or torch.equal(out, theirs))


def test_a_wrong_shape_is_torch_s_error() -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(torch.randn(1, 47), torch.randn(80, 48))


def test_it_trains_and_saves_as_torch_s_own() -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(12, 5), nn.Linear(12, 5)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 12)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad) and torch.equal(ours.bias.grad, theirs.bias.grad)


@pytest.mark.kernels
def test_a_change_of_the_weights_is_seen_at_once() -> None:
    layer, x = Linear(16, 4), torch.randn(1, 16)
    with torch.no_grad():
        before = layer(x)
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        torch.testing.assert_close(layer(x), 2 * before)
