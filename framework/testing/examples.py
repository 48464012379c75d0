"""Examples of the built-in parts that need arguments (entry points `framework.testing`; see this package's docstring)."""

from __future__ import annotations

from framework.samplers.penalties import RepetitionPenalty
from framework.samplers.selection import MinP, Temperature, TopK, TopP
from framework.schedulers.schedules import InverseSquareRoot, WarmupStableDecay


def min_p() -> MinP:
    """Keeps about the better half of random logits."""
    return MinP(0.1)


def repetition_penalty() -> RepetitionPenalty:
    """The usual strength."""
    return RepetitionPenalty(1.3)


def temperature() -> Temperature:
    """The usual strength."""
    return Temperature(0.7)


def top_k() -> TopK:
    """Few enough to cut something."""
    return TopK(5)


def top_p() -> TopP:
    """Low enough to cut something."""
    return TopP(0.8)


def inverse_square_root() -> InverseSquareRoot:
    """A short warm-up."""
    return InverseSquareRoot(warmup_steps=10)


def warmup_stable_decay() -> WarmupStableDecay:
    """All three parts, shorter than any run that the checks look at."""
    return WarmupStableDecay(decay_steps=20, warmup_steps=10)
