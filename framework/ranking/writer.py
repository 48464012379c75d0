"""Writes replies ahead of the people who rank them, in a thread of its own, so that nobody waits.

Prompts flow in, and the replies to them flow out when they are wanted. Must not know who ranks, or files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from framework.datasets.records import Turns
from framework.errors import UserError
from framework.ranking.rankings import Reply

if TYPE_CHECKING:
    from framework.generation import Generator, Settings


class WritingFailed(UserError):
    """The thread that writes has ended by an error."""


class Writer:
    """The replies of one model to the prompts of one file.

    Args:
        generator: the thread's alone from `start` to `stop`.
        prompts: all there are.
        settings: of the replies, with a seed: reply j of prompt i draws with seed + i * n + j.
        wanted: the numbers of the prompts whose replies are wanted next, the most urgent first.
        known: replies that were written earlier, by prompt.

    Attributes:
        problems: prompt's number -> why it has no replies to rank.
        failure: what ended the thread, if it did not end by `stop`.
    """

    def __init__(
        self,
        generator: Generator,
        prompts: Sequence[Turns],
        settings: Settings,
        wanted: Callable[[], Iterable[int]],
        known: Mapping[int, tuple[Reply, ...]],
    ) -> None:
        assert settings.seed is not None
        self._generator, self._prompts, self._settings, self._wanted = generator, prompts, settings, wanted
        self._written = dict(known)
        self.problems: dict[int, str] = {}
        self.failure: BaseException | None = None
        self._wake = threading.Event()  # no lock is held while others are asked what is wanted
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """End in the middle of whatever is being written."""
        self._stopped = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def wake(self) -> None:
        """Look again at what is wanted."""
        self._wake.set()

    def replies(self, number: int) -> tuple[Reply, ...] | None:
        """The replies to a prompt; None while they are not written. Raises WritingFailed if they never will be."""
        replies = self._written.get(number)
        if replies is None and self.failure is not None:
            raise WritingFailed(f"the model writes no more ({type(self.failure).__name__}): end framework rank, and start it again")
        return replies

    def _run(self) -> None:
        try:
            while (number := self._next()) is not None:
                self._write(number)
        except BaseException as problem:  # said by whoever asks for replies
            self.failure = problem
            raise

    def _next(self) -> int | None:
        """The prompt to write to, as soon as there is one; None to end."""
        while not self._stopped:
            self._wake.clear()
            for number in self._wanted():
                if number not in self._written and number not in self.problems:
                    return number
            self._wake.wait()
        return None

    def _write(self, number: int) -> None:
        prompt, n = self._prompts[number], self._settings.n
        assert self._settings.seed is not None
        seed = self._settings.seed + number * n
        texts, finished = [""] * n, [False] * n
        try:
            ids = prompt if isinstance(prompt, str) else self._generator.render(prompt)
            with closing(self._generator.stream(ids, replace(self._settings, seed=seed))) as chunks:
                for chunk in chunks:
                    if self._stopped:
                        return
                    texts[chunk.index] += chunk.text
                    finished[chunk.index] = chunk.finish_reason == "stop"
        except UserError as refused:
            self.problems[number] = str(refused)
            return
        replies = distinct(Reply(texts[index], seed + index, finished[index]) for index in range(n))
        if len(replies) < 2:
            self.problems[number] = f"its {n} replies are all the same, or empty"
            return
        self._written[number] = replies


def distinct(replies: Iterable[Reply]) -> tuple[Reply, ...]:
    """Those that can be told apart by reading: of two that differ in white space around them alone the first, and no empty ones."""
    first: dict[str, Reply] = {}
    for reply in replies:
        if reply.text.strip():
            first.setdefault(reply.text.strip(), reply)
    return tuple(first.values())
