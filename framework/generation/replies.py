"""Many prompts through one engine, side by side, a round at a time.

Numbered prompts flow in, pieces of their replies flow out as they come. Must not know how requests share the engine's rounds.
"""

from __future__ import annotations

from collections.abc import Generator as Stream
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from framework.errors import UserError
from framework.generation.reader import Chunk, Reader
from framework.generation.settings import Settings

if TYPE_CHECKING:
    from framework.generation.generator import Generator

OPEN_PROMPTS = 256  # so many are in the engine at a time at most: a file of prompts may be longer than the memory


class Replies:
    """The replies that a generator is writing.

    Args:
        generator: its engine serves nobody else meanwhile.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator, self._engine = generator, generator.engine
        self._open: dict[int, tuple[int, Reader]] = {}  # by request

    def __len__(self) -> int:
        """Prompts that are not finished."""
        return len(self._open)

    def add(self, number: int, prompt: str | Sequence[int], settings: Settings) -> Reader:
        """Take in a prompt, text or ids, under a number. Raises UserError for one that cannot be served."""
        request, reader = self._generator.prepare(prompt, settings)
        self._open[self._engine.add(request)] = number, reader
        return reader

    def round(self) -> Iterator[tuple[int, Chunk | Exception]]:
        """Advance all: the number of a prompt and a piece of one of its replies, or the error that ended them."""
        for event in self._engine.step():
            if event.request_id not in self._open:
                continue
            number, reader = self._open[event.request_id]
            chunk = reader.feed(event)
            if chunk is not None and chunk.finish_reason and not event.finish_reason:  # a stop string, which the engine cannot see
                self._engine.cancel(event.request_id, event.index)
            if reader.finished:
                del self._open[event.request_id]
            if event.error is not None:
                yield number, event.error
            elif chunk is not None:
                yield number, chunk

    def close(self) -> None:
        """Drop what is not finished."""
        for request_id in self._open:
            self._engine.cancel(request_id)
        self._open.clear()


def pieces(
    generator: Generator, prompts: Iterable[str | Sequence[int]], settings: Settings, first: int = 0
) -> Stream[tuple[int, Chunk | Exception], None, None]:
    """All prompts through the engine together: (number of the prompt, a piece of one of its replies or the error that ended them).

    Args:
        generator: its engine serves nobody else meanwhile.
        prompts: taken as room comes up; may be endless.
        settings: of all replies; with a seed, reply j of prompt i draws with seed + i * n + j, so that equal prompts differ.
        first: number of the first prompt.
    """
    replies, waiting = Replies(generator), enumerate(prompts, first)
    try:
        while True:
            while len(replies) < OPEN_PROMPTS and (item := next(waiting, None)) is not None:
                number, prompt = item
                seed = None if settings.seed is None else settings.seed + number * settings.n
                try:
                    replies.add(number, prompt, replace(settings, seed=seed))
                except UserError as refused:
                    yield number, refused
            if not replies:
                return
            yield from replies.round()
    finally:
        replies.close()


def texts(parts: Stream[tuple[int, Chunk | Exception], None, None], n: int) -> Iterator[tuple[int, list[str] | Exception]]:
    """The pieces put together: (number of the prompt, its n texts or its error), as they finish."""
    growing: dict[int, list[str]] = {}
    unfinished: dict[int, int] = {}
    with closing(parts):
        for number, part in parts:
            if isinstance(part, Exception):
                growing.pop(number, None)
                yield number, part
                continue
            growing.setdefault(number, [""] * n)[part.index] += part.text
            if part.finish_reason:
                unfinished[number] = unfinished.get(number, n) - 1
                if not unfinished[number]:
                    del unfinished[number]
                    yield number, growing.pop(number)
