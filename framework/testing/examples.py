"""Examples of the built-in parts that need arguments (entry points `framework.testing`; see this package's docstring)."""

from __future__ import annotations

from framework.samplers.bias import LogitBias
from framework.samplers.penalties import FrequencyPenalty, NoRepeatNgram, PresencePenalty, RepetitionPenalty
from framework.samplers.selection import MinP, Temperature, TopK, TopP, TypicalP
from framework.schedulers.schedules import InverseSquareRoot, WarmupStableDecay


def frequency_penalty() -> FrequencyPenalty:
    """A strong one."""
    return FrequencyPenalty(1.5)


def logit_bias() -> LogitBias:
    """Both directions."""
    return LogitBias({3: 5.0, 17: -100.0})


def min_p() -> MinP:
    """Keeps about the better half of random logits."""
    return MinP(0.1)


def no_repeat_ngram() -> NoRepeatNgram:
    """Short enough for the histories of the checks."""
    return NoRepeatNgram(1)


def presence_penalty() -> PresencePenalty:
    """A strong one."""
    return PresencePenalty(1.5)


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


def typical_p() -> TypicalP:
    """Low enough to cut something."""
    return TypicalP(0.8)


def inverse_square_root() -> InverseSquareRoot:
    """A short warm-up."""
    return InverseSquareRoot(warmup_steps=10)


def warmup_stable_decay() -> WarmupStableDecay:
    """All three parts, shorter than any run that the checks look at."""
    return WarmupStableDecay(decay_steps=20, warmup_steps=10)
