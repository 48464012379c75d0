"""Which n-grams of tokens occur in a training text: a compact index that knows how often it errs. Plain numpy.

Tokens flow in, shares flow out. Must not know texts, datasets or networks.

The index is a Bloom filter (Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970): an n-gram that was added is always
found, one that was not is found with the probability `false_positives`, which is known, and taken off the shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from framework.batches.order import mix

NUM_BITS = 4  # set for each n-gram
FULLEST = 0.3  # share of set bits: 0.3 ** 4, under 1% false positives
CHUNK_TOKENS = 2**18  # hashed together: a few arrays of 2 MiB
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def ngram_hashes(tokens: NDArray[np.integer], length: int) -> NDArray[np.uint64]:
    """A 64-bit hash of each run of `length` tokens, shape [max(0, tokens - length + 1)]."""
    count = max(0, len(tokens) - length + 1)
    numbers = tokens.astype(np.uint64) + np.uint64(1)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(length):
        hashes = hashes * MULTIPLIER + numbers[place : place + count]
    return mix(hashes)


class NgramIndex:
    """The n-grams of a text, in bounded memory.

    Args:
        length: tokens of an n-gram.
        mebibytes: memory; rounded down to a power of two. 16 hold about eleven million different n-grams.

    Attributes:
        num_tokens: added so far.
    """

    def __init__(self, length: int, mebibytes: int) -> None:
        assert length > 0 and mebibytes > 0
        self.length, self.num_tokens = length, 0
        self._table = np.zeros(2 ** (mebibytes.bit_length() - 1) * 2**20, dtype=np.uint8)
        self._full = False
        self._look_at = int(FULLEST * 8 * len(self._table) / NUM_BITS)  # with fewer tokens it cannot be full

    @property
    def false_positives(self) -> float:
        """Probability that an n-gram is found which was never added."""
        return float(self._fill() ** NUM_BITS)

    def add(self, tokens: NDArray[np.integer]) -> None:
        """Add a text's n-grams, up to where the index is full; `num_tokens` says how far that is."""
        for start in range(0, len(tokens), CHUNK_TOKENS):
            if self._is_full():
                return
            chunk = tokens[start : start + CHUNK_TOKENS + self.length - 1]
            self._set(ngram_hashes(chunk, self.length))
            self.num_tokens += min(CHUNK_TOKENS, len(tokens) - start)

    def share(self, texts: Sequence[NDArray[np.integer]]) -> float | None:
        """Share of the texts' n-grams that were added, less what is expected to be found by error; None where they have none."""
        found = np.concatenate([self._has(ngram_hashes(text, self.length)) for text in texts]) if texts else np.empty(0)
        if not len(found):
            return None
        error = self.false_positives
        return max(0.0, (float(found.mean()) - error) / (1 - error))

    def _is_full(self) -> bool:
        """Whether more would make it err too often; looked at once in a while, since that means to count all bits."""
        if self.num_tokens >= self._look_at:
            self._full = self._fill() > FULLEST
            self._look_at = self.num_tokens + CHUNK_TOKENS
        return self._full

    def _fill(self) -> float:
        return float(np.bitwise_count(self._table).sum(dtype=np.int64)) / (8 * len(self._table))

    def _places(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The bits of each hash, [NUM_BITS, hashes] (Kirsch and Mitzenmacher 2006: two hashes do the work of many)."""
        step = (hashes >> np.uint64(32)) | np.uint64(1)
        several = np.arange(NUM_BITS, dtype=np.uint64)[:, None]
        return (hashes + several * step) & np.uint64(8 * len(self._table) - 1)

    def _set(self, hashes: NDArray[np.uint64]) -> None:
        places = self._places(hashes).ravel()
        cells, bits = places >> np.uint64(3), (places & np.uint64(7)).astype(np.uint8)
        for bit in range(8):  # one bit at a time: two writes to one cell in one assignment would lose one of them
            chosen = cells[bits == bit]
            self._table[chosen] |= np.uint8(1 << bit)

    def _has(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        places = self._places(hashes)
        bits = np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
        return ((self._table[places >> np.uint64(3)] & bits) != 0).all(axis=0)
