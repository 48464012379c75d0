"""Several processes fine-tune as one: the same gradients, and policies whose rollouts are shared out resume all the same (TRAP-13, 71)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from runs import FINE_TUNING_STEPS, Job, assert_same_run, carry_out_all, fine_tuning, untrained_judge  # type: ignore[import-not-found]

TWO = {"ranks": 2, "arguments": ["--trainer.devices", "2", "--trainer.strategy", "ddp"]}
RESUME = {**TWO, "arguments": [*TWO["arguments"], "--resume", "auto"]}  # type: ignore[misc]
SUPERVISED = ["sft", "reward-model", "dpo-precomputed"]


def double(recipe: str, folder: Path, accumulate: int) -> dict[str, Any]:
    """Three plain gradient steps in float64, so that weights show gradients; rows have unequal numbers of trained tokens."""
    configuration = fine_tuning(recipe, folder)
    model = configuration["model"]["init_args"]
    model |= {"scheduler": "Constant", "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.5}}}
    network = model["network"]["init_args"]
    network.get("base", {"init_args": network})["init_args"]["shape"]["dropout"] = 0.0
    configuration["trainer"].update({"max_steps": 3, "precision": "64-true", "accumulate_grad_batches": accumulate})
    return configuration


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("processes")
    jobs = [Job(folder / f"{recipe}-one", double(recipe, folder, 2), [{}]) for recipe in SUPERVISED]
    jobs += [Job(folder / f"{recipe}-two", double(recipe, folder, 1), [TWO]) for recipe in SUPERVISED]
    return dict(zip((job.folder.name for job in jobs), carry_out_all(*jobs), strict=True))


@pytest.mark.parametrize("recipe", SUPERVISED)
def test_two_processes_have_the_gradients_of_one(recipe: str, outcomes: dict[str, Any]) -> None:
    one, two = outcomes[f"{recipe}-one"], outcomes[f"{recipe}-two"]
    assert (one.codes, two.codes) == ([[0]], [[0, 0]]), one.output + two.output
    assert one.state["framework"]["progress"] == two.state["framework"]["progress"]
    for name, weight in one.state["state_dict"].items():
        torch.testing.assert_close(two.state["state_dict"][name], weight, atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ppo", "grpo"])
def test_two_processes_resume_a_rollout(recipe: str, tmp_path: Path) -> None:
    """Each has replies of its own under way; statistics and coefficient are of all replies, and the same everywhere."""
    configuration = fine_tuning(recipe, untrained_judge(tmp_path / "judge"))
    configuration["model"]["init_args"]["rollout_size"] = 32
    parts = [{**TWO, "action": "SIGTERM@5"}, {**RESUME, "action": "SIGKILL@17"}, RESUME]
    whole, resumed = carry_out_all(Job(tmp_path / "whole", configuration, [TWO]), Job(tmp_path / "parts", configuration, parts))
    assert whole.codes == [[0, 0]], whole.output
    assert resumed.codes == [[143, 143], [-9, -9], [0, 0]], resumed.output
    assert_same_run(resumed, whole)
    rollout = whole.state["framework"]["rollout"]
    one, other = (experience[0] for experience in rollout["experience"])
    assert whole.state["global_step"] == FINE_TUNING_STEPS and not torch.equal(one[0, :4], other[0, :4])
    if recipe == "ppo":
        replies = whole.state["framework"]["progress"]["batches"] * 4 // 2  # each trained on twice
        assert rollout["score_moments"][0] == replies
