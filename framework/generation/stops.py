"""Stop strings: where a stream of text ends. Pieces of text flow in, what is certain to be given out flows out. Knows no ids."""

from __future__ import annotations

from collections.abc import Collection

from framework.errors import RequestError


class StopStrings:
    """Cuts a stream of text at the first stop string to be complete; holds back only what can still become one.

    How the text is cut into pieces changes nothing. Of two strings that end at the same place the longer one counts.

    Args:
        stops: none of them empty.
        include: the stop string itself is given out too.
    """

    def __init__(self, stops: Collection[str], include: bool = False) -> None:
        if "" in stops:
            raise RequestError("a stop string is empty: it would end every reply before its first character")
        self.stops, self.include = tuple(stops), include
        self.found = False
        self._held = ""

    def push(self, text: str) -> str:
        """What is certain to be given out, after this further text."""
        self._held += text
        ends = [(start + len(stop), start) for stop in self.stops if (start := self._held.find(stop)) >= 0]
        self.found = self.found or bool(ends)
        cut = min(ends)[0 if self.include else 1] if ends else len(self._held) - self._undecided()
        certain, self._held = self._held[:cut], "" if ends else self._held[cut:]
        return certain

    def flush(self) -> str:
        """What was held back, when the text has ended."""
        held, self._held = self._held, ""
        return held

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next((length for length in lengths if any(stop.startswith(self._held[-length:]) for stop in self.stops)), 0)
