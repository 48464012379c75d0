"""A task's own verifier judges, and parts are paid only when asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from framework.errors import ConfigError
from framework.rewards.base import Sample
from framework.rewards.reasoning_gym import ReasoningGym
from framework.rewards.runner import RewardRunner

needs_package = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym")


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is not None, reason="reasoning-gym is there")
def test_without_the_package() -> None:
    with pytest.raises(ConfigError, match=r"framework\[reason\]"):
        ReasoningGym()


@needs_package
def test_rows_of_the_package_are_judged(sample: Callable[..., Sample]) -> None:
    import reasoning_gym

    for row in reasoning_gym.create_dataset("chain_sum", seed=1, size=5):
        fields = {"answer": row["answer"], "metadata": row["metadata"]}
        right, wordy, wrong = (sample(reply, **fields) for reply in (row["answer"], f"so {row['answer']}", "x"))
        assert [ReasoningGym().score(reply) for reply in (right, wordy, wrong)] == [1.0, 0.0, 0.0]
        part = len(row["answer"]) / (3 + len(row["answer"]))
        assert ReasoningGym("chain_sum", partial=True).score(wordy) == part
        assert ReasoningGym("chain_sum", "last_number").score(wordy) == 1.0
        with RewardRunner(ReasoningGym()) as runner:
            assert runner.score([right, wordy]) == [1.0, 0.0]


@needs_package
def test_refusals(sample: Callable[..., Sample]) -> None:
    with pytest.raises(ConfigError, match="no task chain_sun"):
        ReasoningGym("chain_sun")
    with pytest.raises(ValueError, match="no field metadata"):
        ReasoningGym().score(sample("1", answer="1"))
    with pytest.raises(ValueError, match="give the reward its task"):
        ReasoningGym().score(sample("1", answer="1", metadata={}))
