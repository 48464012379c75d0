"""Selecting samplers: published examples, ties, no-ops, rows of different settings, and transformers' processors."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from framework.samplers.base import History, Sampler
from framework.samplers.penalties import RepetitionPenalty
from framework.samplers.rowwise import Rowwise
from framework.samplers.selection import Greedy, MinP, Temperature, TopK, TopP, TypicalP, select
from framework.testing.samplers import CHECKS

HISTORY = History(torch.full((1, 1), -1), torch.tensor([1]))
GREEDY = [Greedy(), Temperature(0.0), Temperature(1e-9), TopK(1), TopP(1e-9), TopP(1e-3)]
WORKING = [
    Greedy(),
    Temperature(0.0),
    Temperature(0.5),
    Temperature(3.0),
    TopK(1),
    TopK(5),
    TopP(0.8),
    MinP(0.2),
    TypicalP(0.8),
    TypicalP(1e-9),
]
IDLE = [Temperature(1.0), TopK(0), TopK(-1), TopP(1.0), MinP(0.0), TypicalP(1.0)]


def _logits(*probabilities: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([probabilities], dtype=dtype).log()


def _kept(sampler: Sampler, logits_BV: Tensor) -> set[int]:
    return set(sampler(logits_BV, HISTORY)[0].isfinite().nonzero().flatten().tolist())


def _random(rows: int, columns: int, seed: int = 0) -> Tensor:
    return 3.0 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _name(sampler: Sampler) -> str:
    return f"{type(sampler).__name__}{list(vars(sampler).values())[1:2]}"


@pytest.mark.parametrize("sampler", [*WORKING, *IDLE], ids=_name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(sampler: Sampler, check) -> None:  # type: ignore[no-untyped-def]
    check(sampler)


@pytest.mark.parametrize("sampler", GREEDY, ids=_name)
def test_all_ways_to_be_greedy_take_the_lowest_of_tied_ids(sampler: Sampler) -> None:
    """TRAP-84."""
    tied_BV = torch.tensor([[0.0, 2.0, 1.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0, 5.0], [1.0, 0.0, 0.0, -1.0, 3.0]])
    history = History(torch.full((3, 1), -1), torch.ones(3, dtype=torch.long))
    result = sampler(tied_BV, history)
    assert result.isfinite().nonzero().tolist() == [[0, 1], [1, 0], [2, 4]]
    assert torch.equal(result.softmax(dim=-1).argmax(dim=-1), tied_BV.argmax(dim=-1))


@pytest.mark.parametrize("sampler", [*IDLE, TopK(50), TopK(999), RepetitionPenalty(1.0)], ids=_name)
def test_no_ops_return_the_very_logits(sampler: Sampler) -> None:
    """TRAP-86."""
    logits_BV = _random(1, 50)
    assert sampler(logits_BV, HISTORY) is logits_BV


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_p_keeps_the_smallest_set(dtype: torch.dtype) -> None:
    """TRAP-85."""
    assert _kept(TopP(0.8), _logits(0.3, 0.1, 0.1, 0.5, dtype=dtype)) == {0, 3}
    assert _kept(TopP(0.8), _logits(0.15, 0.3, 0.3, 0.25, dtype=dtype)) == {1, 2, 3}
    assert _kept(TopP(0.5), _logits(0.3, 0.1, 0.1, 0.5, dtype=dtype)) == {3}
    assert _kept(TopP(0.5), _logits(0.15, 0.3, 0.3, 0.25, dtype=dtype)) == {1, 2}


@pytest.mark.parametrize("kind", [TopP, TypicalP])
def test_excluded_columns_make_no_difference_to_the_bit(kind: type[TopP] | type[TypicalP]) -> None:
    """At the very borders of p, where a sum in another order would show."""
    columns = torch.randperm(3001, generator=torch.Generator().manual_seed(0))[:60].sort().values
    logits_BV = _random(1, 3001)
    few_BC = logits_BV[:, columns]
    logits_BV = torch.full_like(logits_BV, -math.inf).index_copy(-1, columns, few_BC)
    for seed in range(6):
        scale = 1.0 + seed / 7.0
        order = few_BC.sort(descending=True).values if kind is TopP else few_BC
        for border in (order / scale).double().softmax(dim=-1).cumsum(dim=-1)[0, :-2].tolist():
            sampler = kind(min(border + 1e-6, 1.0))
            assert torch.equal(sampler(logits_BV / scale, HISTORY)[:, columns], sampler(few_BC / scale, HISTORY))


def test_top_p_of_ties_keeps_the_lowest_ids() -> None:
    assert _kept(TopP(0.5), torch.zeros(1, 10)) == {0, 1, 2, 3, 4}
    assert _kept(TopP(0.05), torch.zeros(1, 10)) == {0}
    assert _kept(TopP(0.5), torch.zeros(1, 3000)) == set(range(1500))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999, 0.999999])
@pytest.mark.parametrize("columns", [7, 64, 700, 5000])
def test_top_p_of_many_tokens_is_that_of_a_full_sort(p: float, columns: int) -> None:
    """Flat rows need more than the first look, peaked ones do not; both in one batch."""
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


@pytest.mark.parametrize("k", [1, 5, 40, 400])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_top_k_of_many_tokens_is_that_of_a_full_sort(k: int, precision: torch.dtype) -> None:
    """With the many ties of coarse logits."""
    logits_BV = _random(4, 20_000).to(precision).float()
    order = logits_BV.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    expected = torch.full_like(logits_BV, -math.inf).scatter(-1, order, logits_BV.gather(-1, order))
    assert torch.equal(TopK(k)(logits_BV, HISTORY), expected)


def test_min_p() -> None:
    """TRAP-86."""
    assert _kept(MinP(0.1), _logits(0.9, 0.0274, 0.047, 0.0274)) == {0}
    assert _kept(MinP(0.1), _logits(0.15, 0.3, 0.3, 0.25)) == {0, 1, 2, 3}
    assert _kept(MinP(1.0), torch.tensor([[2.0, 1.0, 2.0]])) == {0, 2}


def test_typical_p_by_hand() -> None:
    """Entropy of (.5, .25, .125, .125) in bits: 1.75; surprises 1, 2, 3, 3, so .25 is the most typical one, then .5, then the rest."""
    logits_BV = _logits(0.5, 0.25, 0.125, 0.125, dtype=torch.float64)
    assert _kept(TypicalP(0.2), logits_BV) == {1}
    assert _kept(TypicalP(0.25), logits_BV) == {1}
    assert _kept(TypicalP(0.7), logits_BV) == {0, 1}
    assert _kept(TypicalP(0.8), logits_BV) == {0, 1, 2}
    assert _kept(TypicalP(0.3), torch.zeros(1, 10)) == {0, 1, 2}


def test_the_order_is_the_list_s() -> None:
    """TRAP-87."""
    logits_BV = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    hot_first = TopP(0.8)(Temperature(2.0)(logits_BV, HISTORY), HISTORY).softmax(dim=-1)[0]
    cut_first = Temperature(2.0)(TopP(0.8)(logits_BV, HISTORY), HISTORY).softmax(dim=-1)[0]
    assert hot_first.tolist() == pytest.approx([0.50648, 0.30720, 0.18632, 0.0], abs=5e-6)
    assert cut_first.tolist() == pytest.approx([0.62246, 0.37754, 0.0, 0.0], abs=5e-6)


@pytest.mark.parametrize("columns", [3, 300, 3000])
def test_transformers_agrees_on_random_logits(columns: int) -> None:
    """Without ties, where it keeps more."""
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits_BV, ids_BL = _random(8, columns), torch.zeros(8, 1, dtype=torch.long)
    pairs = [
        *[(Temperature(t), processors.TemperatureLogitsWarper(t)) for t in (0.7, 1.9)],
        *[(TopK(k), processors.TopKLogitsWarper(k)) for k in (1, 17)],
        *[(TopP(p), processors.TopPLogitsWarper(p)) for p in (0.3, 0.83)],
        *[(MinP(p), processors.MinPLogitsWarper(p)) for p in (0.07, 0.5)],
        *[(TypicalP(p), processors.TypicalLogitsWarper(p)) for p in (0.3, 0.83)],
    ]
    ours = theirs = logits_BV
    for sampler, processor in pairs:
        assert torch.equal(sampler(logits_BV, HISTORY), processor(ids_BL, logits_BV)), _name(sampler)
        ours, theirs = sampler(ours, HISTORY), processor(ids_BL, theirs)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("temperature", [1e-4, 1e-30, 999999.0, 1e30])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    """TRAP-89."""
    probabilities = Temperature(temperature)(_random(1, 50), HISTORY).softmax(dim=-1)
    assert probabilities.isfinite().all() and probabilities.sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        *[lambda value=value: Temperature(value) for value in (-0.1, math.nan, math.inf)],
        *[lambda value=value: TopP(value) for value in (0.0, -1.0, 1.1, math.nan)],
        *[lambda value=value: TypicalP(value) for value in (0.0, -1.0, 1.1, math.nan)],
        *[lambda value=value: MinP(value) for value in (-0.1, 1.1, math.nan)],
        lambda: TopK(-2),
    ],
)
def test_refuses_values_outside_their_range(make) -> None:  # type: ignore[no-untyped-def]
    """TRAP-89."""
    with pytest.raises(ValueError, match="must be"):
        make()


SETTINGS: dict[type[Rowwise], list[float]] = {
    Temperature: [0.0, 1.0, 0.5, 3.0, 1e-9],
    TopK: [0, 5, 1, 40, 10**6, -1],
    TopP: [1.0, 0.9, 0.3, 0.999, 1e-9],
    TypicalP: [1.0, 0.9, 0.3, 0.999, 1e-9],
    MinP: [0.0, 0.1, 1.0, 1e-6],
}


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("columns", [6, 1000, 40_000])
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_rows_of_different_settings_are_each_as_alone_to_the_bit(kind: type[Rowwise], columns: int, tied: bool) -> None:
    values = [random.Random(0).choice(SETTINGS[kind]) for _ in range(3)] + SETTINGS[kind]
    samplers = [kind(value) for value in values]  # type: ignore[call-arg, arg-type]
    logits_BV = _random(len(values), columns)
    logits_BV = logits_BV.bfloat16().float() if tied else logits_BV
    together = kind.together(samplers)
    result = together(logits_BV, HISTORY)
    for row, sampler in enumerate(samplers):
        assert torch.equal(result[row], sampler(logits_BV[row : row + 1], HISTORY)[0]), values[row]
        assert torch.equal(result[row], logits_BV[row]) or not sampler.changes_nothing
    idle = kind.together([samplers[3]] * 2)  # the first setting of most changes nothing
    assert not samplers[3].changes_nothing or idle(logits_BV[:2], HISTORY)[0].data_ptr() == logits_BV.data_ptr()


@pytest.mark.parametrize("sampler", [TopK(5), TopP(0.9), TypicalP(0.5)], ids=_name)
def test_what_is_selected_is_what_the_call_leaves(sampler: Rowwise) -> None:
    logits_BV = _random(5, 3000)
    few = select(type(sampler).together([sampler] * 5), logits_BV)
    assert few is not None and few.ids_BC is not None and few.ids_BC.shape[-1] < 3000
    assert (few.ids_BC.diff(dim=-1) >= 0).all()
    assert torch.equal(few.dense(), sampler(logits_BV, HISTORY))


def test_nothing_is_selected_where_a_row_keeps_everything() -> None:
    logits_BV = _random(2, 300)
    assert select(TopK.together([TopK(5), TopK(0)]), logits_BV) is None
    assert select(TopK.together([TopK(5), TopK(300)]), logits_BV) is None
    assert select(MinP.together([MinP(0.5)] * 2), logits_BV) is None
    assert select(Greedy(), logits_BV) is None
