"""How far a run has come: the counters that a checkpoint carries and everything else derives from.

Lightning keeps counters of its own for its loops; these are the run's, and they know what a skipped step is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

from framework.training.measures import Measures


@dataclass
class Progress:
    """Counters of a run, over all processes.

    Attributes:
        step: optimizer steps taken or skipped; what `max_steps` limits.
        updates: steps that changed the weights; what the scheduler sees.
        batches: micro-batches consumed over all ranks; the position in the data.
        items: trained items consumed (tokens, for language modelling).
        skipped_in_a_row: non-finite steps since the last update.
    """

    step: int = 0
    updates: int = 0
    batches: int = 0
    items: int = 0
    skipped_in_a_row: int = 0

    @property
    def skipped(self) -> int:
        """Steps that left the weights unchanged because a loss or gradient was not finite."""
        return self.step - self.updates

    def state_dict(self) -> dict[str, int]:
        """The counters, for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take counters from a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)


class StepResult(NamedTuple):
    """What one optimizer step saw, over all its micro-batches and ranks.

    Attributes:
        total: summed loss; `total / num_items` is the step's mean loss.
        num_items: trained items.
        gradient_norm: before clipping, of the gradient of the mean loss.
        learning_rate: of the first parameter group.
    """

    total: float
    num_items: float
    gradient_norm: float
    learning_rate: float


class Tracked(Protocol):
    """A LightningModule whose run is counted: what the callbacks of this package ask of a recipe.

    Attributes:
        progress: the run's counters.
        at_step_boundary: whether the newest micro-batch completed an optimizer step.
        last_step: what that step saw; None before the first.
        item: what its loss is a mean over, in the plural.
        measures: further figures, to be logged with the loss.
    """

    progress: Progress
    at_step_boundary: bool
    last_step: StepResult | None
    item: str
    measures: Measures

    def flops_per_item(self) -> float | None:
        """Floating-point operations of training on one item; None where that says nothing."""
