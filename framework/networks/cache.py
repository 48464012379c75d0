"""Keys and values of the tokens a network has seen, in memory allocated once and handed out in blocks.

Shape legend: L layers, S slots (a slot holds one token), K key-value heads, H query heads, Q head width; R sequences of a forward,
M blocks of the longest of them, T their new tokens one sequence after the other, C new tokens of each sequence of a group.
A network writes the new tokens' keys and values and attends to all of their sequence. Must not know ids, requests or samplers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_TOKENS = 16
FEW_TOKENS = 16  # sequences with at most so many new tokens go through the kernel together; more suit a matrix product each


class Cache:
    """Key-value memory of `num_blocks` blocks, beside block 0, which belongs to no sequence and pads their tables.

    Which blocks are whose, the caller decides; a sequence's token number p lies in its block number p // block_tokens.

    Args:
        num_layers, num_blocks, num_heads, head_width: the allocated shape.
        dtype, device: of keys and values.
        block_tokens: tokens of a block.
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        num_heads: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
        block_tokens: int = BLOCK_TOKENS,
    ) -> None:
        shape = (num_layers, (num_blocks + 1) * block_tokens, num_heads, head_width)
        self.keys_LSKQ = torch.empty(shape, dtype=dtype, device=device)
        self.values_LSKQ = torch.empty(shape, dtype=dtype, device=device)
        for memory in (self.keys_LSKQ, self.values_LSKQ):
            memory[:, :block_tokens] = 0.0  # weighted with 0 it must not make a NaN
        self.num_blocks, self.block_tokens = num_blocks, block_tokens

    def view(self, tables_RM: Tensor, lengths: Sequence[int], counts: Sequence[int]) -> View:
        """What one forward writes and reads.

        Args:
            tables_RM: the blocks of each sequence, new tokens included, padded with anything; int32, on the CPU.
            lengths: tokens that each sequence has in the cache.
            counts: new tokens of each sequence, which the forward gets as ids [1, T], one sequence after the other.
        """
        return View(self, tables_RM, lengths, counts)

    def copy_block(self, source: int, target: int) -> None:
        """Let a block hold what another one holds."""
        size = self.block_tokens
        for memory in (self.keys_LSKQ, self.values_LSKQ):
            memory[:, target * size : (target + 1) * size] = memory[:, source * size : (source + 1) * size]


class Group(NamedTuple):
    """Sequences of a forward with the same number of new tokens C.

    Attributes:
        tokens_RC: their places among the T new tokens.
        slots_RS: the slots of all their tokens, padded with slot 0.
        positions_RC: positions of the new tokens.
    """

    tokens_RC: Tensor
    slots_RS: Tensor
    positions_RC: Tensor


class View:
    """The sequences of one forward: where their new tokens' keys and values go, and what those tokens attend to.

    Attributes:
        positions_BT: the position of each new token in its sequence, [1, T].
        end: the length of the longest sequence with its new tokens.
    """

    def __init__(self, cache: Cache, tables_RM: Tensor, lengths: Sequence[int], counts: Sequence[int]) -> None:
        self.cache, self._tables_RM = cache, tables_RM
        self.end = max(length + count for length, count in zip(lengths, counts))
        if self.end > tables_RM.shape[1] * cache.block_tokens:
            raise ValueError(f"the tables have {tables_RM.shape[1]} blocks of {cache.block_tokens} tokens and a sequence has {self.end} tokens")
        counts_R = torch.tensor(counts)
        self._rows_T = torch.repeat_interleave(counts_R)
        first_R = torch.tensor(lengths) - (counts_R.cumsum(0) - counts_R)
        positions_T = torch.arange(len(self._rows_T)) + first_R[self._rows_T]
        blocks_T = tables_RM[self._rows_T, positions_T // cache.block_tokens].long()
        device = cache.keys_LSKQ.device
        self._slots_T = (blocks_T * cache.block_tokens + positions_T % cache.block_tokens).to(device)
        self.positions_BT = positions_T[None].to(device)
        self._groups = [self._group(positions_T, lengths, counts, count) for count in sorted(set(counts))]

    def attend(self, layer: int, query_BTHQ: Tensor, key_BTKQ: Tensor, value_BTKQ: Tensor, window: int | None = None) -> Tensor:
        """Store the new tokens' keys and values of a layer; what each token reads from its sequence up to itself, [1, T, H, Q].

        Args:
            layer: its number.
            query_BTHQ, key_BTKQ, value_BTKQ: of the new tokens, [1, T, ...].
            window: a token attends to so many tokens, itself included; None: to all.
        """
        keys_SKQ, values_SKQ = self.cache.keys_LSKQ[layer], self.cache.values_LSKQ[layer]
        keys_SKQ.index_copy_(0, self._slots_T, key_BTKQ[0])
        values_SKQ.index_copy_(0, self._slots_T, value_BTKQ[0])
        if len(self._groups) == 1:
            return _attend(self._groups[0], query_BTHQ[0], keys_SKQ, values_SKQ, window)[None]
        mixed_THQ = torch.empty_like(query_BTHQ[0])
        for group in self._groups:
            mixed_THQ[group.tokens_RC.flatten()] = _attend(group, query_BTHQ[0], keys_SKQ, values_SKQ, window)
        return mixed_THQ[None]

    def _group(self, positions_T: Tensor, lengths: Sequence[int], counts: Sequence[int], count: int) -> Group:
        rows = [row for row, value in enumerate(counts) if value == count]
        rows_R = torch.tensor(rows)
        tokens_RC = torch.isin(self._rows_T, rows_R).nonzero().view(-1, count)
        ends_R1 = torch.tensor([[lengths[row] + count] for row in rows])
        size = self.cache.block_tokens
        position_S = torch.arange(int(ends_R1.max()))
        slots_RS = self._tables_RM[rows_R][:, position_S // size] * size + position_S % size
        slots_RS = torch.where(position_S < ends_R1, slots_RS, 0).long()
        device = self.cache.keys_LSKQ.device
        return Group(tokens_RC.to(device), slots_RS.to(device), positions_T[tokens_RC].to(device))


def _attend(group: Group, query_THQ: Tensor, keys_SKQ: Tensor, values_SKQ: Tensor, window: int | None) -> Tensor:
    """What the new tokens of a group read, [R C, H, Q]."""
    query_RHCQ = query_THQ[group.tokens_RC].transpose(1, 2)
    keys_RKSQ, values_RKSQ = (memory[group.slots_RS].transpose(1, 2) for memory in (keys_SKQ, values_SKQ))
    key_S = torch.arange(group.slots_RS.shape[1], device=query_THQ.device)
    mask_RCS = key_S <= group.positions_RC[:, :, None]
    if window is not None:
        mask_RCS = mask_RCS & (key_S > group.positions_RC[:, :, None] - window)
    mixed_RHCQ = F.scaled_dot_product_attention(
        query_RHCQ, keys_RKSQ, values_RKSQ, attn_mask=mask_RCS[:, None], enable_gqa=query_THQ.shape[1] != keys_SKQ.shape[1]
    )
    return mixed_RHCQ.transpose(1, 2).flatten(0, 1)
