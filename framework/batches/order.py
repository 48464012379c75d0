"""In which order windows are visited: a pure function of (seed, index), with no state and no memory. Plain numpy.

Numbers flow in, numbers flow out. Must not know tokens, files, ranks or workers.

Epoch e visits windows 0..n-1 once each, in an order drawn from (seed, e). The order is a Feistel network over a x b >= n cells, with
the few results outside 0..n-1 sent through again until they fall inside (cycle walking; Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002): a bijection, computed for any index alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ORDER_VERSION = 1  # part of a run's fingerprint: a run must not resume into another order
ROUNDS = 8
Numbers = NDArray[np.uint64]


def mix(x: Numbers) -> Numbers:
    """splitmix64's finalizer (Steele, Lea and Flood, 2014): every bit of the result depends on every bit of `x`."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _keys(seed: int, epochs: Numbers) -> Numbers:
    return mix(mix(np.array([seed % 2**64], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)) + epochs)


def permute(indices: Numbers, count: int, keys: Numbers) -> Numbers:
    """A bijection on 0..count-1, another one for every key.

    Args:
        indices: numbers under `count`, shape [N].
        count: how many there are.
        keys: one for each index, shape [N], or one for all, shape [1].
    """
    keys = np.broadcast_to(keys, indices.shape)
    permuted = _scramble(indices, count, keys)
    outside = np.flatnonzero(permuted >= count)
    while len(outside):
        permuted[outside] = _scramble(permuted[outside], count, keys[outside])
        outside = outside[permuted[outside] >= count]
    return permuted


def _scramble(indices: Numbers, count: int, keys: Numbers) -> Numbers:
    """One pass of the network over height x width cells, at least `count` and fewer than `count + width`."""
    width = math.isqrt(count - 1) + 1
    height = -(-count // width)
    columns, rows = indices % np.uint64(width), indices // np.uint64(width)
    for number in range(0, ROUNDS, 2):
        columns = (columns + mix(rows + mix(keys + np.uint64(number))) % np.uint64(width)) % np.uint64(width)
        rows = (rows + mix(columns + mix(keys + np.uint64(number + 1))) % np.uint64(height)) % np.uint64(height)
    return rows * np.uint64(width) + columns


def windows(seed: int, indices: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which window each index of an endless run visits.

    Args:
        seed: chooses the order.
        indices: running numbers of windows, counted from the start of the run, any shape.
        count: windows in an epoch.

    Returns:
        In the shape of `indices`: the window, in 0..count-1, and a random number of the index's epoch, in 0..2**63-1
        (the same for the whole epoch).
    """
    numbers = indices.ravel().astype(np.uint64)
    keys = _keys(seed, numbers // np.uint64(count))
    visited = permute(numbers % np.uint64(count), count, keys)
    epoch_numbers = mix(keys + np.uint64(ROUNDS)) >> np.uint64(1)
    return visited.astype(np.int64).reshape(indices.shape), epoch_numbers.astype(np.int64).reshape(indices.shape)
