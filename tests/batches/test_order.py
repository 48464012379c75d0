"""The order of windows: a bijection in every epoch, a pure function, and evenly spread."""

from __future__ import annotations

import numpy as np
import pytest

from framework.batches.order import permute, windows


def epoch(seed: int, number: int, count: int) -> list[int]:
    return windows(seed, np.arange(number * count, (number + 1) * count), count)[0].tolist()


@pytest.mark.parametrize("count", [*range(1, 70), 100, 127, 128, 129, 1000, 4096, 65_537, 100_003])
def test_every_epoch_visits_every_window_once(count: int) -> None:
    for number in (0, 1, 7):
        assert sorted(epoch(3, number, count)) == list(range(count))


def test_epochs_and_seeds_differ_and_the_same_seed_does_not() -> None:
    orders = {tuple(epoch(seed, number, 50)) for seed in range(5) for number in range(5)}
    assert len(orders) == 25
    assert epoch(1, 2, 50) == epoch(1, 2, 50)


def test_the_order_does_not_depend_on_the_grouping() -> None:
    indices = np.arange(1000)
    whole = windows(5, indices, 77)
    for size in (1, 7, 64, 300):
        parts = [windows(5, indices[start : start + size], 77) for start in range(0, 1000, size)]
        assert np.array_equal(np.concatenate([part[0] for part in parts]), whole[0])
        assert np.array_equal(np.concatenate([part[1] for part in parts]), whole[1])
    table = windows(5, indices.reshape(10, 100), 77)
    assert np.array_equal(table[0].ravel(), whole[0])
    assert table[1].shape == (10, 100)


def test_the_epochs_random_number_is_one_for_the_epoch_and_moves() -> None:
    numbers = windows(5, np.arange(10 * 77), 77)[1].reshape(10, 77)
    assert (numbers == numbers[:, :1]).all()
    assert len(set(numbers[:, 0].tolist())) == 10
    assert (numbers >= 0).all()


def test_far_positions_and_large_corpora_are_exact() -> None:
    count = 10**12 + 39
    visited, _ = windows(1, np.arange(2**50, 2**50 + 1000), count)
    assert len(set(visited.tolist())) == 1000
    assert visited.min() >= 0
    assert visited.max() < count


@pytest.mark.parametrize("count", [8, 100, 1000])
def test_each_place_sees_each_window_about_as_often(count: int) -> None:
    """Chi-squared over (place, window) in 400 epochs x seeds stays within five standard deviations of its mean."""
    cells = 8
    seen = np.zeros((cells, cells))
    for seed in range(20):
        for number in range(20):
            visited = np.array(epoch(seed, number, count))
            np.add.at(seen, (np.arange(count) * cells // count, visited * cells // count), 1)
    expected = np.outer(seen.sum(1), seen.sum(0)) / seen.sum()
    statistic = ((seen - expected) ** 2 / expected).sum()
    freedom = (cells - 1) ** 2
    # sampling without replacement: the variance is n / (n - 1) times that of independent draws
    assert abs(statistic - freedom * count / (count - 1)) < 5 * np.sqrt(2 * freedom) * count / (count - 1)


def test_neighbours_are_torn_apart() -> None:
    visited = np.array(epoch(0, 0, 10_000))
    correlation = np.corrcoef(visited[:-1], visited[1:])[0, 1]
    assert abs(correlation) < 0.05  # five standard deviations
    assert np.mean(np.abs(np.diff(visited)) == 1) < 0.002


def test_all_orders_of_three_windows_occur() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(600):
        order = tuple(epoch(seed, 0, 3))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 50


def test_the_order_is_fixed_for_ever() -> None:
    """A run resumes in the order it began with: a change here is a change of ORDER_VERSION."""
    assert epoch(0, 0, 12) == FIXED[0]
    assert epoch(2**63 + 5, 3, 12) == FIXED[1]
    assert permute(np.arange(5, dtype=np.uint64), 5, np.array([1], dtype=np.uint64)).tolist() == FIXED[2]


FIXED = [[6, 1, 4, 10, 7, 8, 9, 5, 0, 2, 11, 3], [4, 2, 1, 3, 9, 10, 8, 0, 7, 5, 11, 6], [2, 3, 1, 4, 0]]
