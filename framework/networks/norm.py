"""LayerNorm and RMSNorm as a NetworkShape asks for them, through torch's fused functions (which reduce in fp32 whatever the input).

An RMSNorm of few rows on a CPU takes our kernel where nothing is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.kernels import calls
from framework.networks.shape import NetworkShape

FEW_ROWS = 64  # the kernel runs on one thread


class Norm(nn.Module):
    """Normalises the last dimension, then scales (and shifts) it.

    Args:
        shape: gives the kind, eps and whether there is a bias.
        width: size of the last dimension.
        bias: whether there is a bias; None: as the shape says.
    """

    def __init__(self, shape: NetworkShape, width: int, bias: bool | None = None) -> None:
        super().__init__()
        self.kind, self.eps = shape.norm, shape.norm_eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if (shape.norm_bias if bias is None else bias) else None

    def forward(self, hidden: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)
        if self.kind == "rms":
            return self._rms_norm(hidden, self.weight)
        wide = torch.promote_types(hidden.dtype, torch.float32)  # near 1 a 16-bit sum would lose the weight's digits
        return self._rms_norm(hidden.to(wide), self.weight.to(wide) + 1).to(hidden.dtype)

    def _rms_norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        is_small = hidden.numel() <= FEW_ROWS * len(weight)
        if is_small and calls.serve(hidden) and hidden.dtype == weight.dtype == torch.float32 and hidden.is_contiguous():
            return calls.rms_norm(hidden, weight, self.eps)
        return F.rms_norm(hidden, weight.shape, weight, self.eps)
