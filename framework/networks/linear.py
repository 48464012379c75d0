"""Matrix products that take our kernel where it serves, and torch everywhere else.

Shape legend: I inputs, O outputs. Must not know networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.networks.kernels import calls

MOST_ROWS = 64  # with more, torch's blocked product wins
PLAIN = (Tensor, nn.Parameter)  # not fake, distributed or otherwise wrapped
DTYPES = (torch.float32, torch.bfloat16)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear`: x W^T + b over the last dimension; by our kernel when nothing is trained and few rows are on a CPU.

    The kernel sums in fp32 (in bf16 networks too), and a row's result is the same bits alone and among others.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _fits(x, weight_OI, bias_O):
        return F.linear(x, weight_OI, bias_O)
    x_NI = x.reshape(-1, x.shape[-1]).contiguous()
    if x.dtype == torch.float32:
        return calls.linear(x_NI, weight_OI, bias_O).view(*x.shape[:-1], -1)
    return calls.linear(x_NI.float(), weight_OI, bias_O).to(x.dtype).view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """torch's `nn.Linear` (same parameters, state and gradients) that infers with `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def _fits(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> bool:
    """Whether the kernel can do this product, and sooner than torch."""
    return (
        x.is_cpu
        and weight_OI.is_cpu
        and type(x) is Tensor
        and type(weight_OI) in PLAIN
        and x.dtype in DTYPES
        and x.dtype == weight_OI.dtype
        and (bias_O is None or bias_O.dtype == x.dtype)
        and 0 < x.numel() <= MOST_ROWS * x.shape[-1]
        and x.shape[-1] == weight_OI.shape[-1]  # torch says what is wrong
        and weight_OI.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and calls.available()
    )
