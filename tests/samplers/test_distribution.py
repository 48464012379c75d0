"""Distributions over candidates, and the best of a row without sorting it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from framework.samplers.distribution import Distribution, best, best_first, merge

SIZES = [1, 7, 127, 128, 129, 1000, 5000, 50_257]


def _scores(rows: int, columns: int, tied: bool) -> Tensor:
    scores = 3.0 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))
    scores = scores.round() if tied else scores
    return scores.masked_fill(torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.1, -math.inf)


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("by_kernel", [False, pytest.param(True, marks=pytest.mark.kernels)])
def test_best_is_argmax(columns: int, tied: bool, by_kernel: bool) -> None:
    scores = _scores(9, columns + 3, tied)[:, :columns]  # a padded vocabulary
    scores[:, columns - 1] += 2.0
    with torch.set_grad_enabled(not by_kernel):
        assert torch.equal(best(scores), scores.argmax(dim=-1, keepdim=True))
        for number in (0.0, -math.inf, math.inf):
            assert not best(torch.full((2, columns), number)).any()
        scores[3, -1] = math.inf
        scores[3, columns // 2 :: 5] = math.nan
        assert best(scores)[3] == columns // 2


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("tied", [False, True])
def test_best_first_is_the_beginning_of_a_stable_sort(columns: int, tied: bool) -> None:
    """But for which of the tokens that tie with the last one."""
    scores = _scores(9, columns, tied)
    values, ids = scores.sort(dim=-1, descending=True, stable=True)
    for count in sorted({1, min(2, columns), min(50, columns), columns // 3 or 1, columns}):
        few_values, few_ids = best_first(scores, count)
        assert torch.equal(few_values, values[:, :count])
        sure = few_values > few_values[:, -1:]
        assert torch.equal(few_ids[sure], ids[:, :count][sure])
        assert torch.equal(scores.gather(-1, few_ids), few_values)


def test_dense_puts_every_candidate_in_its_place() -> None:
    distribution = Distribution(torch.tensor([[1.0, 2.0, -math.inf], [3.0, -math.inf, -math.inf]]), torch.tensor([[0, 2, 3], [3, 3, 3]]), 4)
    assert distribution.dense().tolist() == [[1.0, -math.inf, 2.0, -math.inf], [-math.inf, -math.inf, -math.inf, 3.0]]
    whole = Distribution(torch.zeros(1, 4), None, 4)
    assert whole.dense() is whole.logits_BC


@pytest.mark.parametrize("dense", [False, True])
def test_merge_keeps_every_row(dense: bool) -> None:
    few = Distribution(torch.tensor([[1.0], [2.0]]), torch.tensor([[0], [3]]), 4)
    more = Distribution(torch.tensor([[5.0, 6.0, 7.0]]), torch.tensor([[0, 1, 3]]), 4)
    other = Distribution(more.dense(), None, 4) if dense else more
    merged = merge([few, other], [torch.tensor([0, 2]), torch.tensor([1])], 3)
    assert (merged.ids_BC is None) is dense
    expected = torch.full((3, 4), -math.inf)
    expected[0, 0], expected[2, 3], expected[1, [0, 1, 3]] = 1.0, 2.0, torch.tensor([5.0, 6.0, 7.0])
    assert torch.equal(merged.dense(), expected)
    assert merged.ids_BC is None or (merged.ids_BC.diff(dim=-1) >= 0).all()
