"""Rows from a stream of tokens: inputs, targets and, where documents are masked, their borders. Plain numpy.

Shards and start positions flow in, int64 arrays flow out. Must not know the order of rows, ranks, workers or torch.

Shape legend: B rows, T tokens a row (inputs; a row reads T + 1 tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from framework.batches.shards import Shard

IGNORE = -100  # as in framework.batches.types, which needs torch


class Rows(NamedTuple):
    """A TokenBatch's fields, as arrays."""

    ids_BT: NDArray[np.int64]
    targets_BT: NDArray[np.int64]
    positions_BT: NDArray[np.int64] | None
    documents_BT: NDArray[np.int64] | None


class Stream:
    """A side's shards as one ring of tokens: after the last comes the first, as after any document comes another.

    Args:
        shards: in order.
        context_length: T.
        mask_documents: number the documents of a row, restart positions in each and leave out the target that would cross a border.
    """

    def __init__(self, shards: Sequence[Shard], context_length: int, mask_documents: bool = False) -> None:
        self.shards = list(shards)
        self.context_length = context_length
        self.mask_documents = mask_documents
        self._starts = np.cumsum([0, *(shard.header.tokens for shard in shards)])
        self.num_tokens = int(self._starts[-1])

    @cached_property
    def _windows(self) -> list[NDArray[Any] | None]:
        """Every run of T + 1 tokens in each shard, as a view [tokens - T, T + 1]; None for a shard too short to hold one."""
        width = self.context_length + 1
        return [sliding_window_view(shard.tokens, width) if shard.header.tokens >= width else None for shard in self.shards]

    def __reduce__(self) -> tuple[type[Stream], tuple[list[Shard], int, bool]]:
        return Stream, (self.shards, self.context_length, self.mask_documents)  # worker processes map the files themselves

    def rows(self, starts_B: NDArray[np.int64]) -> Rows:
        """The rows that begin at the given positions of the ring."""
        tokens = self._gather(starts_B)
        ids_BT, targets_BT = tokens[:, :-1].astype(np.int64), tokens[:, 1:].astype(np.int64)
        if not self.mask_documents:
            return Rows(ids_BT, targets_BT, None, None)
        rows, columns = self._last_tokens(starts_B)
        targets_BT[rows, columns] = IGNORE
        return Rows(ids_BT, targets_BT, *_number_documents(ids_BT.shape, rows, columns))

    def rows_once(self, starts_B: NDArray[np.int64]) -> Rows:
        """As `rows`, for reading the stream once from its first token to its last: targets beyond the last token are IGNORE.

        A start may lie beyond the end, too; nothing of such a row counts.
        """
        rows = self.rows(starts_B % self.num_tokens)
        place_BT = starts_B[:, None] + np.arange(self.context_length)
        rows.targets_BT[place_BT + 1 >= self.num_tokens] = IGNORE
        return rows

    def _gather(self, starts_B: NDArray[np.int64]) -> NDArray[Any]:
        """The T + 1 tokens from each start: one indexed read for the rows of a shard; a row that leaves its shard is put together."""
        home = np.searchsorted(self._starts, starts_B, side="right") - 1
        inside = starts_B + self.context_length < self._starts[home + 1]
        if inside.all() and (home == home[0]).all():
            return self._read(home[0], starts_B)
        tokens = np.empty((len(starts_B), self.context_length + 1), dtype=self.shards[0].tokens.dtype)
        for number in np.unique(home[inside]):
            here = inside & (home == number)
            tokens[here] = self._read(number, starts_B[here])
        for row in np.flatnonzero(~inside):
            tokens[row] = self._piecewise(int(starts_B[row]), int(home[row]))
        return tokens

    def _read(self, number: int, starts: NDArray[np.int64]) -> NDArray[Any]:
        """T + 1 tokens from each start, all of which lie in this shard."""
        view = self._windows[number]
        assert view is not None, "a row lies inside a shard that is shorter than it"
        tokens: NDArray[Any] = view[starts - self._starts[number]]
        return tokens

    def _piecewise(self, start: int, number: int) -> NDArray[Any]:
        """T + 1 tokens from `start` in shard `number`, over as many shards as that takes."""
        pieces, missing, offset = [], self.context_length + 1, start - int(self._starts[number])
        while missing:
            piece = self.shards[number % len(self.shards)].tokens[offset : offset + missing]
            pieces.append(piece)
            missing -= len(piece)
            number, offset = number + 1, 0
        return np.concatenate(pieces)

    def _last_tokens(self, starts_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the inputs that are the last token of their document."""
        found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        for number in self._touched(starts_B):
            lap, shard = divmod(int(number), len(self.shards))
            local_B = starts_B - self._starts[shard] - lap * self.num_tokens  # positions as this shard counts them, in this lap of the ring
            ends = self.shards[shard].ends
            first_B = np.searchsorted(ends, _unsigned(local_B), side="right")
            counts_B = np.searchsorted(ends, _unsigned(local_B + self.context_length), side="right") - first_B
            rows = np.repeat(np.arange(len(starts_B)), counts_B)
            within = np.arange(len(rows)) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
            columns = ends[first_B[rows] + within].astype(np.int64) - 1 - local_B[rows]
            found.append((rows, columns))
        return np.concatenate([rows for rows, _ in found]), np.concatenate([columns for _, columns in found])

    def _touched(self, starts_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the shards that hold any input of any row, counting on into the next laps of the ring."""
        laps = 2 + self.context_length // self.num_tokens
        starts = np.concatenate([self._starts[:-1] + lap * self.num_tokens for lap in range(laps)])
        first, last = (np.searchsorted(starts, starts_B + reach, side="right") - 1 for reach in (0, self.context_length - 1))
        return np.unique(np.concatenate([np.arange(a, b + 1) for a, b in {*zip(first.tolist(), last.tolist(), strict=True)}]))


def _unsigned(positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """As document ends are stored; positions before the shard become 0, and no document ends at 0."""
    return np.maximum(positions, 0).astype(np.uint64)


def _number_documents(
    shape: tuple[int, ...], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions, from 0 in each document's part of a row, and the documents' numbers in the row, from the last tokens' places."""
    first_BT = np.zeros(shape, dtype=np.int64)
    goes_on = columns + 1 < shape[1]
    first_BT[rows[goes_on], columns[goes_on] + 1] = 1
    place_T = np.arange(shape[1])
    positions_BT = place_T - np.maximum.accumulate(first_BT * place_T, axis=1)
    return positions_BT, np.cumsum(first_BT, axis=1)
