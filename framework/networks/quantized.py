"""Networks with weights of 8 or 4 bits, for inference: less to read from memory for each token, and integer products.

A Transformer flows in, a Network with the same interface flows out; forward, cache and logits work as before, a little less exactly.
On a CPU our kernels multiply the integers; elsewhere, and without kernels, a matrix is dequantised at each use (less memory, not less time).

Shape legend: O outputs, I inputs (padded with zeros to whole groups), G groups of inputs, K scale and (with 4 bits) minimum,
P panels of X = 16 outputs, S steps of 4 inputs (with 4 bits: of twice 4) in B bytes, N rows; B batch, T time, D model width,
V vocabulary. Must not know files, requests or training.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.errors import ConfigError
from framework.kernels import calls
from framework.networks.attention import Attention
from framework.networks.base import Network, Places
from framework.networks.cache import BLOCK_TOKENS, Cache, View
from framework.networks.dot_product import soft_capped
from framework.networks.feedforward import FeedForward
from framework.networks.transformer import Transformer

Kind = Literal["int8", "int4"]
PANEL = 16  # outputs that the kernel computes together
GROUP = {8: 64, 4: 32}  # inputs that share a scale: as in kernels/quantized.cpp


class QuantizedMatrix(nn.Module):
    """A matrix in groups of inputs that share a scale (with 4 bits a minimum too), packed as kernels/quantized.cpp reads it.

    Args:
        weight_OI: the matrix; it may live on any device.
        bits: of an integer.
    """

    packed_PSB: Tensor
    scales_PGKX: Tensor

    def __init__(self, weight_OI: Tensor, bits: Literal[8, 4]) -> None:
        super().__init__()
        self.bits, self.dtype = bits, weight_OI.dtype
        self.num_outputs, self.num_inputs = weight_OI.shape
        padding = (0, -self.num_inputs % GROUP[bits], 0, -self.num_outputs % PANEL)
        weight_OGI = F.pad(weight_OI.detach().float(), padding).view(self.num_outputs + padding[3], -1, GROUP[bits])
        numbers_OGI, scales_OGK = round_symmetric(weight_OGI) if bits == 8 else round_between(weight_OGI)
        self.register_buffer("packed_PSB", pack(numbers_OGI.flatten(1), bits))
        scales_PGKX = scales_OGK.view(-1, PANEL, *scales_OGK.shape[1:]).permute(0, 2, 3, 1).contiguous()
        self.register_buffer("scales_PGKX", scales_PGKX.view(torch.int16))  # as integers, `network.float()` leaves them alone

    def rows(self, ids_N: Tensor) -> Tensor:
        """Some rows, dequantised, [N, I]."""
        panels, places = ids_N // PANEL, ids_N % PANEL
        steps_NS4 = self.packed_PSB.view(*self.packed_PSB.shape[:2], PANEL, 4)[panels, :, places]
        if self.bits == 4:
            steps_NS4 = torch.stack([steps_NS4 & 15, steps_NS4 >> 4], dim=2)
        numbers_NGI = steps_NS4.reshape(len(ids_N), -1, GROUP[self.bits]).float()
        scales_NGK = self.scales_PGKX.view(torch.bfloat16)[panels, :, :, places].float()
        weight_NGI = (numbers_NGI - 128 if self.bits == 8 else numbers_NGI) * scales_NGK[:, :, :1]
        if self.bits == 4:
            weight_NGI = weight_NGI + scales_NGK[:, :, 1:]
        return weight_NGI.flatten(1)[:, : self.num_inputs].to(self.dtype)

    def dequantised(self) -> Tensor:
        """The matrix, [O, I]."""
        steps_PSX4 = self.packed_PSB.view(*self.packed_PSB.shape[:2], PANEL, 4)
        if self.bits == 4:
            steps_PSX4 = torch.stack([steps_PSX4 & 15, steps_PSX4 >> 4], dim=2).flatten(1, 2)
        numbers_OI = steps_PSX4.transpose(1, 2).flatten(0, 1).flatten(1)
        weight_OGI = numbers_OI.view(len(numbers_OI), -1, GROUP[self.bits]).float()
        scales_OGK = self.scales_PGKX.view(torch.bfloat16).permute(0, 3, 1, 2).flatten(0, 1).float()
        if self.bits == 8:
            weight_OGI -= 128
        weight_OGI *= scales_OGK[:, :, :1]
        if self.bits == 4:
            weight_OGI += scales_OGK[:, :, 1:]
        return weight_OGI.flatten(1)[: self.num_outputs, : self.num_inputs].to(self.dtype)

    def product(self, x: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """x W^T + b over the last dimension."""
        wants_gradient = torch.is_grad_enabled() and x.requires_grad  # the matrix itself never does
        if wants_gradient or not calls.take(x) or x.shape[-1] != self.num_inputs:
            return F.linear(x, self.dequantised().to(x.dtype), bias_O)
        exact = x if x.dtype == torch.float32 else x.float()
        bias = None if bias_O is None else bias_O.float()
        out = calls.quantized_linear(self.bits, exact.contiguous(), self.packed_PSB, self.scales_PGKX, bias, self.num_outputs)
        return out if x.dtype == torch.float32 else out.to(x.dtype)


class QuantizedLinear(nn.Module):
    """In the place of `nn.Linear`; keeps its bias."""

    def __init__(self, matrix: QuantizedMatrix, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.matrix, self.bias = matrix, bias

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix.product(x, self.bias)

    def for_kernel(self, outputs: int, inputs: int) -> tuple[int, Tensor, Tensor] | None:
        """Bits, numbers and scales, for networks/blocks.py; None where the matrix is of another size."""
        matrix: Any = self._modules["matrix"]  # may be asked of every layer at every token, and nn.Module.__getattr__ is slow
        if matrix.num_outputs != outputs or matrix.num_inputs != inputs:
            return None
        buffers = matrix._buffers
        packed, scales = buffers["packed_PSB"], buffers["scales_PGKX"]
        return (matrix.bits, packed, scales) if packed.is_cpu else None


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

    def hidden_at(self, places: Places, ids_BT: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None) -> Tensor:
        return self.network.hidden_at(places, ids_BT, positions_BT, documents_BT)

    @property
    def head_weight_VD(self) -> Tensor:
        return self.head.dequantised()

    @property
    def logit_softcap(self) -> float | None:
        return self.network.logit_softcap

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return soft_capped(self.head.product(hidden_BTD), self.logit_softcap)

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
    """Quantise a Transformer's matrices and tables, group by group; norms, biases and positions stay.

    int8: groups of 64 inputs with a scale, 8.25 bits a weight. int4: groups of 32 with a scale and a minimum, 5 bits; the embedding
    table and the output matrix stay int8, because there it costs the most quality. Activations are rounded to 8 bits in the kernel.

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
    return Quantized(network, head).train(network.training)


