"""How a head's rows are ordered where rotary positions turn two numbers at a time: halves (Hugging Face, ours) or pairs (llama.cpp).

Weights and biases of queries or keys flow in and out; a row only moves within its head.
"""

from __future__ import annotations

from torch import Tensor


def halved(rows: Tensor, num_heads: int) -> Tensor:
    """Interleaved pairs to halves, of a tensor whose first dimension is [num_heads * head_dim]."""
    return rows.view(num_heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def paired(rows: Tensor, num_heads: int) -> Tensor:
    """Halves to interleaved pairs; the inverse of `halved`."""
    return rows.view(num_heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
