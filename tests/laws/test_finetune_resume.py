"""Interrupted fine-tuning is uninterrupted fine-tuning, to the bit: also in the middle of a rollout, with its KL coefficient and moments (TRAP-71)."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runs import FINE_TUNING_STEPS, Job, Outcome, assert_same_run, carry_out_all, fine_tuning, untrained_judge  # type: ignore[import-not-found]

RESUME = {"arguments": ["--resume", "auto"]}
RECIPES = ["lora-sft", "dpo-precomputed", "ppo", "grpo"]


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_judge(tmp_path_factory.mktemp("judge") / "model")


def moments(count: int) -> list[str]:
    """SIGTERM and then SIGKILL at as many random moments; a failure prints them.

    SIGTERM comes first: a resumed run's log is there before the run answers to it.
    """
    draw = random.Random()
    steps = sorted(draw.sample(range(1, FINE_TUNING_STEPS - 20), count + 1))
    signals = ["SIGTERM", *["SIGKILL"] * count]
    return [f"{signal}@{step}+{draw.uniform(0, 0.05):.3f}" for signal, step in zip(signals, steps, strict=True)]


def interrupted(folder: Path, recipes: list[str], judge: Path, kills: int) -> dict[str, tuple[list[str], Outcome, Outcome]]:
    """Of each recipe: when it was interrupted, that run's outcome and the uninterrupted one's."""
    actions = {recipe: moments(kills) for recipe in recipes}
    jobs = []
    for recipe in recipes:
        configuration = fine_tuning(recipe, judge)
        jobs.append(Job(folder / f"{recipe}-whole", configuration, [{}]))
        jobs.append(Job(folder / recipe, configuration, [{**RESUME, "action": action} for action in [*actions[recipe], "whole"]]))
    outcomes = iter(carry_out_all(*jobs))
    return {recipe: (actions[recipe], *reversed((next(outcomes), next(outcomes)))) for recipe in recipes}  # type: ignore[misc]


def check(actions: list[str], parts: Outcome, whole: Outcome) -> None:
    assert whole.codes == [[0]], whole.output
    assert whole.state["global_step"] == FINE_TUNING_STEPS
    expected = [[{"SIGKILL": -9, "SIGTERM": 143}[action.partition("@")[0]]] for action in actions]
    assert parts.codes == [*expected, [0]], (actions, parts.output)
    assert_same_run(parts, whole)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, judge: Path) -> dict[str, Any]:
    return interrupted(tmp_path_factory.mktemp("interrupted"), RECIPES, judge, kills=1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_interrupted_at_random(recipe: str, outcomes: dict[str, Any]) -> None:
    check(*outcomes[recipe])


def test_what_is_resumed_is_not_nothing(outcomes: dict[str, Any]) -> None:
    """The state that the law is about moves: coefficient, moments, tables, replies under way."""
    rollout = outcomes["ppo"][2].state["framework"]["rollout"]
    assert rollout["kl_coefficient"] != pytest.approx(0.05) and rollout["score_moments"][0] > 16
    assert rollout["experience"][0] is not None and rollout["number"] == FINE_TUNING_STEPS // 4 - 1
    assert outcomes["dpo-precomputed"][2].state["framework"]["reference"]["train"].any()
    assert len(outcomes["lora-sft"][2].state["state_dict"]) == 1 + 2 * 2 * 4  # the base's digest, A and B of four layers in two blocks


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*RECIPES, "sft", "reward-model", "dpo-live", "lora-ppo"])
def test_killed_five_times_at_random(recipe: str, tmp_path: Path, judge: Path) -> None:
    check(*interrupted(tmp_path, [recipe], judge, kills=5)[recipe])
