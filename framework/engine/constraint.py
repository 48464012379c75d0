"""What may come next: the contract by which a grammar, a schema or a list of answers steers a reply.

Ids flow in, a mask over the vocabulary flows out. Must not know networks, samplers or text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor


class Constraint(ABC):
    """Decides from a reply so far which tokens may follow; asked before each draw, ahead of every sampler."""

    @abstractmethod
    def allowed(self, reply_ids: Sequence[int]) -> Tensor:
        """The tokens that may follow, bool [V] on the CPU, at least one of them.

        A pure function of `reply_ids`, whatever was asked before (an implementation may remember what helps it): replies are drawn
        side by side, recomputed after a preemption, and looked ahead by speculation. When the reply is complete only stop ids are
        allowed, which the constraint must therefore know.
        """
