"""Looks at chosen steps of a run, as a callback: pages of them, or one step for a command. The run itself is not changed.

A run flows in, files or a result flow out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework.files import write_durably
from framework.inspection.learning.page import learning_page
from framework.inspection.learning.step import Learning, learning
from framework.inspection.learning.weights import parse_places
from framework.training.observation import ObservedStep, StepObserver


class LearningPages(StepObserver):
    """Writes a page (and the same as JSON) of each chosen step: batch, computation graph, gradients, update, loss before and after.

    The run goes on exactly as without it. A step that is looked at holds four more copies of the weights, and takes as long as a dozen.

    Args:
        steps: numbers of the optimizer steps; the first of a run is 1.
        rows: so many rows of a step's batch are shown.
        weights: those to look at, as blocks.0.attention.qkv.weight[3,5]; none: those with the largest gradients.
        directory: where the files go; null: logs/learning in the run's directory.
    """

    def __init__(self, steps: Sequence[int], rows: int = 2, weights: Sequence[str] = (), directory: Path | None = None) -> None:
        super().__init__(steps)
        if rows < 1:
            raise ValueError(f"rows is {rows} and must be at least 1")
        self.rows, self.places, self.directory = rows, parse_places(weights), directory

    def observe(self, trainer: Any, recipe: Any, step: ObservedStep) -> None:
        """Write the files."""
        found = learning(recipe, step, self.rows, self.places)
        directory = self.directory or Path(trainer.default_root_dir) / "logs" / "learning"
        path = directory / f"step-{step.number:08d}.html"
        write_page(path, found)
        write_json(path.with_suffix(".json"), found)
        print(f"step {step.number}: wrote {path}", file=sys.stderr)


class Seen(Exception):
    """A step has been looked at, and the run it was in is needed no more.

    Attributes:
        learning: what was seen.
    """

    def __init__(self, seen: Learning) -> None:
        super().__init__()
        self.learning = seen


class OneStep(StepObserver):
    """Ends the run at a step with the exception `Seen`; for the command that asked.

    Args:
        steps_before: that are taken first, from where the run begins or is resumed.
        rows: so many rows of the step's batch are shown.
        weights: those to look at; none: those with the largest gradients.
    """

    def __init__(self, steps_before: int = 0, rows: int = 2, weights: Sequence[str] = ()) -> None:
        super().__init__([steps_before + 1])
        self.steps_before, self.rows, self.places = steps_before, rows, parse_places(weights)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Count from where the run is."""
        super().on_train_start(trainer, pl_module)
        self.steps = frozenset([pl_module.progress.step + self.steps_before + 1])

    def observe(self, trainer: Any, recipe: Any, step: ObservedStep) -> None:
        """Look, and end the run."""
        raise Seen(learning(recipe, step, self.rows, self.places))


def write_page(path: Path, found: Learning) -> None:
    """The page, whole or not at all."""
    write_durably(path, lambda file: file.write(learning_page(found).encode()))


def write_json(path: Path, found: Learning) -> None:
    """The numbers, whole or not at all."""
    write_durably(path, lambda file: file.write(json.dumps(found.as_json(), ensure_ascii=False, allow_nan=False).encode()))
