"""Keys and values of the tokens a network has seen, in memory allocated once.

Shape legend: B batch, K key-value heads, S slots in time, Q head width.
A network writes the new tokens' keys and values and reads all of them back. Must not know ids, requests or samplers.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Static key-value memory for a batch of sequences that advance together.

    Args:
        num_layers, batch_size, num_heads, length, head_width: the allocated shape; `length` in tokens.
    """

    def __init__(
        self, num_layers: int, batch_size: int, num_heads: int, length: int, head_width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (num_layers, batch_size, num_heads, length, head_width)
        self.keys_LBKSQ = torch.empty(shape, dtype=dtype, device=device)
        self.values_LBKSQ = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = length
        self.length = 0  # tokens held; the same for every sequence of the batch

    def extend(self, layer: int, keys_BKTQ: Tensor, values_BKTQ: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new tokens of a layer; keys and values of all tokens so far, [B, K, length + T, Q]. `advance` comes once a forward."""
        end = self.length + keys_BKTQ.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens and {end} were written")
        self.keys_LBKSQ[layer, :, :, self.length : end] = keys_BKTQ
        self.values_LBKSQ[layer, :, :, self.length : end] = values_BKTQ
        return self.keys_LBKSQ[layer, :, :, :end], self.values_LBKSQ[layer, :, :, :end]

    def advance(self, num_tokens: int) -> None:
        """Count the tokens that every layer has stored."""
        self.length += num_tokens
