"""Causal self-attention with grouped key-value heads, and what it needs to know of positions: rotation and mask.

Shape legend: B batch, T new tokens, N some of them, S all tokens (cached and new), D model width, H query heads, K key-value heads,
Q head width.
Must not know blocks, vocabularies or requests.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.kernels import calls
from framework.kernels.causal import split
from framework.networks.base import Places
from framework.networks.cache import View
from framework.networks.dot_product import attend
from framework.networks.linear import Linear
from framework.networks.norm import Norm
from framework.networks.rotary import frequencies, kept_frequencies
from framework.networks.shape import NetworkShape, RotaryScaling

Rotation = tuple[Tensor, Tensor]  # cosines and sines, [B or 1, T, 1, Q / 2]


def rotation(positions_BT: Tensor, head_width: int, theta: float, dtype: torch.dtype, scaling: RotaryScaling | None = None) -> Rotation:
    """Cosines and sines that turn the pairs of a head by its token's position (RoFormer, Su et al. 2021).

    Angles are products of fp32 numbers, as in every published implementation, so that long positions round alike; only a float64
    network gets float64 ones. They are made afresh in each forward: a table in a buffer would be rounded by `network.bfloat16()`.
    """
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    # what is compiled, traced or captured in a CUDA graph has tensors of its own
    lasts = type(positions_BT) is Tensor and positions_BT.is_cpu and not torch.compiler.is_compiling()
    by_pair, factor = (kept_frequencies if lasts else frequencies)(head_width, theta, scaling, dtype, positions_BT.device)
    angles = positions_BT.to(dtype)[..., None, None] * by_pair
    return (angles.cos(), angles.sin()) if factor == 1 else (angles.cos() * factor, angles.sin() * factor)


def rotate(heads_BTHQ: Tensor, by: Rotation) -> Tensor:
    """Turn each head's pairs (i, i + Q/2): Hugging Face's half-split layout, where Meta and GGUF interleave (2i, 2i + 1)."""
    cos, sin = by
    first, second = heads_BTHQ.chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(heads_BTHQ.dtype)


def _can_rotate(heads_BTHQ: Tensor) -> bool:
    """Whether the kernel may turn these in place."""
    return heads_BTHQ.shape[0] == 1 and heads_BTHQ.dtype == torch.float32 and calls.serve(heads_BTHQ)


def attention_mask(num_tokens: int, documents_BT: Tensor | None, window: int | None, device: torch.device) -> Tensor | None:
    """Which tokens each token sees, bool [B or 1, 1, T, T]; None where SDPA's own causal mode says the same."""
    if window is not None and window >= num_tokens:
        window = None
    if documents_BT is None and window is None:
        return None
    query_T1 = torch.arange(num_tokens, device=device)[:, None]
    key_T = torch.arange(num_tokens, device=device)
    mask = key_T <= query_T1
    if window is not None:
        mask = mask & (key_T > query_T1 - window)
    if documents_BT is not None:
        mask = mask & (documents_BT[:, :, None] == documents_BT[:, None, :])
    return mask[:, None] if mask.ndim == 3 else mask[None, None]


class Attention(nn.Module):
    """Multi-head attention of one layer; queries, keys and values come from one matrix: one product instead of three."""

    def __init__(self, shape: NetworkShape, layer: int = 0) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_width = shape.num_heads, shape.kv_heads, shape.query_width
        self.qkv = Linear(shape.width, (self.num_heads + 2 * self.num_kv_heads) * self.head_width, bias=shape.qkv_bias)
        self.out = Linear(self.num_heads * self.head_width, shape.width, bias=shape.out_bias)
        self.query_norm = Norm(shape, self.head_width, bias=False) if shape.qk_norm else None
        self.key_norm = Norm(shape, self.head_width, bias=False) if shape.qk_norm else None
        self.dropout, self.softcap, self.window = shape.dropout, shape.attention_softcap, shape.layer_kind(layer).window
        self.query_scale = (self.head_width / (shape.attention_scale_width or self.head_width)) ** 0.5

    def forward(
        self,
        hidden_BTD: Tensor,
        turn: Rotation | None,
        mask: Tensor | None,
        cache: View | None,
        layer: int,
        places: Places | None = None,
    ) -> Tensor:
        """Attention's output before the residual sum, [B, T, D]; with `places`, [N, D].

        Args:
            hidden_BTD: normalised hidden states of the new tokens.
            turn: from `rotation`; None leaves positions out.
            mask: from `attention_mask`; None with a cache, which knows what each token sees.
            cache: keys and values of earlier tokens, extended by these.
            layer: this block's number in the cache.
            places: the tokens whose output is wanted, which attend to all the same; None: all.
        """
        heads, kv_heads = self.num_heads, self.num_kv_heads
        all_heads = self.qkv(hidden_BTD).unflatten(-1, (heads + 2 * kv_heads, self.head_width))
        if self.query_norm is None and self.key_norm is None and turn is not None:
            turned, value = split(all_heads, [heads + kv_heads, kv_heads])
            if cache is not None and _can_rotate(turned):
                calls.rotate_(turned[0], *turn)
            else:
                turned = rotate(turned, turn)
            query, key = split(turned, [heads, kv_heads])
        else:
            query, key, value = split(all_heads, [heads, kv_heads, kv_heads])
            if self.query_norm is not None and self.key_norm is not None:
                query, key = self.query_norm(query), self.key_norm(key)
            if turn is not None:
                query, key = rotate(query, turn), rotate(key, turn)
        if self.query_scale != 1:  # what attends divides by the root of the head's width, kernels too
            query = query * self.query_scale
        if cache is not None:
            mixed_BTHQ = cache.attend(layer, query, key, value, self.window, self.softcap)
        else:
            mixed_BTHQ = self._attend(query, key, value, mask)
        if places is not None:
            mixed_BTHQ = mixed_BTHQ[places]
        return F.dropout(self.out(mixed_BTHQ.flatten(-2)), self.dropout, self.training)

    def _attend(self, query_BTHQ: Tensor, key_BTKQ: Tensor, value_BTKQ: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (heads.transpose(1, 2) for heads in (query_BTHQ, key_BTKQ, value_BTKQ))
        return attend(query, key, value, mask, self.softcap, self.dropout if self.training else 0.0).transpose(1, 2)
