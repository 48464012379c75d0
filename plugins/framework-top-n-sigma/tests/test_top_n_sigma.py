"""TopNSigma against the paper's rule in plain Python, and the conformance suite."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch
from framework_top_n_sigma import TopNSigma

from framework.samplers.base import History
from framework.testing.samplers import CHECKS

HISTORY = History(torch.full((1, 1), -1), torch.tensor([1]))


@pytest.mark.parametrize("n", [0.3, 1.0, 2.5])
def test_keeps_what_the_paper_keeps(n: float) -> None:
    draw = random.Random(0)
    for _ in range(20):
        logits = [draw.gauss(0.0, 3.0) for _ in range(40)]
        floor = max(logits) - n * statistics.pstdev(logits)
        kept = TopNSigma(n)(torch.tensor([logits], dtype=torch.float64), HISTORY)[0]
        assert kept.isfinite().tolist() == [logit >= floor for logit in logits]
        assert all(kept[i] == logits[i] for i in range(40) if kept[i].isfinite())


def test_temperature_does_not_change_which_tokens_stay() -> None:
    logits_BV = torch.randn(1, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = TopNSigma(1.0)(logits_BV, HISTORY).isfinite()
    assert 1 < kept.sum() < 100
    assert torch.equal(kept, TopNSigma(1.0)(logits_BV / 3.0, HISTORY).isfinite())


def test_excluded_tokens_do_not_count() -> None:
    few = torch.tensor([[3.0, 2.9, 0.0, 0.1]], dtype=torch.float64)
    many = torch.cat([few, torch.full((1, 9), -math.inf, dtype=torch.float64)], dim=1)
    assert TopNSigma(1.0)(many, HISTORY).isfinite().tolist() == [[True, True, *[False] * 11]]
    assert torch.equal(TopNSigma(1.0)(many, HISTORY)[:, :4], TopNSigma(1.0)(few, HISTORY))


def test_a_batch_of_different_settings_is_each_of_them_alone() -> None:
    logits_BV = torch.randn(3, 50_000, generator=torch.Generator().manual_seed(0))
    samplers = [TopNSigma(n) for n in (0.3, 1.0, 2.5)]
    together = TopNSigma.together(samplers)(logits_BV, HISTORY)
    assert all(torch.equal(together[row], samplers[row](logits_BV[row : row + 1], HISTORY)[0]) for row in range(3))


@pytest.mark.parametrize("n", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_values_outside_the_range(n: float) -> None:
    with pytest.raises(ValueError, match="over 0"):
        TopNSigma(n)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check) -> None:  # type: ignore[no-untyped-def]
    check(TopNSigma(n=1.0))
