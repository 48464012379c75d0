"""What is over the length costs, unit by unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from framework.errors import ConfigError
from framework.rewards.base import Sample
from framework.rewards.length import Brevity


@pytest.mark.parametrize(
    ("arguments", "reply", "finished", "score"),
    [
        ({}, "12345", True, 0.0),
        ({}, "1234567", True, -1.0),
        ({"unit": "words"}, "a  b\nc d e f g", True, -1.0),
        ({"most": 2.0}, "1" * 100, True, -2.0),
        ({"most": 0.0}, "1" * 100, True, 0.0),
        ({"cut": 3.0}, "123", False, -3.0),
        ({"cut": 3.0, "most": 1.0}, "1" * 100, False, -4.0),
        ({"cut": 3.0}, "123", True, 0.0),
    ],
)
def test_score(sample: Callable[..., Sample], arguments: dict[str, Any], reply: str, finished: bool, score: float) -> None:
    assert Brevity(5, 0.5, **arguments).score(sample(reply, finished)) == score


@pytest.mark.parametrize(
    "arguments", [{"free": -1}, {"free": 1, "penalty": -0.1}, {"free": 1, "most": float("nan")}, {"free": 1, "cut": -1.0}]
)
def test_refusals(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Brevity's"):
        Brevity(**arguments)
