"""The attention of whole sequences and its gradients equal float64 torch's, in every layout; what does not suit it is torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from framework.kernels import calls, causal, products
from framework.networks.dot_product import attend


@pytest.fixture(autouse=True)
def on_a_suitable_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "outruns_mkl", lambda: True)


class Watching(TorchDispatchMode):
    """Keeps the names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.seen.append(str(function))
        return function(*arguments, **(keywords or {}))


def reference(query_BTHQ: Tensor, key_BTKQ: Tensor, value_BTKQ: Tensor) -> Tensor:
    """The formula, written out."""
    group = query_BTHQ.shape[2] // key_BTKQ.shape[2]
    key, value = (heads.repeat_interleave(group, 2) for heads in (key_BTKQ, value_BTKQ))
    scores = torch.einsum("bthq,bshq->bhts", query_BTHQ, key) * query_BTHQ.shape[-1] ** -0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.einsum("bhts,bshq->bthq", scores.masked_fill(hidden, -torch.inf).softmax(-1), value)


@pytest.mark.kernels
@pytest.mark.parametrize("tokens", [1, 12, 31, 32, 33, 64, 100, 300])
@pytest.mark.parametrize("num_heads, num_kv_heads, width", [(1, 1, 4), (2, 2, 64), (6, 2, 20), (3, 1, 80)])
def test_attention_and_its_gradients(tokens: int, num_heads: int, num_kv_heads: int, width: int) -> None:
    torch.manual_seed(0)
    sizes = [num_heads, num_kv_heads, num_kv_heads]
    together = torch.randn(2, tokens, sum(sizes), width) * 2
    slopes = torch.randn(2, tokens, num_heads, width)
    ours, exact = together.clone().requires_grad_(), together.double().requires_grad_()
    out, expected = causal.attend(*ours.split(sizes, 2)), reference(*exact.split(sizes, 2))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    out.backward(slopes)
    expected.backward(slopes.double())
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=3e-5)


@pytest.mark.kernels
@pytest.mark.parametrize("layout", ["heads first", "strange", "expanded slopes"])
def test_layouts(layout: str) -> None:
    torch.manual_seed(0)
    heads = [torch.randn(2, 40, 3, 8) for _ in range(3)]
    slopes = torch.randn(2, 40, 3, 8)
    plain = [each.clone().requires_grad_() for each in heads]
    if layout == "heads first":
        given = [each.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for each in heads]
    elif layout == "strange":
        given = [each.transpose(1, 3).contiguous().transpose(1, 3).requires_grad_() for each in heads]
    else:
        given = [each.clone().requires_grad_() for each in heads]
        slopes = torch.tensor(1.5).expand(2, 40, 3, 8)
    outs = [causal.attend(*each) for each in (plain, given)]
    outs[0].backward(slopes.contiguous())
    outs[1].backward(slopes)
    assert torch.equal(*outs)
    for mine, other in zip(plain, given):
        assert torch.equal(mine.grad, other.grad)


@pytest.mark.kernels
def test_a_sequence_is_the_same_alone_and_with_any_number_of_threads() -> None:
    torch.manual_seed(0)
    heads = [torch.randn(3, 100, 4, 16) for _ in range(3)]
    whole = causal.attend(*heads)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert torch.equal(causal.attend(*[each[1:2] for each in heads]), whole[1:2])
        assert torch.equal(causal.attend(*[each[:, :50] for each in heads]), whole[:, :50])


@pytest.mark.kernels
def test_large_scores_and_numbers_that_are_not() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 40, 1, 8) for _ in range(3))
    torch.testing.assert_close(causal.attend(query * 1e3, key, value), reference(query * 1e3, key, value), rtol=1e-4, atol=1e-4)
    value[0, 20] = torch.nan
    assert causal.attend(query, key, value)[0, 20:].isnan().all()


@pytest.mark.kernels
@pytest.mark.parametrize(
    "case", ["served", "few tokens", "width", "float64", "mask", "dropout", "watched", "another processor", "more keys"]
)
def test_the_network_s_attention_takes_it_where_it_suits(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    made: list[int] = []
    kernel = calls.causal
    monkeypatch.setattr(calls, "causal", lambda *arguments: (made.append(1), kernel(*arguments)))
    query, key, value = (torch.randn(2, 3, 40, 8, requires_grad=True) for _ in range(3))
    mask, dropout = None, 0.0
    match case:
        case "few tokens":
            query, key, value = (each[:, :, :31] for each in (query, key, value))
        case "width":
            query, key, value = (each[..., :7] for each in (query, key, value))
        case "float64":
            query, key, value = (each.double() for each in (query, key, value))
        case "mask":
            mask = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
        case "dropout":
            dropout = 0.5
        case "another processor":
            monkeypatch.setattr(products, "outruns_mkl", lambda: False)
        case "more keys":
            query = query[:, :, :35]
    if case == "watched":
        with Watching() as watched:
            out = attend(query, key, value, mask)
        assert any("scaled_dot_product" in name for name in watched.seen)
    else:
        out = attend(query, key, value, mask, None, dropout)
    assert bool(made) == (case == "served")
    if not dropout:
        expected = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.kernels
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_gradient_of_a_split_is_not_copied_where_it_is_in_one_piece(scale: float) -> None:
    """With another scale the query's gradient is a tensor of its own."""
    torch.manual_seed(0)
    heads_BTHQ = torch.randn(2, 40, 8, 16, requires_grad=True)

    def attended(parts: tuple[Tensor, ...]) -> Tensor:
        query, key, value = parts
        return causal.attend(query * scale if scale != 1 else query, key, value).square().sum()

    (expected,) = torch.autograd.grad(attended(torch.split(heads_BTHQ, [4, 2, 2], dim=2)), heads_BTHQ)
    loss = attended(causal.split(heads_BTHQ, [4, 2, 2]))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        (found,) = torch.autograd.grad(loss, heads_BTHQ)
    assert torch.equal(found, expected)
    assert any(event.name == "aten::cat" for event in watched.events()) == (scale != 1)


@pytest.mark.kernels
def test_parts_of_a_split_in_another_order_are_put_in_theirs() -> None:
    """Gradients in one piece of memory, but not one after the other; and one that nobody asked for."""
    heads_BTHQ = torch.randn(1, 40, 6, 8, requires_grad=True)
    first, second, third = causal.split(heads_BTHQ, [2, 2, 2])
    (found,) = torch.autograd.grad(causal.attend(third, first, second).sum(), heads_BTHQ)
    query, key, value = torch.split(heads_BTHQ, [2, 2, 2], dim=2)
    (expected,) = torch.autograd.grad(causal.attend(value, query, key).sum(), heads_BTHQ)
    assert torch.equal(found, expected)
    (found,) = torch.autograd.grad(causal.split(heads_BTHQ, [4, 2])[1].sum(), heads_BTHQ)
    assert found[:, :, 4:].eq(1).all() and not found[:, :, :4].any()
