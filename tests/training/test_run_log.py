"""A resumed run's log: no line twice, none lost, wherever the run was killed and saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framework.training.run_log import RunLog

# a run with a validation at step 2 and rollouts before steps 1 and 3
LINES = [(0, "rollout/score"), (1, "train/loss"), (2, "train/loss"), (2, "val/loss"), (2, "rollout/score"), (3, "train/loss")]


def logged(directory: Path) -> list[tuple[int, str]]:
    return [
        (line["step"], next(name for name in line if name != "step"))
        for line in map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    ]


@pytest.mark.parametrize("saved", range(len(LINES) + 1), ids=lambda saved: f"saved after {saved} lines")
def test_killed_and_resumed_anywhere(saved: int, tmp_path: Path) -> None:
    before = RunLog(tmp_path)
    for step, name in LINES:
        before.log_metrics({name: 1.0}, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "tra')  # cut off in the middle
    after = RunLog(tmp_path)
    for step, name in [*LINES[saved:], (4, "train/loss")]:
        after.log_metrics({name: 1.0}, step)
    assert logged(tmp_path) == [*LINES, (4, "train/loss")]


def test_what_is_not_finite_is_a_word(tmp_path: Path) -> None:
    RunLog(tmp_path).log_metrics({"val/loss": float("nan"), "val/margin": float("-inf")}, 1)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "val/loss": "nan", "val/margin": "-inf"}
