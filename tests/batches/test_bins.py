"""Packing: everything once, nothing over the capacity, few bins."""

from __future__ import annotations

import random

import pytest

from framework.batches.bins import pack


@pytest.mark.parametrize("seed", range(5))
def test_every_example_once_and_no_bin_too_long(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(1, 50) for _ in range(500)]
    bins = pack(lengths, 50)
    assert sorted(number for each in bins for number in each) == list(range(500))
    assert all(sum(lengths[number] for number in each) <= 50 for each in bins)
    assert len(bins) <= 1.05 * -(-sum(lengths) // 50) + 1


def test_known_packing() -> None:
    assert pack([3, 5, 2, 5, 5], 10) == [[1, 3], [4, 0, 2]]
    assert pack([10, 10], 10) == [[0], [1]]
    assert pack([], 10) == []


def test_best_fit_is_the_fullest_bin_with_room() -> None:
    assert pack([7, 6, 3], 10) == [[0, 2], [1]]
