"""Selecting samplers: published examples, ties, no-ops, transformers' processors, and the distribution of draws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from framework.engine.reply import pick
from framework.samplers.base import History, Sampler
from framework.samplers.penalties import RepetitionPenalty
from framework.samplers.selection import Greedy, MinP, Temperature, TopK, TopP
from framework.testing.samplers import CHECKS

HISTORY = History(torch.full((1, 1), -1), torch.tensor([1]))
GREEDY = [Greedy(), Temperature(0.0), Temperature(1e-9), TopK(1), TopP(1e-9), TopP(1e-3)]
WORKING = [Greedy(), Temperature(0.5), Temperature(3.0), TopK(5), TopP(0.8), MinP(0.2)]


def _logits(*probabilities: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([probabilities], dtype=dtype).log()


def _kept(sampler: Sampler, logits_BV: Tensor) -> set[int]:
    return set(sampler(logits_BV, HISTORY)[0].isfinite().nonzero().flatten().tolist())


def _random(rows: int, columns: int, seed: int = 0) -> Tensor:
    return 3.0 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _name(sampler: Sampler) -> str:
    return f"{type(sampler).__name__}{list(vars(sampler).values())}"


@pytest.mark.parametrize("sampler", WORKING, ids=_name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(sampler: Sampler, check) -> None:  # type: ignore[no-untyped-def]
    check(sampler)


@pytest.mark.parametrize("sampler", GREEDY, ids=_name)
def test_all_ways_to_be_greedy_take_the_lowest_of_tied_ids(sampler: Sampler) -> None:
    tied_BV = torch.tensor([[0.0, 2.0, 1.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0, 5.0], [1.0, 0.0, 0.0, -1.0, 3.0]])
    history = History(torch.full((3, 1), -1), torch.ones(3, dtype=torch.long))
    result = sampler(tied_BV, history)
    assert result.isfinite().nonzero().tolist() == [[0, 1], [1, 0], [2, 4]]
    assert torch.equal(result.softmax(dim=-1).argmax(dim=-1), tied_BV.argmax(dim=-1))


@pytest.mark.parametrize(
    "sampler", [Temperature(1.0), TopK(0), TopK(-1), TopK(50), TopK(999), TopP(1.0), MinP(0.0), RepetitionPenalty(1.0)], ids=_name
)
def test_no_ops_return_the_very_logits(sampler: Sampler) -> None:
    logits_BV = _random(1, 50)
    assert sampler(logits_BV, HISTORY) is logits_BV


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_p_keeps_the_smallest_set(dtype: torch.dtype) -> None:
    assert _kept(TopP(0.8), _logits(0.3, 0.1, 0.1, 0.5, dtype=dtype)) == {0, 3}
    assert _kept(TopP(0.8), _logits(0.15, 0.3, 0.3, 0.25, dtype=dtype)) == {1, 2, 3}
    assert _kept(TopP(0.5), _logits(0.3, 0.1, 0.1, 0.5, dtype=dtype)) == {3}
    assert _kept(TopP(0.5), _logits(0.15, 0.3, 0.3, 0.25, dtype=dtype)) == {1, 2}


def test_top_p_of_ties_keeps_the_lowest_ids() -> None:
    assert _kept(TopP(0.5), torch.zeros(1, 10)) == {0, 1, 2, 3, 4}
    assert _kept(TopP(0.05), torch.zeros(1, 10)) == {0}


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999, 0.999999])
@pytest.mark.parametrize("columns", [7, 64, 700, 5000])
def test_top_p_of_many_tokens_is_that_of_a_full_sort(p: float, columns: int) -> None:
    """Flat rows need more than the first candidates, peaked ones do not; both in one batch."""
    logits_BV = torch.cat([_random(2, columns), 0.01 * _random(1, columns, 1)]).double()
    kept = TopP(p)(logits_BV, History(torch.full((3, 1), -1), torch.ones(3))).isfinite()
    for row in range(3):
        order = sorted(range(columns), key=lambda token: -logits_BV[row, token].item())
        masses = itertools.accumulate(logits_BV[row].softmax(dim=-1)[order].tolist())
        count = next(n for n, mass in enumerate(masses, 1) if mass >= p - 1e-6)
        assert set(kept[row].nonzero().flatten().tolist()) == set(order[:count])


def test_top_k_keeps_exactly_k() -> None:
    assert _kept(TopK(3), torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]])) == {0, 1, 3}
    excluded = torch.tensor([[-math.inf, 1.0, -math.inf, 0.0]])
    assert _kept(TopK(3), excluded) == {1, 3}


def test_min_p() -> None:
    assert _kept(MinP(0.1), _logits(0.9, 0.0274, 0.047, 0.0274)) == {0}
    assert _kept(MinP(0.1), _logits(0.15, 0.3, 0.3, 0.25)) == {0, 1, 2, 3}
    assert _kept(MinP(1.0), torch.tensor([[2.0, 1.0, 2.0]])) == {0, 2}


def test_the_order_is_the_list_s() -> None:
    logits_BV = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    hot_first = TopP(0.8)(Temperature(2.0)(logits_BV, HISTORY), HISTORY).softmax(dim=-1)[0]
    cut_first = Temperature(2.0)(TopP(0.8)(logits_BV, HISTORY), HISTORY).softmax(dim=-1)[0]
    assert hot_first.tolist() == pytest.approx([0.50648, 0.30720, 0.18632, 0.0], abs=5e-6)
    assert cut_first.tolist() == pytest.approx([0.62246, 0.37754, 0.0, 0.0], abs=5e-6)


def test_transformers_agrees_on_random_logits() -> None:
    """Without ties, where it keeps more."""
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits_BV, ids_BL = _random(8, 300), torch.randint(300, (8, 12), generator=torch.Generator().manual_seed(1))
    history = History(ids_BL, torch.full((8,), 5))
    pairs = [
        (Temperature(0.7), processors.TemperatureLogitsWarper(0.7)),
        (TopK(17), processors.TopKLogitsWarper(17)),
        (TopP(0.83), processors.TopPLogitsWarper(0.83)),
        (MinP(0.07), processors.MinPLogitsWarper(0.07)),
        (RepetitionPenalty(1.7), processors.RepetitionPenaltyLogitsProcessor(1.7)),
    ]
    ours = theirs = logits_BV
    for sampler, processor in pairs:
        assert torch.equal(sampler(logits_BV, history), processor(ids_BL, logits_BV)), _name(sampler)
        ours, theirs = sampler(ours, history), processor(ids_BL, theirs)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "make",
    [
        *[lambda value=value: Temperature(value) for value in (-0.1, math.nan, math.inf)],
        *[lambda value=value: TopP(value) for value in (0.0, -1.0, 1.1, math.nan)],
        *[lambda value=value: MinP(value) for value in (-0.1, 1.1, math.nan)],
        *[lambda value=value: RepetitionPenalty(value) for value in (0.0, -1.0, math.nan, math.inf)],
        lambda: TopK(-2),
    ],
)
def test_refuses_values_outside_their_range(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize("temperature", [1e-4, 1e-30, 999999.0, 1e30])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    probabilities = Temperature(temperature)(_random(1, 50), HISTORY).softmax(dim=-1)
    assert probabilities.isfinite().all() and probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)


def _p_value(counts: Tensor, expected: Tensor) -> float:
    """Chi-square survival function over the categories with any probability."""
    statistic = ((counts - expected).square() / expected)[expected > 0].sum()
    freedom = int((expected > 0).sum()) - 1
    return torch.special.gammaincc(torch.tensor(freedom / 2, dtype=torch.float64), statistic / 2).item()


CHAINS: list[list[Sampler]] = [
    [],
    [Temperature(0.6)],
    [TopK(4)],
    [TopP(0.7)],
    [MinP(0.2)],
    [Temperature(1.5), TopK(6), TopP(0.9), MinP(0.05)],
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "+".join(map(_name, chain)) or "none")
def test_draws_follow_the_analytic_distribution(chain: list[Sampler]) -> None:
    probabilities = [0.02, 0.3, 0.08, 0.2, 0.1, 0.05, 0.25]  # worked out by hand below, in plain Python
    keep = list(probabilities)
    for sampler in chain:
        total = sum(keep)
        best_first = sorted((value / total for value in keep), reverse=True)
        match sampler:
            case Temperature(temperature=t):
                keep = [value ** (1 / t) for value in keep]
            case TopK(k=k):
                keep = [value if value / total >= best_first[k - 1] else 0.0 for value in keep]
            case TopP(p=p):
                count = next(n for n in range(1, 8) if sum(best_first[:n]) >= p)
                keep = [value if value / total >= best_first[count - 1] else 0.0 for value in keep]
            case MinP(p=p):
                keep = [value if value >= p * max(keep) else 0.0 for value in keep]
    logits_BV = _logits(*probabilities)
    for sampler in chain:
        logits_BV = sampler(logits_BV, HISTORY)
    uniform = torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(pick(logits_BV[0].softmax(dim=-1), uniform), minlength=7).double()
    expected = torch.tensor(keep, dtype=torch.float64) / sum(keep) * 100_000
    assert counts[expected == 0].sum() == 0
    assert _p_value(counts, expected) > 1e-3


def test_the_chi_square_test_can_fail() -> None:
    uniform = torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(pick(torch.tensor([0.5, 0.3, 0.2]), uniform), minlength=3).double()
    assert _p_value(counts, torch.tensor([0.49, 0.31, 0.2], dtype=torch.float64) * 100_000) < 1e-3
