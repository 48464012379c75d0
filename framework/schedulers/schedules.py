"""The learning-rate schedules: constant, linear, cosine, warmup-stable-decay and inverse square root, all with a warm-up.

A step number flows in, a factor of the optimizer's learning rate flows out. Must not know optimizers or trainers.

Steps count optimizer updates from 0. Warm-up is `(step + 1) / warmup_steps`: the first update is not zero and update number
`warmup_steps - 1` is the first at the full rate, as in torchtitan. (Hugging Face's `step / warmup_steps` makes the first update
zero; nanoGPT's `(step + 1) / (warmup_steps + 1)` reaches the full rate one update later.) A decay goes from the end of the warm-up to
`total_steps`, which is one past the last update, so that no update has a rate of zero; from there on the last factor holds.
A run shorter than its schedule ends inside it: two steps of any recipe are its first two steps.
"""

from __future__ import annotations

import math
from typing import Literal

from framework.schedulers.base import Scheduler


class Constant(Scheduler):
    """The full rate after the warm-up.

    >>> [Constant(warmup_steps=4).factor(step, 10) for step in (0, 1, 2, 3, 4, 9, 10)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]

    Args:
        warmup_steps: updates until the full rate; 0: none.
    """

    def __init__(self, warmup_steps: int = 0) -> None:
        self.warmup_steps = _steps("warmup_steps", warmup_steps)

    def factor(self, step: int, total_steps: int) -> float:
        """Factor for update number `step`."""
        _check(step)
        return _warmup(step, self.warmup_steps)


class Linear(Scheduler):
    """A straight line from the full rate down to `final_factor`; with 0.0 it is Hugging Face's and torchtitan's linear decay.

    >>> [Linear(warmup_steps=2).factor(step, 10) for step in (0, 1, 2, 3, 6, 9, 10)]
    [0.5, 1.0, 1.0, 0.875, 0.5, 0.125, 0.0]

    Args:
        warmup_steps: updates until the full rate; 0: none.
        final_factor: the factor at the end of the run.
    """

    def __init__(self, warmup_steps: int = 0, final_factor: float = 0.0) -> None:
        self.warmup_steps = _steps("warmup_steps", warmup_steps)
        self.final_factor = _fraction("final_factor", final_factor)

    def factor(self, step: int, total_steps: int) -> float:
        """Factor for update number `step`."""
        _check(step)
        remaining = 1.0 - _progress(step, self.warmup_steps, total_steps)
        return _warmup(step, self.warmup_steps) * (self.final_factor + (1.0 - self.final_factor) * remaining)


class Cosine(Scheduler):
    """Half a cosine from the full rate down to `final_factor` (arXiv 1608.03983 without restarts).

    A tenth at the end is what GPT-3 (arXiv 2005.14165, appendix B), Llama 2 and nanoGPT use.

    >>> [round(Cosine(warmup_steps=2).factor(step, 10), 4) for step in (0, 1, 2, 3, 6, 9, 10)]
    [0.5, 1.0, 1.0, 0.9657, 0.55, 0.1343, 0.1]

    Args:
        warmup_steps: updates until the full rate; 0: none.
        final_factor: the factor at the end of the run.
    """

    def __init__(self, warmup_steps: int = 0, final_factor: float = 0.1) -> None:
        self.warmup_steps = _steps("warmup_steps", warmup_steps)
        self.final_factor = _fraction("final_factor", final_factor)

    def factor(self, step: int, total_steps: int) -> float:
        """Factor for update number `step`."""
        _check(step)
        remaining = 0.5 * (1.0 + math.cos(math.pi * _progress(step, self.warmup_steps, total_steps)))
        return _warmup(step, self.warmup_steps) * (self.final_factor + (1.0 - self.final_factor) * remaining)


class WarmupStableDecay(Scheduler):
    """The full rate until `decay_steps` before the end, then down to `final_factor` (arXiv 2404.06395).

    A run can be prolonged from any checkpoint of its stable part. Square root decay, `1 - sqrt(progress)`, is the better one in
    arXiv 2405.18392, with a fifth of the run.

    >>> [WarmupStableDecay(decay_steps=4, warmup_steps=2).factor(step, 10) for step in (0, 1, 5, 6, 7, 8, 9, 10)]
    [0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    >>> [round(WarmupStableDecay(decay_steps=4, shape="square_root").factor(step, 10), 4) for step in (5, 6, 7, 8, 9, 10)]
    [1.0, 1.0, 0.5, 0.2929, 0.134, 0.0]

    Args:
        decay_steps: updates of the decay, the last ones of the run.
        warmup_steps: updates until the full rate; 0: none.
        final_factor: the factor at the end of the run.
        shape: of the decay.
    """

    def __init__(
        self,
        decay_steps: int,
        warmup_steps: int = 0,
        final_factor: float = 0.0,
        shape: Literal["linear", "square_root"] = "linear",
    ) -> None:
        if shape not in ("linear", "square_root"):
            raise ValueError(f"shape is {shape!r} and must be linear or square_root")
        self.decay_steps = _steps("decay_steps", decay_steps)
        self.warmup_steps = _steps("warmup_steps", warmup_steps)
        self.final_factor = _fraction("final_factor", final_factor)
        self.shape = shape

    def factor(self, step: int, total_steps: int) -> float:
        """Factor for update number `step`."""
        _check(step)
        progress = _progress(step, total_steps - self.decay_steps, total_steps)
        remaining = 1.0 - (math.sqrt(progress) if self.shape == "square_root" else progress)
        return _warmup(step, self.warmup_steps) * (self.final_factor + (1.0 - self.final_factor) * remaining)


class InverseSquareRoot(Scheduler):
    """`sqrt(warmup_steps / (step + 1))` after the warm-up (arXiv 1706.03762, section 5.3, scaled to a peak of 1).

    It needs no end: the total number of steps changes nothing.

    >>> [InverseSquareRoot(warmup_steps=4).factor(step, 100) for step in (0, 1, 2, 3, 15, 63, 99)]
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.25, 0.2]

    Args:
        warmup_steps: updates until the full rate, and the scale of the decay; at least 1.
        minimum_factor: the factor never falls below it after the warm-up.
    """

    def __init__(self, warmup_steps: int, minimum_factor: float = 0.0) -> None:
        if warmup_steps == 0:
            raise ValueError("warmup_steps is 0 and must be at least 1: it sets the scale of the decay")
        self.warmup_steps = _steps("warmup_steps", warmup_steps)
        self.minimum_factor = _fraction("minimum_factor", minimum_factor)

    def factor(self, step: int, total_steps: int) -> float:
        """Factor for update number `step`."""
        _check(step)
        if step < self.warmup_steps:
            return _warmup(step, self.warmup_steps)
        return max(self.minimum_factor, math.sqrt(self.warmup_steps / (step + 1)))


def _steps(name: str, value: int) -> int:
    if value < 0:
        raise ValueError(f"{name} is {value} and must be at least 0")
    return value


def _fraction(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value} and must be between 0 and 1")
    return value


def _check(step: int) -> None:
    if step < 0:
        raise ValueError(f"step is {step}: the first update is number 0")


def _warmup(step: int, warmup_steps: int) -> float:
    return (step + 1) / warmup_steps if step < warmup_steps else 1.0


def _progress(step: int, start: int, end: int) -> float:
    """How much of the stretch from `start` to `end` is over at `step`: 0 before it, 1 from its end on."""
    if step < start:
        return 0.0
    return min(1.0, (step - start) / (end - start)) if end > start else 1.0
