"""Schedules against published formulas: nanoGPT's, Hugging Face's, torchtitan's and the Transformer paper's."""

from __future__ import annotations

import doctest
import math

import pytest

from framework.schedulers import schedules
from framework.schedulers.base import Scheduler
from framework.schedulers.schedules import Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay
from framework.testing.schedulers import CHECKS

EVERY = [
    Constant(),
    Constant(10),
    Linear(10),
    Linear(0, 0.1),
    Cosine(10),
    Cosine(100, 0.0),
    WarmupStableDecay(20, 10),
    WarmupStableDecay(100, shape="square_root"),
    InverseSquareRoot(10),
    InverseSquareRoot(1, 0.1),
]


def test_tables_in_the_docstrings() -> None:
    outcome = doctest.testmod(schedules)
    assert outcome.failed == 0 and outcome.attempted >= 6


@pytest.mark.parametrize("scheduler", EVERY, ids=lambda scheduler: type(scheduler).__name__)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(scheduler: Scheduler, check) -> None:  # type: ignore[no-untyped-def]
    check(scheduler)


def test_nanogpt() -> None:
    """Its rates at 6e-4, 2,000 warm-up steps, 600,000 in all, 6e-5 at the end; its warm-up is ours with one step more."""
    after = Cosine(warmup_steps=2000, final_factor=0.1)
    for step, rate in {2000: 6e-4, 301_000: 3.3e-4, 600_000: 6e-5}.items():
        assert 6e-4 * after.factor(step, 600_000) == pytest.approx(rate, abs=1e-15)
    before = Cosine(warmup_steps=2001, final_factor=0.1)
    assert 6e-4 * before.factor(0, 600_000) == pytest.approx(2.9985e-7, abs=1e-11)
    assert 6e-4 * before.factor(1999, 600_000) == pytest.approx(5.997e-4, abs=1e-8)


def test_hugging_face_after_its_warm_up() -> None:
    cosine, linear = Cosine(10, 0.0), Linear(10, 0.0)
    for step, factor in {10: 1.0, 11: 0.99969541, 55: 0.5, 99: 0.00030459, 100: 0.0}.items():
        assert cosine.factor(step, 100) == pytest.approx(factor, abs=5e-9)
    for step, factor in {10: 1.0, 55: 0.5, 99: 0.01111, 100: 0.0}.items():
        assert linear.factor(step, 100) == pytest.approx(factor, abs=2e-6)
    assert [cosine.factor(step, 100) for step in (0, 1, 9)] == pytest.approx([0.1, 0.2, 1.0])  # theirs: 0, 0.1, 0.9


def test_torchtitan_warm_up_and_linear_decay() -> None:
    assert [Linear(2).factor(step, 10) for step in range(10)] == [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]


def test_transformer_paper() -> None:
    """Its section 5.3 counts steps from 1: min(n ** -0.5, n * w ** -1.5), here over its peak, w ** -0.5."""
    scheduler = InverseSquareRoot(warmup_steps=40)
    for step in (0, 10, 39, 40, 100, 9999):
        n, w = step + 1, 40
        assert scheduler.factor(step, 10_000) == pytest.approx(min(n**-0.5, n * w**-1.5) * math.sqrt(w), rel=1e-12)
    assert InverseSquareRoot(1, 0.2).factor(9999, 10_000) == 0.2


def test_stable_until_the_decay_whatever_the_length() -> None:
    scheduler = WarmupStableDecay(decay_steps=30, warmup_steps=5, final_factor=0.1)
    for total_steps in (35, 100, 1000):
        assert {scheduler.factor(step, total_steps) for step in range(4, total_steps - 29)} == {1.0}
        assert scheduler.factor(total_steps - 15, total_steps) == pytest.approx(0.55)
        assert scheduler.factor(total_steps, total_steps) == pytest.approx(0.1)


@pytest.mark.parametrize("scheduler", EVERY, ids=lambda scheduler: type(scheduler).__name__)
def test_the_last_factor_holds(scheduler: Scheduler) -> None:
    if not isinstance(scheduler, InverseSquareRoot):
        assert scheduler.factor(100, 100) == scheduler.factor(101, 100) == scheduler.factor(5000, 100)


@pytest.mark.parametrize("scheduler", [Constant(11), Linear(11), Cosine(11), InverseSquareRoot(11), WarmupStableDecay(0, 11)])
def test_a_run_shorter_than_the_warm_up_ends_inside_it(scheduler: Scheduler) -> None:
    """configs/trainer/smoke.yaml makes any recipe a two-step test."""
    assert [scheduler.factor(step, 2) for step in (0, 1)] == [1 / 11, 2 / 11]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(-1),
        lambda: Linear(final_factor=-0.1),
        lambda: Cosine(final_factor=1.1),
        lambda: Cosine(final_factor=float("nan")),
        lambda: WarmupStableDecay(decay_steps=-1),
        lambda: WarmupStableDecay(decay_steps=1, shape="cubic"),
        lambda: InverseSquareRoot(0),
        lambda: Constant().factor(-1, 10),
    ],
)
def test_refuses_values_outside_their_range(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"must be|the first update"):
        make()
