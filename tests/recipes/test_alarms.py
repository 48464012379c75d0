"""Warnings in reinforcement learning: each when its suspicion holds, once while it does, and not before (TRAP-68)."""

from __future__ import annotations

import math

import pytest
import torch

from framework.recipes.alarms import Alarms, correlation

CALM = {"kl": 0.5, "score_length_correlation": 0.0, "length": 10.0}


def said(alarms: Alarms, **figures: float) -> list[str]:
    return alarms.look(**{**CALM, **figures})


def test_a_calm_run_is_silent() -> None:
    alarms = Alarms(max_kl=2.0)
    assert not any(said(alarms, kl=kl) for kl in (0.0, 0.01, -0.01, 1.9, -0.2, -0.2, 0.0))


def test_kl_that_runs_away_is_said_at_once_and_once() -> None:
    alarms = Alarms(max_kl=2.0)
    assert [bool(said(alarms, kl=kl)) for kl in (1.0, 2.5, 3.0, 1.0, 2.1)] == [False, True, False, False, True]
    assert said(Alarms(max_kl=2.0), kl=2.5) == [
        "the KL to the reference is 2.50 nats a reply, over 2: raise kl_coef, or lower the learning rate"
    ]


def test_kl_that_stays_negative_is_said_at_the_third_time() -> None:
    alarms = Alarms(max_kl=2.0)
    assert [bool(said(alarms, kl=-0.1)) for _ in range(5)] == [False, False, True, False, False]


def test_replies_that_grow_with_their_scores_are_said() -> None:
    alarms = Alarms(max_kl=2.0)
    assert not said(alarms)
    grown = {"length": 16.0, "score_length_correlation": 0.7}
    assert [bool(said(alarms, **grown)) for _ in range(4)] == [False, False, True, False]
    assert not said(alarms)  # short again
    assert [bool(said(alarms, **grown)) for _ in range(3)] == [False, False, True]


def test_long_replies_or_a_correlation_alone_are_nothing() -> None:
    alarms = Alarms(max_kl=2.0)
    said(alarms)
    assert not any(said(alarms, length=30.0) for _ in range(5))
    assert not any(said(alarms, score_length_correlation=0.9) for _ in range(5))


def test_counters_survive_a_checkpoint_and_the_bound_does_not() -> None:
    before, after = Alarms(max_kl=2.0), Alarms(max_kl=5.0)
    said(before, kl=-0.1)
    said(before, kl=-0.1)
    after.load_state_dict(before.state_dict())
    assert after.max_kl == 5.0 and said(after, kl=-0.1)


def test_correlation() -> None:
    first, second = torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([2.0, 1.0, 4.0, 3.0])
    assert correlation(first, second) == pytest.approx(torch.corrcoef(torch.stack([first, second]))[0, 1].item(), abs=1e-6)
    assert correlation(first, -2 * first) == pytest.approx(-1.0)
    assert correlation([1.0, math.nan, 2.0, 3.0], [1.0, 9.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert correlation([1.0, 1.0], [1.0, 2.0]) == 0.0 and correlation([1.0], [1.0]) == 0.0 and correlation([], []) == 0.0
