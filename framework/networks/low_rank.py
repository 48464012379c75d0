"""A frozen linear layer with thin matrices beside it: x W^T + b + scaling (x A^T) B^T (LoRA, Hu et al. 2021).

Shape legend: I inputs, O outputs, R rank, N rows. What is trained and when, lora.py decides; must not know networks or files.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from framework.kernels import calls
from framework.networks.linear import MOST_ROWS, Linear, linear
from framework.networks.quantized import QuantizedMatrix


def divisor(rank: int, rank_stabilised: bool) -> float:
    """What alpha is divided by: the rank, or its root (Kalajdzievski 2023)."""
    return math.sqrt(rank) if rank_stabilised else rank


class Adapter(nn.Module):
    """A layer's two thin matrices.

    Args:
        A_RI, B_OR: their values; they become parameters.
        alpha: numerator of the scaling, alpha / R.
        dropout: probability with which an input is left out on its way to A while training.
        rank_stabilised: the scaling is alpha / sqrt(R) instead.
    """

    def __init__(self, A_RI: Tensor, B_OR: Tensor, alpha: float, dropout: float = 0.0, rank_stabilised: bool = False) -> None:
        super().__init__()
        self.A_RI, self.B_OR = nn.Parameter(A_RI), nn.Parameter(B_OR)
        self.alpha, self.dropout, self.rank_stabilised = alpha, dropout, rank_stabilised
        self.scaling = alpha / divisor(self.rank, rank_stabilised)

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self.A_RI.shape[0]

    @torch.no_grad()
    def merged_into(self, weight_OI: Tensor) -> Tensor:
        """W + scaling B A in W's type, computed at least in fp32."""
        exact = torch.promote_types(weight_OI.dtype, torch.float32)
        A_RI, B_OR = (matrix.to(weight_OI.device, exact) for matrix in (self.A_RI, self.B_OR))
        return torch.addmm(weight_OI.to(exact), B_OR, A_RI, alpha=self.scaling).to(weight_OI.dtype)


