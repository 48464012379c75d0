"""Keys and values of the tokens a network has seen, in memory allocated once and handed out in blocks.

Shape legend: L layers, S slots (a slot holds one token), K key-value heads, H query heads, Q head width; R sequences of a forward,
M blocks of the longest of them, T their new tokens one sequence after the other, N some of those, C new tokens of each sequence of
a group.
A network writes the new tokens' keys and values and attends to all of their sequence. Must not know ids, requests or samplers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from framework.kernels import calls
from framework.networks import dot_product

BLOCK_TOKENS = 16
FEW_TOKENS = 16  # sequences with at most so many new tokens go through the kernel together; more suit a matrix product each


class Cache:
    """Key-value memory of `num_blocks` blocks, beside block 0, which belongs to no sequence and pads their tables.

    Which blocks are whose, the caller decides; a sequence's token number p lies in its block number p // block_tokens.

    Args:
        num_layers, num_blocks, num_heads, head_width: the allocated shape.
        dtype, device: of keys and values.
        block_tokens: tokens of a block.

    Attributes:
        layers: what networks/blocks.py has read of the network, for further forwards that `view` says are on the same one.
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
        self.num_blocks, self.block_tokens, self.device = num_blocks, block_tokens, self.keys_LSKQ.device
        self.layers: calls.Layers | None = None

    def view(self, tables_RM: Tensor, lengths: Sequence[int], counts: Sequence[int], unchanged: bool = False) -> View:
        """What one forward writes and reads.

        Args:
            tables_RM: the blocks of each sequence, new tokens included, padded with anything; int32, on the CPU.
            lengths: tokens that each sequence has in the cache.
            counts: new tokens of each sequence, which the forward gets as ids [1, T], one sequence after the other.
            unchanged: the network, its modules and their hooks are what they were at the last forward; weights may have other values
                in the same places.
        """
        if not unchanged:
            self.layers = None
        return View(self, tables_RM, lengths, counts)

    def copy_block(self, source: int, target: int) -> None:
        """Let a block hold what another one holds."""
        size = self.block_tokens
        for memory in (self.keys_LSKQ, self.values_LSKQ):
            memory[:, target * size : (target + 1) * size] = memory[:, source * size : (source + 1) * size]


class Few(NamedTuple):
    """New tokens that go through the kernel, one by one: those of sequences with few of them.

    Attributes:
        tokens_N: their places among the T new tokens.
        tables_RM, rows_N, positions_N, block_tokens: as the kernel has them.
    """

    tokens_N: Tensor
    tables_RM: Tensor
    rows_N: Tensor
    positions_N: Tensor
    block_tokens: int

    def attend(self, query_NHQ: Tensor, keys_SKQ: Tensor, values_SKQ: Tensor, window: int | None, softcap: float | None) -> Tensor:
        """What these tokens read, [N, H, Q]."""
        assert softcap is None, "the kernel caps no scores"
        mixed = calls.attend(
            query_NHQ.float(), keys_SKQ, values_SKQ, self.tables_RM, self.rows_N, self.positions_N, self.block_tokens, window
        )
        return mixed.to(query_NHQ.dtype)


class Group(NamedTuple):
    """Sequences of a forward with the same number of new tokens C.

    Attributes:
        tokens_N: their places among the T new tokens, [R C].
        slots_RS: the slots of all their tokens, padded with slot 0.
        positions_RC: positions of the new tokens.
    """

    tokens_N: Tensor
    slots_RS: Tensor
    positions_RC: Tensor

    def attend(self, query_NHQ: Tensor, keys_SKQ: Tensor, values_SKQ: Tensor, window: int | None, softcap: float | None) -> Tensor:
        """What these tokens read, [N, H, Q]."""
        query_RHCQ = query_NHQ.reshape(*self.positions_RC.shape, *query_NHQ.shape[1:]).transpose(1, 2)
        keys_RKSQ, values_RKSQ = (memory[self.slots_RS].transpose(1, 2) for memory in (keys_SKQ, values_SKQ))
        key_S = torch.arange(self.slots_RS.shape[1], device=query_NHQ.device)
        mask_RCS = key_S <= self.positions_RC[:, :, None]
        if window is not None:
            mask_RCS = mask_RCS & (key_S > self.positions_RC[:, :, None] - window)
        mixed_RHCQ = dot_product.attend(query_RHCQ, keys_RKSQ, values_RKSQ, mask_RCS[:, None], softcap)
        return mixed_RHCQ.transpose(1, 2).flatten(0, 1)


