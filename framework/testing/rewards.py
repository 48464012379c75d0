"""What every reward must do. Checks take an instance. Must not know any particular reward.

A reward may refuse a sample (raise), for a field that the row lacks, say; it must refuse it every time.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from contextlib import suppress

from framework.rewards.base import Reward, Sample
from framework.rewards.length import Brevity
from framework.rewards.pattern import MatchesPattern
from framework.rewards.runner import Failure, RewardRunner

FIELDS = {"answer": "42", "question": "What is 6 * 7?", "metadata": {"source_dataset": "chain_sum", "difficulty": {}}}
REPLIES = ("42", "", " \n", "The answer is 42.", "work\n#### 42", r"\boxed{42}", "no", "4" * 5000, "\x00\ud800 é 漢 🙂", "a b " * 2000)
SAMPLES = tuple(Sample("What is 6 * 7?", reply, finished, FIELDS) for reply in REPLIES for finished in (True, False))


def _judge(reward: Reward, sample: Sample) -> float | str:
    """The score, or the kind of the refusal."""
    try:
        return reward.score(copy.deepcopy(sample))
    except Exception as refused:
        return type(refused).__name__


def check_gives_finite_numbers(reward: Reward) -> None:
    """Every score is a finite number, whatever a model wrote."""
    for sample in SAMPLES:
        score = _judge(reward, sample)
        assert isinstance(score, str) or (isinstance(score, int | float) and math.isfinite(score)), f"{score!r} for {sample.reply[:20]!r}"


def check_depends_on_the_sample_alone(reward: Reward) -> None:
    """The same score again, in another order: what is trained on must not depend on what was judged before."""
    forwards = [_judge(reward, sample) for sample in SAMPLES]
    backwards = [_judge(reward, sample) for sample in reversed(SAMPLES)]
    assert forwards == backwards[::-1], "judging in another order gives other scores"


def check_changes_no_sample(reward: Reward) -> None:
    """A sample's fields are as they were: other rewards are given the same."""
    for sample in SAMPLES:
        given = copy.deepcopy(sample)
        with suppress(Exception):  # a refusal is no change
            reward.score(given)
        assert given == sample, f"the sample was changed to {given}"


def check_pickles(reward: Reward) -> None:
    """An unpickled copy judges alike."""
    again = pickle.loads(pickle.dumps(reward))
    assert [_judge(again, sample) for sample in SAMPLES] == [_judge(reward, sample) for sample in SAMPLES], "a copy judges otherwise"


def check_runs_in_a_process_of_its_own(reward: Reward) -> None:
    """It loads there, and judges as it does here."""
    with RewardRunner(reward) as runner:
        there = runner.score(SAMPLES)
    for sample, score in zip(SAMPLES, there, strict=True):
        here = _judge(reward, sample)
        same = isinstance(here, str) if isinstance(score, Failure) else here == score
        assert same, f"{score} there and {here} here for {sample.reply[:20]!r}"


CHECKS: tuple[Callable[[Reward], None], ...] = (
    check_gives_finite_numbers,
    check_depends_on_the_sample_alone,
    check_changes_no_sample,
    check_pickles,
    check_runs_in_a_process_of_its_own,
)


def brevity() -> Brevity:
    """An example."""
    return Brevity(100)


def matches_pattern() -> MatchesPattern:
    """An example."""
    return MatchesPattern(r"\d+")


def reasoning_gym() -> Reward | None:
    """An example; None without the package."""
    from framework.errors import ConfigError
    from framework.rewards.reasoning_gym import ReasoningGym

    try:
        return ReasoningGym()
    except ConfigError:
        return None
