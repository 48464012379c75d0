"""What every learning-rate scheduler is: a pure function of the step, so that it can be plotted, tested and resumed.

A step number flows in, a factor of the optimizer's learning rate flows out. Must not know optimizers or trainers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


class Scheduler(ABC):
    """The factor by which the optimizer's own learning rate is multiplied at a step."""

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """Factor for update number `step` (0 is the first update) of a run of `total_steps` updates; at least 0."""
