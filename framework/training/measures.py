"""Figures of a recipe beside its loss: means over the steps since they were last taken.

Sums and counts flow in at every micro-batch, means flow out when the monitor logs. Must not know what they mean.
"""

from __future__ import annotations

from torch import Tensor


class Measures:
    """Sums by name; nothing is read from the device before `take`."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add to a mean: `total` over `count` things, both scalars."""
        total, count = total.detach().double(), count.detach().double()
        before = self._sums.get(name)
        self._sums[name] = (total, count) if before is None else (before[0] + total, before[1] + count)

    def take(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The sums and counts since the last time, by name; this process's alone."""
        taken, self._sums = self._sums, {}
        return taken
