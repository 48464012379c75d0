"""A reward against length: replies that go on for longer than they need lose by it. Must not know tokenizers."""

from __future__ import annotations

from typing import Literal

from framework.errors import ConfigError
from framework.rewards.base import Reward, Sample


class Brevity(Reward):
    """Takes away for what is over a length: 0 up to it, then `-penalty` for each further unit.

    Args:
        free: units that cost nothing.
        penalty: what each further one costs.
        unit: what is counted: `characters` or `words` (split at white space). A reward sees text, no tokens.
        most: never takes away more than this; null: no such bound.
        cut: taken away besides from a reply that was cut off at its greatest length.

    Raises:
        ConfigError: a number below 0.
    """

    def __init__(
        self,
        free: int,
        penalty: float = 0.001,
        unit: Literal["characters", "words"] = "characters",
        most: float | None = None,
        cut: float = 0.0,
    ) -> None:
        for name, value in {"free": free, "penalty": penalty, "most": most or 0.0, "cut": cut}.items():
            if not 0 <= value < float("inf"):
                raise ConfigError(f"Brevity's {name} is {value} and must be a number of at least 0")
        self.free, self.penalty, self.unit, self.most, self.cut = free, penalty, unit, most, cut

    def score(self, sample: Sample) -> float:
        """0 or less."""
        length = len(sample.reply) if self.unit == "characters" else len(sample.reply.split())
        taken = self.penalty * max(0, length - self.free)
        if self.most is not None:
            taken = min(taken, self.most)
        return 0.0 - taken - (0.0 if sample.finished else self.cut)
