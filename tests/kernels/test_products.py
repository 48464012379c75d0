"""The blocked product equals float64's in every layout, to the bit whatever is beside it and however many threads; the rest is torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from framework.kernels import calls, products
from framework.losses import next_token
from framework.networks.linear import Linear

LAYOUTS = ["rows", "columns", "apart"]


@pytest.fixture
def calls_made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Rows, columns and inner length of each product that our kernel computes; it takes every size, on every processor."""
    made: list[tuple[int, ...]] = []
    kernel = calls.product

    def counted(a_NI: Tensor, b_IO: Tensor, start_O: Tensor | None, out_NO: Tensor, adds: bool) -> None:
        made.append((*out_NO.shape, a_NI.shape[1]))
        kernel(a_NI, b_IO, start_O, out_NO, adds)

    monkeypatch.setattr(calls, "product", counted)
    monkeypatch.setattr(products, "outruns_mkl", lambda: True)
    monkeypatch.setattr(products, "FEWEST_PRODUCTS", 0)
    return made


def laid_out(matrix: Tensor, layout: str) -> Tensor:
    match layout:
        case "columns":
            return matrix.T.contiguous().T
        case "apart":
            return torch.stack([matrix, matrix], dim=-1)[..., 0]
    return matrix


@pytest.mark.kernels
@pytest.mark.parametrize(
    "rows, columns, inner",
    [(1, 1, 1), (12, 32, 384), (13, 33, 385), (11, 31, 3), (100, 65, 384), (5, 300, 1000), (4100, 40, 33), (40, 4100, 17), (193, 257, 769)],
)
def test_products(rows: int, columns: int, inner: int) -> None:
    torch.manual_seed(0)
    a, b, start = torch.randn(rows, inner), torch.randn(inner, columns), torch.randn(columns)
    exact = a.double() @ b.double()
    tolerance = {"rtol": 0.0, "atol": 2e-6 * inner**0.5 * 4}
    first: Tensor | None = None
    for layout_a in LAYOUTS:
        for layout_b in LAYOUTS:
            out = torch.full((rows, columns + 3), torch.nan)  # its rows lie apart
            calls.product(laid_out(a, layout_a), laid_out(b, layout_b), start, out[:, :columns], adds=False)
            torch.testing.assert_close(out[:, :columns].double(), exact + start.double(), **tolerance)
            assert out[:, columns:].isnan().all(), "written past a row's end"
            first = out if first is None else first
            assert torch.equal(out[:, :columns], first[:, :columns]), "the layout changed bits"
    out = torch.ones(rows, columns)
    calls.product(a, b, None, out, adds=True)
    torch.testing.assert_close(out.double(), exact + 1, **tolerance)


@pytest.mark.kernels
def test_a_number_depends_on_its_row_and_column_only() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(500, 900), torch.randn(900, 400)
    whole = torch.empty(500, 400)
    calls.product(a, b, None, whole, adds=False)
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        for rows, columns in [(slice(0, 500), slice(0, 400)), (slice(3, 4), slice(7, 8)), (slice(100, 317), slice(33, 371))]:
            out = torch.empty(rows.stop - rows.start, columns.stop - columns.start)
            calls.product(a[rows], b[:, columns], None, out, adds=False)
            assert torch.equal(out, whole[rows, columns])


@pytest.mark.kernels
@pytest.mark.parametrize("shape", [(70,), (2, 35), (2, 5, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_trains_as_torch_s(shape: tuple[int, ...], bias: bool, calls_made: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    layer, reference = Linear(48, 80, bias=bias), torch.nn.Linear(48, 80, bias=bias).double()
    layer.load_state_dict(reference.state_dict())
    x = torch.randn(*shape, 48)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    slopes = torch.randn(*shape, 80)
    (layer(ours) * slopes).sum().backward()
    (reference(theirs) * slopes.double()).sum().backward()
    assert calls_made == [(70, 80, 48), (70, 48, 80), (80, 48, 70)]
    pairs = [(ours.grad, theirs.grad), *((mine.grad, yours.grad) for mine, yours in zip(layer.parameters(), reference.parameters()))]
    for mine, exact in pairs:
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.kernels
def test_only_what_is_trained_is_computed(calls_made: list[tuple[int, ...]]) -> None:
    layer = Linear(48, 80)
    layer.requires_grad_(False)
    x = torch.randn(70, 48, requires_grad=True)
    layer(x).sum().backward()
    assert len(calls_made) == 2 and x.grad is not None and layer.weight.grad is None and layer.bias.grad is None


@pytest.mark.kernels
def test_the_loss_goes_through_it(calls_made: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(2, 50, 40), torch.randn(90, 40), torch.randint(90, (2, 50))
    results = []
    for dtype in (torch.float32, torch.float64):
        rows, matrix = (each.detach().clone().to(dtype).requires_grad_() for each in (hidden, weight))
        loss = next_token(rows, matrix, targets, chunk_tokens=60)
        loss.backward()
        results.append([each.double() for each in (loss.detach(), rows.grad, matrix.grad)])
    assert calls_made == [(60, 90, 40), (60, 40, 90), (90, 40, 60), (40, 90, 40), (40, 40, 90), (90, 40, 40)]
    for ours, exact in zip(*results):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "case",
    ["few rows", "few columns", "small", "float64", "autocast", "watched", "many threads", "another processor", "meta", "not aligned"],
)
def test_everything_else_is_torch_s(case: str, calls_made: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(40, 48, requires_grad=True), torch.randn(80, 48)
    match case:
        case "few rows":
            x = x[:31]
        case "few columns":
            weight = weight[:31]
        case "small":
            monkeypatch.setattr(products, "FEWEST_PRODUCTS", 2**25)
        case "float64":
            x, weight = x.double(), weight.double()
        case "many threads":
            torch.set_num_threads(products.MOST_THREADS + 1)
        case "another processor":
            monkeypatch.setattr(products, "outruns_mkl", lambda: False)
        case "meta":
            x, weight = x.to("meta"), weight.to("meta")
        case "not aligned":
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                products.linear(x, weight[:, :47])
            return
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        if case == "watched":
            with FlopCounterMode(display=False) as counter:
                out = products.linear(x, weight)
            assert counter.get_total_flops() == 2 * 40 * 48 * 80
        else:
            out = products.linear(x, weight)
        theirs = F.linear(x, weight)
    assert not calls_made
    assert out.dtype == theirs.dtype and out.shape == theirs.shape and (case == "meta" or torch.equal(out, theirs))
