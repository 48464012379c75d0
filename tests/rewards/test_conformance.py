"""The built-in rewards keep the promises that plugins are held to; the checks see a reward that breaks one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from framework.rewards.base import Reward, Sample
from framework.rewards.exact_match import ExactMatch
from framework.testing.rewards import CHECKS, brevity, matches_pattern, reasoning_gym

MADE: dict[str, Callable[[], Reward | None]] = {
    "ExactMatch": lambda: ExactMatch(extract="last_number"),
    "Brevity": brevity,
    "MatchesPattern": matches_pattern,
    "ReasoningGym": reasoning_gym,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MADE)
def test_built_in(name: str, check: Callable[[Reward], None]) -> None:
    reward = MADE[name]()
    if reward is None:
        pytest.skip("needs reasoning-gym")
    check(reward)


class Broken(Reward):
    def __init__(self, how: str) -> None:
        self.how, self.count = how, 0

    def score(self, sample: Sample) -> float:
        self.count += 1
        match self.how:
            case "nan":
                return float("nan")
            case "counts":
                return float(self.count)
            case "draws":
                return random.random()
            case "changes":
                sample.fields["metadata"]["seen"] = True
        return 0.0


@pytest.mark.parametrize(
    ("how", "check"),
    [
        ("nan", "check_gives_finite_numbers"),
        ("counts", "check_depends_on_the_sample_alone"),
        ("draws", "check_pickles"),
        ("changes", "check_changes_no_sample"),
    ],
)
def test_a_broken_promise_is_seen(how: str, check: str) -> None:
    with pytest.raises(AssertionError):
        next(found for found in CHECKS if found.__name__ == check)(Broken(how))
