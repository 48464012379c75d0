"""An interrupted run is the uninterrupted one, to the bit: weights, moments, counters, logged losses (TRAP-101, 103, 112, 114, 120)."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runs import STEPS, Outcome, assert_same_run, carry_out, settings  # type: ignore[import-not-found]

RESUME = ["--resume", "auto"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Outcome:
    outcome = carry_out(tmp_path_factory.mktemp("whole"), settings(corpus), {})
    assert outcome.codes == [[0]], outcome.output
    assert outcome.state["global_step"] == STEPS
    return outcome


def test_killed_five_times_at_random(tmp_path: Path, corpus: Path, uninterrupted: Any) -> None:
    draw = random.Random()  # another five moments whenever the tests run; a failure prints them
    steps = sorted(draw.sample(range(1, STEPS - 20), 5))
    actions = [f"SIGKILL@{step}+{draw.uniform(0, 0.1):.3f}" for step in steps]
    outcome = carry_out(tmp_path, settings(corpus), *({"action": action, "arguments": RESUME} for action in [*actions, "whole"]))
    assert outcome.codes == [[-9]] * 5 + [[0]], (actions, outcome.output)
    assert_same_run(outcome, uninterrupted)


def test_asked_to_stop(tmp_path: Path, corpus: Path, uninterrupted: Any) -> None:
    """Exit codes 143 and 130, a checkpoint at the next step boundary; resuming a finished run is no error."""
    actions = ["SIGTERM@3", "SIGINT@20", "SIGTERM@40", "whole", "whole"]
    outcome = carry_out(tmp_path, settings(corpus), *({"action": action, "arguments": RESUME} for action in actions))
    assert outcome.codes == [[143], [130], [143], [0], [0]], outcome.output
    assert "stopped at step" in outcome.output
    assert "--resume auto" in outcome.output
    assert_same_run(outcome, uninterrupted)
