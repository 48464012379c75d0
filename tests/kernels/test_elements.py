"""What the block kernel does to each number, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from framework.kernels import library
from framework.networks.blocks import ACTIVATIONS
from framework.networks.feedforward import activate

pytestmark = pytest.mark.kernels


def activated(x: Tensor, kind: str, factors: Tensor | None = None) -> Tensor:
    out, loaded = x.clone(), library.load()
    assert loaded is not None
    loaded.activate(out.data_ptr(), None if factors is None else factors.data_ptr(), out.numel(), ACTIVATIONS[kind], 1)
    return out


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_are_exact_to_fp32(kind: str) -> None:
    x = torch.linspace(-10, 10, 400_001)  # not whole vectors
    expected = activate(x.double(), kind)  # type: ignore[arg-type]
    error = (activated(x, kind) - expected).abs() / x.double().abs().clamp(min=1)
    assert error.max() < (1e-7 if kind != "relu2" else 5e-7), error.max()
    factors = torch.rand_like(x)
    torch.testing.assert_close(activated(x, kind, factors), (expected * factors).float(), rtol=2e-7, atol=3e-7)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_large_numbers_overflow_nowhere(kind: str) -> None:
    x = torch.tensor([-1e18, -1e6, -300.0, -88.0, 0.0, 88.0, 300.0, 1e6, 1e18])
    torch.testing.assert_close(activated(x, kind), activate(x.double(), kind).float())  # type: ignore[arg-type]
    assert activated(torch.tensor([float("nan")]), kind).isnan()


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_a_number_s_place_and_the_threads_change_nothing(kind: str) -> None:
    x = torch.randn(3 * 2**14 + 5) * 3
    whole = activated(x, kind)
    for start in (1, 7, 2**14 + 3):
        assert torch.equal(activated(x[start:], kind), whole[start:])


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("width", [1, 10, 64, 100, 384])
def test_layer_norm(width: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, width) + 10, torch.rand(width), torch.rand(width) if has_bias else None
    expected = F.layer_norm(x.double(), (width,), weight.double(), None if bias is None else bias.double(), 1e-5)
    loaded = library.load()
    assert loaded is not None
    loaded.layer_norm(x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), x.data_ptr(), 5, width, 1e-5)
    torch.testing.assert_close(x.double(), expected, rtol=0, atol=1e-5)
