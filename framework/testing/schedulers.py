"""What every learning-rate scheduler must do. Checks take an instance. Must not know any particular scheduler."""

from __future__ import annotations

import math
from collections.abc import Callable

from framework.schedulers.base import Scheduler

RUNS = (100, 1000)  # lengths of runs; an example must fit the shorter one


def check_is_a_usable_factor(scheduler: Scheduler) -> None:
    """A finite float of at least 0 at every step, the one after the last included (trainers ask for it)."""
    for total_steps in RUNS:
        for step in range(total_steps + 1):
            factor = scheduler.factor(step, total_steps)
            assert isinstance(factor, float), f"factor({step}, {total_steps}) is a {type(factor).__name__}, no float"
            assert math.isfinite(factor) and factor >= 0.0, f"factor({step}, {total_steps}) is {factor}"


def check_trains(scheduler: Scheduler) -> None:
    """The first update is not zero, and some update has at least a hundredth of the full rate."""
    for total_steps in RUNS:
        factors = [scheduler.factor(step, total_steps) for step in range(total_steps)]
        assert factors[0] > 0.0, f"the first of {total_steps} updates has the factor 0"
        assert max(factors) >= 0.01, f"no factor in {total_steps} steps is over {max(factors)}"


def check_is_pure(scheduler: Scheduler) -> None:
    """The factor depends on the step and the total only, not on what was asked before: a resumed run must go on alike."""
    for total_steps in RUNS:
        forwards = [scheduler.factor(step, total_steps) for step in range(total_steps)]
        backwards = [scheduler.factor(step, total_steps) for step in reversed(range(total_steps))]
        assert forwards == backwards[::-1], "asking in another order gives other factors"


CHECKS: tuple[Callable[[Scheduler], None], ...] = (check_is_a_usable_factor, check_trains, check_is_pure)
