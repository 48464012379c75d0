"""What every reward function is: a judge of one reply. Text flows in, a number flows out. Must not know networks, ids or recipes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """A reply to be judged.

    Attributes:
        prompt: what was asked, as text; of a chat the last message.
        reply: what was answered, without the token that ends it.
        finished: whether the reply ended by itself; false: it was cut off at its greatest length.
        fields: further fields of the prompt's row, by name: the right answer, say.
    """

    prompt: str
    reply: str
    finished: bool
    fields: Mapping[str, Any]


class Reward(ABC):
    """Judges replies, one at a time; run in a process of its own, with a limit of time."""

    @abstractmethod
    def score(self, sample: Sample) -> float:
        """How good the reply is; any finite number. Raises for a sample it cannot judge (a missing field, say)."""