def round_symmetric(weight_OGI: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers from 1 to 255, and bf16 scales [O, G, 1]: a weight is scale * (number - 128)."""
    scales_OG1 = (weight_OGI.abs().amax(dim=2, keepdim=True) / 127).bfloat16()
    return _divide(weight_OGI, scales_OG1).round().clamp(-127, 127) + 128, scales_OG1


def round_between(weight_OGI: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers from 0 to 15, and bf16 scales and minima [O, G, 2]: a weight is scale * number + minimum (llama.cpp's Q4_1)."""
    lowest_OG1, highest_OG1 = weight_OGI.aminmax(dim=2, keepdim=True)
    scales_OG2 = torch.cat([(highest_OG1 - lowest_OG1) / 15, lowest_OG1], dim=2).bfloat16()
    return _divide(weight_OGI - scales_OG2[:, :, 1:].float(), scales_OG2[:, :, :1]).round().clamp(0, 15), scales_OG2


def pack(numbers_OI: Tensor, bits: Literal[8, 4]) -> Tensor:
    """The bytes that the kernel reads, [P, S, 16 outputs x 4 inputs]: panel by panel and step by step."""
    steps = numbers_OI.to(torch.uint8).view(-1, PANEL, numbers_OI.shape[1] // 4, 4).transpose(1, 2)
    packed_PSX4 = steps if bits == 8 else steps[:, 0::2] | steps[:, 1::2] << 4
    return packed_PSX4.flatten(2).contiguous()


def _divide(weight_OGI: Tensor, scales_OG1: Tensor) -> Tensor:
    return torch.where(scales_OG1 == 0, 0.0, weight_OGI / scales_OG1.float())