class AdaptedLinear(Linear):
    """In the place of an `nn.Linear`, whose parameters it takes over; at most one of its adapters is in use.

    Without gradients few rows on a CPU are multiplied with W + scaling B A, kept beside W and made anew whenever one of the three has
    changed: decoding then costs what it costs without an adapter. W itself is never written to.

    A W that was quantised is made whole at each use, forward and backward, and never kept (QLoRA, Dettmers et al. 2023): with a gradient
    and without, the product is the same.

    Attributes:
        weight: W; None where it was quantised.
        matrix: W where it was quantised.
        adapters: by name.
        in_use: name of the one that computes; the layer need not have it.
        keeps_merged: whether all that is computed without gradients goes through W + scaling B A.
    """

    def __init__(self, given: nn.Linear) -> None:
        super().__init__(given.in_features, given.out_features, bias=False, device="meta")
        self.weight, self.bias = given.weight, given.bias
        self.matrix: QuantizedMatrix | None = None
        self.adapters = nn.ModuleDict()
        self.in_use: str | None = None
        self.keeps_merged = False
        self._merged: tuple[list[tuple[int, int]], Tensor] | None = None  # what it was made from, and the matrix
        self.train(given.training)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_merged": None}  # a copy makes its own

    def quantize(self, bits: Literal[8, 4]) -> None:
        """Keep W in so many bits, from now on."""
        self.matrix = QuantizedMatrix(self.weight, bits)
        self.weight = None  # type: ignore[assignment]

    def whole_weight(self) -> Tensor:
        """W, [O, I], made anew where it was quantised."""
        return self.weight if self.matrix is None else self.matrix.dequantised()

    @property
    def adapter(self) -> Adapter | None:
        """The adapter in use; None if there is none, or this layer has none of that name."""
        return None if self.in_use is None else self.named(self.in_use)

    def named(self, name: str) -> Adapter | None:
        """An adapter; None if this layer has none of that name."""
        adapters = self._modules["adapters"]  # may be asked of every layer at every token, and nn.Module.__getattr__ is slow
        assert adapters is not None
        return adapters._modules.get(name)  # type: ignore[return-value]

    def forward(self, input: Tensor) -> Tensor:
        adapter = self.adapter
        if adapter is not None and self._takes_merged(input, adapter):
            return linear(input, self.merged_weight(adapter), self.bias)
        if self.matrix is not None:
            return self._beside_quantised(input, self.matrix, adapter)
        return super().forward(input) if adapter is None else self._beside(input, adapter)

    def _beside(self, input: Tensor, adapter: Adapter) -> Tensor:
        x, bias_O, A_RI, B_OR = self._in_one_type(input, adapter)
        weight_OI, dropped = self.weight.to(x.dtype), F.dropout(x, adapter.dropout) if self._drops(adapter) else None
        z = x if dropped is None else dropped
        if torch.compiler.is_compiling() or weight_OI.requires_grad or (bias_O is not None and bias_O.requires_grad):
            return F.linear(x, weight_OI, bias_O) + adapter.scaling * F.linear(F.linear(z, A_RI), B_OR)
        if torch.is_grad_enabled():
            result: Tensor = _Product.apply(x, dropped, weight_OI, bias_O, A_RI, B_OR, adapter.scaling)  # type: ignore[no-untyped-call]
            return result
        out = linear(x, weight_OI, bias_O)
        _add(out, F.linear(z, A_RI), B_OR, adapter.scaling)
        return out

    def _beside_quantised(self, input: Tensor, matrix: QuantizedMatrix, adapter: Adapter | None) -> Tensor:
        x, bias_O, *thin = self._in_one_type(input, adapter)
        out = _quantised_product(x, matrix, bias_O)
        if adapter is None:
            return out
        z = F.dropout(x, adapter.dropout) if self._drops(adapter) else x
        return out + F.linear(F.linear(z, adapter.scaling * thin[0]), thin[1])

    def merged_weight(self, adapter: Adapter) -> Tensor:
        """W + scaling B A in W's type, computed at least in fp32; W itself is as it was."""
        parts = [self._parameters["weight"] if self.matrix is None else self.matrix.packed_PSB, *adapter._parameters.values()]
        stamp = [(part.data_ptr(), 0 if part.is_inference() else part._version) for part in parts if part is not None]
        if self._merged is None or self._merged[0] != stamp:
            self._merged = stamp, adapter.merged_into(self.whole_weight())
        return self._merged[1]

    def drop_merged(self) -> None:
        """Free the merged matrix."""
        self._merged = None

    def for_kernel(self, outputs: int, inputs: int) -> tuple[int, Tensor, None] | None:
        """Bits and the fp32 matrix that inference multiplies with, for networks/blocks.py; None where it has to ask `forward`."""
        adapter, weight_OI = self.adapter, self._parameters["weight"]
        if adapter is not None and self._drops(adapter):
            return None
        if weight_OI is None or weight_OI.dtype != torch.float32 or weight_OI.shape != (outputs, inputs) or not weight_OI.is_cpu:
            return None
        if type(weight_OI) not in calls.PLAIN or not weight_OI.is_contiguous():
            return None
        return 32, weight_OI if adapter is None else self.merged_weight(adapter), None

    def _drops(self, adapter: Adapter) -> bool:
        return self.training and adapter.dropout > 0

    def _takes_merged(self, x: Tensor, adapter: Adapter) -> bool:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or self._drops(adapter):
            return False
        # in bf16 a merged matrix loses what is small beside W: only who asks for it gets it
        if self.keeps_merged or self.matrix is not None:
            return self.keeps_merged
        few = x.dtype == self.weight.dtype == torch.float32 and x.numel() <= MOST_ROWS * self.in_features
        return few and calls.serve(x)

    def _in_one_type(self, x: Tensor, adapter: Adapter | None) -> list[Any]:
        """x, b and, with an adapter, A and B in the type of the product: autocast's where that is on, else the input's."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        thin = [] if adapter is None else [adapter.A_RI, adapter.B_OR]
        return [None if tensor is None else tensor.to(dtype) for tensor in (x, self.bias, *thin)]


def _quantised_product(x: Tensor, matrix: QuantizedMatrix, bias_O: Tensor | None) -> Tensor:
    """x W^T + b, W being made whole for the product alone."""
    if torch.compiler.is_compiling():
        return F.linear(x, matrix.dequantised().to(x.dtype), bias_O)
    result: Tensor = _QuantisedProduct.apply(x, matrix, bias_O)  # type: ignore[no-untyped-call]
    return result


def first_adapter(layer: nn.Linear, rank: int, alpha: float, dropout: float, rank_stabilised: bool) -> Adapter:
    """One that changes nothing yet: A as `nn.Linear` begins, B zero; in bf16 small steps would be lost, so at least in fp32."""
    matrix = layer.matrix if isinstance(layer, AdaptedLinear) else None
    dtype, device = (layer.weight.dtype, layer.weight.device) if matrix is None else (matrix.dtype, matrix.packed_PSB.device)
    A_RI = torch.empty(rank, layer.in_features, dtype=torch.promote_types(dtype, torch.float32), device=device)
    nn.init.kaiming_uniform_(A_RI, a=math.sqrt(5))
    return Adapter(A_RI, A_RI.new_zeros(layer.out_features, rank), alpha, dropout, rank_stabilised)


class _QuantisedProduct(torch.autograd.Function):
    """x W^T + b with W and b frozen; W is made anew in the backward pass rather than kept from the forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: QuantizedMatrix, bias_O: Tensor | None) -> Tensor:
        ctx.matrix = matrix
        return F.linear(x, matrix.dequantised().to(x.dtype), bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient @ ctx.matrix.dequantised().to(gradient.dtype), None, None


class _Product(torch.autograd.Function):
    """x W^T + b + scaling (z A^T) B^T with W and b frozen; z is x, or x after dropout.

    What is added is added in place, and the scaling meets thin matrices only: no term of full width is written twice.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, weight_OI: Tensor, bias_O: Tensor | None, A_RI: Tensor, B_OR: Tensor, scaling: float
    ) -> Tensor:
        z = x if dropped is None else dropped
        out, narrow = F.linear(x, weight_OI, bias_O), F.linear(z, A_RI)
        _add(out, narrow, B_OR, scaling)
        ctx.save_for_backward(z, narrow, weight_OI, A_RI, B_OR)
        ctx.scaling = scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, narrow, weight_OI, A_RI, B_OR = ctx.saved_tensors
        gradient_NO, z_NI = gradient.reshape(-1, gradient.shape[-1]), z.reshape(-1, z.shape[-1])
        for_x, for_z, _, _, for_A, for_B, _ = ctx.needs_input_grad
        x_NI = gradient_NO @ weight_OI if for_x else None
        narrow_NR = (gradient_NO @ B_OR).mul_(ctx.scaling)
        if x_NI is not None and not for_z:
            x_NI.addmm_(narrow_NR, A_RI)
        return (
            None if x_NI is None else x_NI.view(z.shape),
            (narrow_NR @ A_RI).view(z.shape) if for_z else None,
            None,
            None,
            narrow_NR.t() @ z_NI if for_A else None,
            (gradient_NO.t() @ narrow.reshape(-1, narrow.shape[-1])).mul_(ctx.scaling) if for_B else None,
            None,
        )


def _add(out: Tensor, narrow: Tensor, B_OR: Tensor, scaling: float) -> None:
    """out += scaling narrow B^T."""
    out.view(-1, out.shape[-1]).addmm_(narrow.reshape(-1, narrow.shape[-1]), B_OR.t(), alpha=scaling)
