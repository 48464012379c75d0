"""Signals made into a request to stop at the next step boundary.

The handler only sets a flag. A second signal ends the process at once, with the previous checkpoint intact.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):
    """The run was asked to stop and has saved its state.

    Attributes:
        exit_code: 128 + the signal's number, as a shell reports it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopSignals:
    """Whether this process was asked to stop; handlers are in place between `install` and `restore`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._owner = os.getpid()

    def install(self) -> None:
        """Take over the signals (main thread only)."""
        self._owner = os.getpid()
        if not self._previous:
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a data worker inherited the handler: Ctrl-C is the parent's to answer, the rest ends it
            if number != signal.SIGINT:
                os._exit(128 + number)
            return
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        name = signal.Signals(number).name
        os.write(
            sys.stderr.fileno() if hasattr(sys.stderr, "fileno") else 2,
            f"\n{name}: saving at the next step boundary; once more to stop at once\n".encode(),
        )
