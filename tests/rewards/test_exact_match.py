"""The right answer pays, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from framework.rewards.base import Sample
from framework.rewards.exact_match import ExactMatch


@pytest.mark.parametrize(
    ("extract", "reply", "answer", "score"),
    [
        ("whole", " 42\n", "42", 2.0),
        ("whole", "so 42", "42", -1.0),
        ("whole", "", "", -1.0),
        ("last_number", "so 42", "42.0", 2.0),
        ("last_number", "none", "42", -1.0),
        ("gsm8k", "work\n#### 1,000", "other work\n#### 1000", 2.0),
        ("gsm8k", "1000", "#### 1000", -1.0),
        ("gsm8k", "#### 72", "72", 2.0),
        ("boxed", r"\boxed{x^{2}}", "x^{2}", 2.0),
        ("whole", "7", 7, 2.0),
    ],
)
def test_score(sample: Callable[..., Sample], extract: str, reply: str, answer: object, score: float) -> None:
    reward = ExactMatch(extract=extract, right=2.0, wrong=-1.0)  # type: ignore[arg-type]
    assert reward.score(sample(reply, answer=answer)) == score


def test_a_row_without_the_field_is_named(sample: Callable[..., Sample]) -> None:
    with pytest.raises(ValueError, match="no field target; it has answer, level"):
        ExactMatch("target").score(sample("1", answer="1", level=3))
