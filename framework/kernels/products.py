"""Products of matrices with many rows, for training and long prompts: our blocked product where it is faster, else torch's.

Shape legend: N rows, I inner length, O columns. Must not know networks or losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from framework.kernels import calls
from framework.kernels.library import outruns_mkl

MOST_THREADS = 8  # that share a last-level cache; nothing is known beyond
FEWEST_PRODUCTS = 2**25  # multiplications under which starting ours costs more than it wins
FEWEST_ROWS = 32  # of either side: with fewer, laying the other side out afresh takes as long as multiplying


def product(a_NI: Tensor, b_IO: Tensor, *, out: Tensor | None = None, adds: bool = False) -> Tensor:
    """A B, or with `adds` out + A B; without gradients. A new tensor unless `out` is given."""
    if _serves(a_NI, b_IO, out):
        if out is None:
            out = a_NI.new_empty(len(a_NI), b_IO.shape[1])
        calls.product(a_NI, b_IO, None, out, adds)
        return out
    if adds:
        assert out is not None
        return out.addmm_(a_NI, b_IO)
    return torch.mm(a_NI, b_IO) if out is None else torch.mm(a_NI, b_IO, out=out)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear`: x W^T + b over the last dimension, with gradients."""
    if x.shape[-1:] == weight_OI.shape[-1:] and _serves(x, weight_OI, bias_O) and not torch.is_autocast_enabled("cpu"):
        result: Tensor = _Linear.apply(x, weight_OI, bias_O)  # type: ignore[no-untyped-call]
        return result
    return F.linear(x, weight_OI, bias_O)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        out = x.new_empty(*x.shape[:-1], len(weight_OI))
        calls.product(_rows(x), weight_OI.T, bias_O, _rows(out), adds=False)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI = ctx.saved_tensors
        d_out_NO, (wants_x, wants_weight, wants_bias) = _rows(d_out), ctx.needs_input_grad
        return (
            product(d_out_NO, weight_OI).view(x.shape) if wants_x else None,
            product(d_out_NO.T, _rows(x)) if wants_weight else None,
            d_out_NO.sum(0) if wants_bias else None,
        )


def _rows(x: Tensor) -> Tensor:
    """All dimensions but the last as one."""
    return x.reshape(-1, x.shape[-1])


def _serves(x: Tensor, other: Tensor, third: Tensor | None) -> bool:
    """Whether ours takes these, and is faster."""
    inner, size = x.shape[-1], x.numel()
    columns = other.numel() // max(inner, 1)
    return (
        size * columns >= FEWEST_PRODUCTS
        and size >= FEWEST_ROWS * inner
        and columns >= FEWEST_ROWS
        and outruns_torch(x, other)
        and (third is None or (_is_plain(third) and third.stride(-1) == 1))
    )


def outruns_torch(*matrices: Tensor) -> bool:
    """Whether our kernels for many rows take these and, with as many threads, are known to be faster than torch's.

    Whoever watches torch's operations (a counter of flops, a tracer) sees torch's.
    """
    return (
        outruns_mkl()  # before `take`, which may compile
        and calls.take(matrices[0])
        and all(map(_is_plain, matrices))
        and torch.get_num_threads() <= MOST_THREADS
        and not torch._C._len_torch_dispatch_stack()
    )


def _is_plain(matrix: Tensor) -> bool:
    return matrix.dtype == torch.float32 and matrix.is_cpu and type(matrix) in calls.PLAIN
