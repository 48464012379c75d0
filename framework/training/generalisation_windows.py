"""Stretches of text that a network is asked to go on with: a prefix from the data, and what the data says next.

Token batches flow in as they pass, an even sample of windows flows out. Must not know networks or what becomes of the windows.

Shape legend: B rows, T tokens a row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from framework.batches.checks import trained_spans
from framework.batches.split import drawn
from framework.batches.types import TokenBatch


class Window(NamedTuple):
    """Ids, of which the last `num_continued` are the continuation."""

    ids: list[int]
    num_continued: int

    @property
    def prefix(self) -> list[int]:
        """What the network is given."""
        return self.ids[: -self.num_continued]

    @property
    def continuation(self) -> list[int]:
        """What the data says next."""
        return self.ids[-self.num_continued :]


def windows_of(
    ids: Sequence[int], targets: Sequence[int], documents: Sequence[int] | None, prefix_tokens: int, continuation_tokens: int
) -> Iterator[Window]:
    """At most one window of each document of a row.

    Of running text (all of it trained) the prefix is the first `prefix_tokens`, and a document too short for both gives none. Of a prompt
    with a reply the prefix is the prompt, and the continuation the reply's first `continuation_tokens`, or all of a shorter one.
    """
    start = 0
    for document, group in itertools.groupby(range(len(ids)), key=lambda place: 0 if documents is None else documents[place]):
        end = start + len(list(group))
        span = next(trained_spans(list(targets[start:end])), None)
        if span is not None and document >= 0:
            # the trained tokens stand one place after the inputs that predict them
            tokens = [*ids[start : start + span[1]], targets[start + span[1] - 1]]
            begin = span[0] + 1 if span[0] else prefix_tokens
            stop = min(begin + continuation_tokens, len(tokens))
            if stop - begin == continuation_tokens or (span[0] and stop > begin):
                yield Window(tokens[:stop], stop - begin)
        start = end


class Reservoir:
    """An even sample of all rows that pass: each is as likely to be in it as any other, whenever it came.

    Algorithm L (Li, "Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))", 1994) says beforehand which rows will enter,
    so that no other is looked at. A row that holds no window, or one that is there already, changes nothing.

    Args:
        size: most windows.
        prefix_tokens, continuation_tokens: as `windows_of` takes them.
        seed: decides which rows.
    """

    def __init__(self, size: int, prefix_tokens: int, continuation_tokens: int, seed: int) -> None:
        self.size, self.lengths, self.seed = size, (prefix_tokens, continuation_tokens), seed
        self._windows: dict[int, Window] = {}  # by place
        self._seen = self._draws = 0
        self._weight, self._next = 1.0, 0

    @property
    def windows(self) -> list[Window]:
        """The sample."""
        return [self._windows[place] for place in sorted(self._windows)]

    def offer(self, batch: TokenBatch) -> None:
        """Let the rows of a batch pass."""
        first, self._seen = self._seen, self._seen + len(batch.ids_BT)
        while self.size and self._next < self._seen:
            row, place = self._next - first, self._next if self._next < self.size else int(self._draw() * self.size)
            self._skip()
            documents = None if batch.documents_BT is None else batch.documents_BT[row].tolist()
            found = list(windows_of(batch.ids_BT[row].tolist(), batch.targets_BT[row].tolist(), documents, *self.lengths))
            if found and (window := found[int(self._draw() * len(found))]) not in self._windows.values():
                self._windows[place] = window

    def _skip(self) -> None:
        """Choose the next row to enter."""
        self._next += 1
        if self._next < self.size:
            return
        self._weight *= math.exp(math.log(self._draw()) / self.size)
        self._next += math.floor(math.log(self._draw()) / math.log1p(-self._weight))

    def _draw(self) -> float:
        """The next of a series of numbers between 0 and 1, the same in every run."""
        self._draws += 1
        return min(max(drawn(f"{self.seed}:{self._draws}".encode()), 2.0**-64), 1 - 2.0**-53)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        kept = {place: [window.ids, window.num_continued] for place, window in self._windows.items()}
        return {"windows": kept, "seen": self._seen, "draws": self._draws, "weight": self._weight, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint stands."""
        self._windows = {place: Window(*window) for place, window in state["windows"].items()}
        self._seen, self._draws, self._weight, self._next = (state[name] for name in ("seen", "draws", "weight", "next"))
