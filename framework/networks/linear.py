"""Matrix products that take our kernels where they serve, and torch everywhere else.

Shape legend: I inputs, O outputs. Must not know networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.kernels import calls, products

MOST_ROWS = 64  # with more, a blocked product wins


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear`: x W^T + b over the last dimension; by a kernel of its own when nothing is trained and few rows are on a CPU.

    That one sums in fp32 (in bf16 networks too), and a row's result is the same bits alone and among others.
    """
    if not calls.serve(x) or not _fit(x, weight_OI, bias_O):
        return products.linear(x, weight_OI, bias_O)
    if x.dtype == torch.float32:
        return calls.linear(x if x.is_contiguous() else x.contiguous(), weight_OI, bias_O)
    return calls.linear(x.float().contiguous(), weight_OI, bias_O).to(x.dtype)


class Linear(nn.Linear):
    """torch's `nn.Linear` (same parameters, state and gradients) that computes with `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def _fit(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> bool:
    """Whether the kernel takes these together, and is faster than torch."""
    return (
        x.dtype == weight_OI.dtype
        and (bias_O is None or bias_O.dtype == x.dtype)
        and 0 < x.numel() <= MOST_ROWS * x.shape[-1]
        and x.shape[-1] == weight_OI.shape[-1]  # else torch says what is wrong
        and weight_OI.is_cpu
        and weight_OI.is_contiguous()
        and type(weight_OI) in calls.PLAIN
        and not torch.is_autocast_enabled("cpu")
    )
