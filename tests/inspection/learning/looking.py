"""A step that is looked at, with copies of what it was looked at with: what the tests compute again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from framework.batches.types import IGNORE, TokenBatch
from framework.inspection.learning.step import Learning, learning
from framework.inspection.learning.weights import parse_places
from framework.training.observation import ObservedStep, StepObserver


class Look(StepObserver):
    """Keeps what was learnt, and the step as it was."""

    learning: Learning
    step: ObservedStep
    before: Any
    after: Any
    recipe: Any

    def __init__(self, step: int = 1, rows: int = 2, weights: Sequence[str] = ()) -> None:
        super().__init__([step])
        self.rows, self.places = rows, parse_places(weights)

    def observe(self, trainer: Any, recipe: Any, step: ObservedStep) -> None:
        self.before, self.after, self.step, self.recipe = copy.deepcopy(step.network), copy.deepcopy(recipe.network), step, recipe
        self.learning = learning(recipe, step, self.rows, self.places)

    @property
    def batches(self) -> list[Any]:
        return [batch for _, batch in self.step.micro_batches]


def looked_at(run: tuple[Any, Any, Any], look: Look) -> Look:
    """A run in which a step was looked at."""
    recipe, data, trainer = run
    trainer.callbacks.append(look)
    trainer.fit(recipe, data)
    return look


def plain_loss(network: Any, batches: Sequence[TokenBatch]) -> torch.Tensor:
    """The mean loss over trained tokens, written out in float64."""
    wide = network if next(network.parameters()).dtype == torch.float64 else copy.deepcopy(network).double()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        logits_BTV = wide.logits(wide(batch.ids_BT, batch.positions_BT, batch.documents_BT))
        total = total + F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")
        count += int((batch.targets_BT != IGNORE).sum())
    return total / count


def plain_gradients(network: Any, loss: Callable[[Any], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a loss, in float64."""
    wide = copy.deepcopy(network).double()
    loss(wide).backward()
    return {name: parameter.grad for name, parameter in wide.named_parameters() if parameter.grad is not None}