class View:
    """The sequences of one forward: where their new tokens' keys and values go, and what those tokens attend to.

    Attributes:
        positions_BT: the position of each new token in its sequence, [1, T].
        slots_T: where its keys and values go.
        end: the length of the longest sequence with its new tokens.
    """

    def __init__(self, cache: Cache, tables_RM: Tensor, lengths: Sequence[int], counts: Sequence[int]) -> None:
        self.cache, self._tables_RM = cache, tables_RM
        self.end = max(length + count for length, count in zip(lengths, counts))
        if self.end > tables_RM.shape[1] * cache.block_tokens:
            raise ValueError(
                f"the tables have {tables_RM.shape[1]} blocks of {cache.block_tokens} tokens and a sequence has {self.end} tokens"
            )
        self._lengths, self._counts = lengths, counts
        # in numpy, which starts sooner than torch: this is the round of a single token too
        counts_R, size = np.array(counts), cache.block_tokens
        rows_T, positions_T = np.arange(len(counts)), np.array(lengths)
        if set(counts) != {1}:
            rows_T = np.repeat(rows_T, counts_R)
            positions_T = np.arange(len(rows_T)) + (positions_T - (counts_R.cumsum() - counts_R))[rows_T]
        slots_T = tables_RM.numpy()[rows_T, positions_T // size].astype(np.int64) * size + positions_T % size
        self._rows_T, self._positions_T = torch.from_numpy(rows_T), torch.from_numpy(positions_T)
        self.slots_T, self.positions_BT = torch.from_numpy(slots_T).to(cache.device), self._positions_T[None].to(cache.device)
        self._parts: list[Few | Group] | None = None  # made for the first layer, the same for all

    def attend(
        self,
        layer: int,
        query_BTHQ: Tensor,
        key_BTKQ: Tensor,
        value_BTKQ: Tensor,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """Store the new tokens' keys and values of a layer; what each token reads from its sequence up to itself, [1, T, H, Q].

        Args:
            layer: its number.
            query_BTHQ, key_BTKQ, value_BTKQ: of the new tokens, [1, T, ...].
            window: a token attends to so many tokens, itself included; None: to all.
            softcap: of the scores, the same for all layers; our kernel does not take it.
        """
        keys_SKQ, values_SKQ = self.cache.keys_LSKQ[layer], self.cache.values_LSKQ[layer]
        keys_SKQ.index_copy_(0, self.slots_T, key_BTKQ[0])
        values_SKQ.index_copy_(0, self.slots_T, value_BTKQ[0])
        if self._parts is None:
            self._parts = self._split(softcap is None and calls.serve(query_BTHQ) and query_BTHQ.dtype == keys_SKQ.dtype)
        if len(self._parts) == 1:
            return self._parts[0].attend(query_BTHQ[0], keys_SKQ, values_SKQ, window, softcap)[None]
        mixed_THQ = torch.empty_like(query_BTHQ[0])
        for part in self._parts:
            mixed_THQ[part.tokens_N] = part.attend(query_BTHQ[0, part.tokens_N], keys_SKQ, values_SKQ, window, softcap)
        return mixed_THQ[None]

    @cached_property
    def few(self) -> Few | None:
        """The new tokens of the sequences that have few of them, as the kernel takes them; None if there are none."""
        rows_T, positions_T = self._rows_T.numpy(), self._positions_T.numpy()
        tokens_N = (np.array(self._counts) <= FEW_TOKENS)[rows_T].nonzero()[0]
        if not len(tokens_N):
            return None
        rows_N, positions_N = (torch.from_numpy(each[tokens_N].astype(np.int32)) for each in (rows_T, positions_T))
        return Few(torch.from_numpy(tokens_N), self._tables_RM.contiguous(), rows_N, positions_N, self.cache.block_tokens)

    def _split(self, has_kernel: bool) -> list[Few | Group]:
        """Sequences with few new tokens for the kernel, where it can be had; the others by their number of new tokens."""
        few = self.few if has_kernel else None
        grouped = sorted({count for count in self._counts if few is None or count > FEW_TOKENS})
        return [*([] if few is None else [few]), *(self.group(count) for count in grouped)]

    def group(self, count: int) -> Group:
        """The sequences with so many new tokens."""
        rows = [row for row, value in enumerate(self._counts) if value == count]
        rows_R = torch.tensor(rows)
        tokens_N = torch.isin(self._rows_T, rows_R).nonzero()[:, 0]
        ends_R1 = torch.tensor([[self._lengths[row] + count] for row in rows])
        size = self.cache.block_tokens
        position_S = torch.arange(int(ends_R1.max()))
        slots_RS = self._tables_RM[rows_R][:, position_S // size] * size + position_S % size
        slots_RS = torch.where(position_S < ends_R1, slots_RS, 0).long()
        device = self.cache.device
        return Group(tokens_N.to(device), slots_RS.to(device), self._positions_T[tokens_N].view(-1, count).to(device))
