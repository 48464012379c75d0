"""Rounds whose steps are not alike: rates of what was really done, and steps of several calls.

Runs in the peers' Pythons too, so it needs nothing but the standard library.
"""

from __future__ import annotations

import time
from typing import Any


class Counted:
    """Called with what each step does (tokens, say) when it begins; a round's answer is their rate, under the contender's name.

    Args:
        rounds: the worker's.
        name: the contender's.
        warm_up: steps before the first round.
        steps: of a round; both as the worker was told.
    """

    def __init__(self, rounds: Any, name: str, warm_up: int, steps: int) -> None:
        self._rounds, self._name, self._left, self._steps = rounds, name, warm_up, steps
        self._done = 0.0
        self._start = time.perf_counter()

    def __call__(self, units: float) -> None:
        """A step begins."""
        if at_end := self._left == 0:
            self._rounds.note(rates={self._name: self._done / (time.perf_counter() - self._start)})
        self._rounds()  # waits at a round's end
        if at_end:
            self._left, self._done, self._start = self._steps, 0.0, time.perf_counter()
        self._left -= 1
        self._done += units


class Every:
    """Of several calls the first is a step: an update of several optimizer steps, say."""

    def __init__(self, rounds: Any, calls: int) -> None:
        self._rounds, self._calls, self._number = rounds, calls, 0

    def __call__(self) -> None:
        if self._number % self._calls == 0:
            self._rounds()
        self._number += 1
