"""Networks with weights of 8 or 4 bits, for inference: less to read from memory for each token, and integer products.

A Transformer flows in, a Network with the same interface flows out; forward, cache and logits work as before, a little less exactly.
On a CPU our kernels multiply the integers; elsewhere, and without kernels, a matrix is dequantised at each use (less memory, not less time).

Shape legend: O outputs, I inputs (padded with zeros to whole groups), G groups of inputs, P panels of 16 outputs, N rows, S steps of
4 inputs (with 4 bits: of twice 4), B batch, T time, D model width, V vocabulary. Must not know files, requests or training.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.errors import ConfigError
from framework.networks.attention import Attention
from framework.networks.base import Network
from framework.networks.cache import BLOCK_TOKENS, Cache, View
from framework.networks.feedforward import FeedForward
from framework.networks.kernels import calls
from framework.networks.linear import PLAIN
from framework.networks.transformer import Transformer

Kind = Literal["int8", "int4"]
PANEL = 16  # outputs that the kernel computes together
GROUP = {8: 64, 4: 32}  # inputs that share a scale: as in kernels/quantized.cpp
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)  # with 4 bits, cutting off the largest weights of a group may bring the others closer


class QuantizedMatrix(nn.Module):
    """A matrix in groups of inputs, each of signed integers times a scale; packed as kernels/quantized.cpp reads it.

    Args:
        weight_OI: the matrix; it may live on any device.
        bits: of an integer.
    """

    packed_PSB: Tensor
    scales_PGX: Tensor

    def __init__(self, weight_OI: Tensor, bits: Literal[8, 4]) -> None:
        super().__init__()
        self.bits, self.dtype = bits, weight_OI.dtype
        self.num_outputs, self.num_inputs = weight_OI.shape
        padding = (0, -self.num_inputs % GROUP[bits], 0, -self.num_outputs % PANEL)
        weight_OGI = F.pad(weight_OI.detach().float(), padding).view(self.num_outputs + padding[3], -1, GROUP[bits])
        numbers_OGI, scales_OG = round_symmetric(weight_OGI) if bits == 8 else round_to_nibbles(weight_OGI)
        self.register_buffer("packed_PSB", pack(numbers_OGI.flatten(1), bits))
        scales_PGX = scales_OG.view(-1, PANEL, scales_OG.shape[1]).transpose(1, 2).contiguous()
        self.register_buffer("scales_PGX", scales_PGX.view(torch.int16))  # as integers, `network.float()` leaves them alone

    def rows(self, ids_N: Tensor) -> Tensor:
        """Some rows, dequantised, [N, I]."""
        panels, places = ids_N // PANEL, ids_N % PANEL
        steps_NS4 = self.packed_PSB.view(*self.packed_PSB.shape[:2], PANEL, 4)[panels, :, places]
        if self.bits == 4:
            steps_NS4 = torch.stack([steps_NS4 & 15, steps_NS4 >> 4], dim=2)
        numbers_NGI = steps_NS4.reshape(len(ids_N), -1, GROUP[self.bits]).float() - (1 << self.bits - 1)
        scales_NG = self.scales_PGX.view(torch.bfloat16)[panels, :, places]
        return (numbers_NGI * scales_NG[:, :, None].float()).flatten(1)[:, : self.num_inputs].to(self.dtype)

    def dequantised(self) -> Tensor:
        """The matrix, [O, I]."""
        return self.rows(torch.arange(self.num_outputs, device=self.packed_PSB.device))

    def product(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """x W^T + b over the last dimension."""
        if not self._fits(x):
            return F.linear(x, self.dequantised().to(x.dtype), bias_O)
        x_NI = x.reshape(-1, self.num_inputs).float().contiguous()
        bias = None if bias_O is None else bias_O.float()
        out_NO = calls.quantized_linear(self.bits, x_NI, self.packed_PSB, self.scales_PGX, bias, self.num_outputs)
        return out_NO.to(x.dtype).view(*x.shape[:-1], -1)

    def _fits(self, x: Tensor) -> bool:
        """Whether the kernel can do this product."""
        return (
            not (torch.is_grad_enabled() and x.requires_grad)
            and not torch.compiler.is_compiling()
            and type(x) in PLAIN
            and x.is_cpu
            and x.shape[-1] == self.num_inputs
            and x.dtype in (torch.float32, torch.bfloat16)
            and calls.available()
        )


class QuantizedLinear(nn.Module):
    """In the place of `nn.Linear`; keeps its bias."""

    def __init__(self, matrix: QuantizedMatrix, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.matrix, self.bias = matrix, bias

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix.product(x, self.bias)


class QuantizedEmbedding(nn.Module):
    """In the place of `nn.Embedding`."""

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, ids: Tensor) -> Tensor:
        return self.matrix.rows(ids.flatten()).view(*ids.shape, -1)


class Quantized(Network):
    """What `quantize` returns: a Transformer whose matrices are quantised, and its output matrix.

    Args:
        network: its embedding and linear layers are QuantizedEmbedding and QuantizedLinear.
        head: the output matrix, vocab_size rows.
    """

    def __init__(self, network: Transformer, head: QuantizedMatrix) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.vocab_size, self.context_length = network.vocab_size, network.context_length

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: View | None = None,
    ) -> Tensor:
        return self.network(ids_BT, positions_BT, documents_BT, cache)

    @property
    def head_weight_VD(self) -> Tensor:
        return self.head.dequantised()

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return self.head.product(hidden_BTD)

    def new_cache(self, num_blocks: int, block_tokens: int = BLOCK_TOKENS) -> Cache:
        return self.network.new_cache(num_blocks, block_tokens)

    @property
    def init_args(self) -> dict[str, Any]:
        """Of the Transformer that was quantised."""
        return self.network.init_args

    def num_parameters(self) -> int:
        return self._exact().num_parameters()

    def flops_per_token(self, length: int) -> int:
        return self._exact().flops_per_token(length)

    def _exact(self) -> Transformer:
        """The network before it was quantised, without its numbers."""
        with torch.device("meta"):
            return Transformer(self.network.shape, self.vocab_size, self.context_length, self.network.vocab_multiple)


@torch.no_grad()
def quantize(network: Network, kind: Kind) -> Quantized:
    """Quantise a Transformer's matrices and tables, group by group and symmetrically; norms, biases and positions stay.

    int8: groups of 64 inputs, 8.25 bits a weight. int4: groups of 32, 4.5 bits; the embedding table and the output matrix are
    int8 there too, because they cost the most quality. Activations are rounded to 8 bits within the kernel.

    Args:
        network: a Transformer on any device. It is used up: its modules are replaced in place, each freed before the next.
        kind: int8 or int4.

    Raises:
        ConfigError: another kind of network.
    """
    if not isinstance(network, Transformer):
        raise ConfigError(f"only a Transformer can be quantised, and this network is a {type(network).__name__}: run it without")
    network.requires_grad_(False)
    table = QuantizedMatrix(network.embedding.weight[: network.vocab_size], 8)  # the rows that pad it are never seen
    head = table if network.head is None else QuantizedMatrix(network.head.weight[: network.vocab_size], 8)
    for part in [part for part in network.blocks.modules() if isinstance(part, (Attention, FeedForward))]:
        for name, module in part.named_children():
            if isinstance(module, nn.Linear):
                setattr(part, name, QuantizedLinear(QuantizedMatrix(module.weight, 8 if kind == "int8" else 4), module.bias))
    network.embedding, network.head = QuantizedEmbedding(table), None  # type: ignore[assignment]
    return Quantized(network, head)


def round_symmetric(weight_OGI: Tensor) -> tuple[Tensor, Tensor]:
    """Integers from -127 to 127 and bf16 scales [O, G]: the largest weight of a group is 127 of them."""
    scales_OG = (weight_OGI.abs().amax(dim=2) / 127).bfloat16()
    return _round(weight_OGI, scales_OG, -127, 127), scales_OG


def round_to_nibbles(weight_OGI: Tensor) -> tuple[Tensor, Tensor]:
    """Integers from -8 to 7 and bf16 scales [O, G] of either sign: of a few scales the one with the least squared error.

    The largest weight of a group becomes -8 (as in llama.cpp's Q4_0) or, shrunk, is cut off there.
    """
    largest_OG1 = weight_OGI.gather(2, weight_OGI.abs().argmax(dim=2, keepdim=True))
    best_OG = torch.full(largest_OG1.shape[:2], float("inf"), device=weight_OGI.device)
    scales_OG = torch.zeros_like(best_OG, dtype=torch.bfloat16)
    for shrink in SHRINKS:
        candidate_OG = (largest_OG1[:, :, 0] * (shrink / -8)).bfloat16()
        error_OG = (_round(weight_OGI, candidate_OG, -8, 7) * candidate_OG[:, :, None] - weight_OGI).square().sum(dim=2)
        scales_OG = torch.where(error_OG < best_OG, candidate_OG, scales_OG)
        best_OG = torch.minimum(best_OG, error_OG)
    return _round(weight_OGI, scales_OG, -8, 7), scales_OG


def pack(numbers_OI: Tensor, bits: Literal[8, 4]) -> Tensor:
    """Signed integers as the bytes that the kernel reads, [P, S, 16 outputs x 4 inputs]: unsigned, panel by panel and step by step."""
    steps = (numbers_OI + (1 << bits - 1)).to(torch.uint8).view(-1, PANEL, numbers_OI.shape[1] // 4, 4).transpose(1, 2)
    packed_PSX4 = steps if bits == 8 else steps[:, 0::2] | steps[:, 1::2] << 4
    return packed_PSX4.flatten(2).contiguous()


def _round(weight_OGI: Tensor, scales_OG: Tensor, lowest: int, highest: int) -> Tensor:
    scales_OG1 = scales_OG[:, :, None].float()
    return torch.where(scales_OG1 == 0, 0.0, weight_OGI / scales_OG1).round().clamp(lowest, highest)
