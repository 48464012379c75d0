"""A reply has the form or has it not; an expression that backtracks without end costs its sample, not the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from framework.errors import ConfigError
from framework.rewards.base import Sample
from framework.rewards.pattern import MatchesPattern
from framework.rewards.runner import Failure, RewardRunner


@pytest.mark.parametrize(
    ("pattern", "whole", "reply", "score"),
    [
        (r"\d+", True, "42", 1.0),
        (r"\d+", True, "42 ", -0.5),
        (r"\d+", False, "so 42", 1.0),
        (r"<think>.*</think>.*", True, "<think>a\nb</think>c", -0.5),
        (r"(?s)<think>.*</think>.*", True, "<think>a\nb</think>c", 1.0),
    ],
)
def test_score(sample: Callable[..., Sample], pattern: str, whole: bool, reply: str, score: float) -> None:
    assert MatchesPattern(pattern, whole, no_match=-0.5).score(sample(reply)) == score


def test_no_expression() -> None:
    with pytest.raises(ConfigError, match=r"\(\[.*no regular expression"):
        MatchesPattern("([")


def test_endless_backtracking(sample: Callable[..., Sample]) -> None:
    with RewardRunner(MatchesPattern("(a+)+b"), timeout_seconds=1.0) as runner:
        scores = runner.score([sample("aab"), sample("a" * 60), sample("b")])
    assert scores == [1.0, Failure("it took longer than 1 s"), 0.0]
