"""The thread that owns an engine: it adds, steps and cancels, and no other thread touches it.

Requests flow in from the event loop, chunks of text flow back to it. A worker lives in two worlds: what is said to be the loop's is
touched in the event loop only, what is said to be the engine's in the engine's thread only; they meet in a queue of orders and in
`call_soon_threadsafe`. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework.engine.request import Event, Request
    from framework.generation import Chunk, Generator, Reader

log = logging.getLogger(__name__)

Work = Sequence[tuple["Request", "Reader"]]


class QueueFull(Exception):
    """As many replies wait already as may."""


class EngineFailed(Exception):
    """The engine's thread has ended, and no reply will come any more."""


class Stopped(Exception):
    """The server is shutting down."""


class ReaderTooSlow(Exception):
    """More pieces of a reply wait for their reader than may."""


class Ticket:
    """A call's requests on their way through the engine, and what has come back and is not yet fetched. The loop's.

    Args:
        work: the call's requests, one a prompt, each with the reader of its events.
        max_waiting: pieces that may wait to be fetched; one more ends the ticket with ReaderTooSlow.

    Attributes:
        created, first_token, last_token: when, by time.monotonic; the engine's thread writes the latter two.
        outcomes: how many of its replies ended for which reason.
    """

    def __init__(self, work: Work, max_waiting: int) -> None:
        self.work = work
        self.num_replies = sum(request.n for request, _ in work)
        self.created = time.monotonic()
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.outcomes: Counter[str] = Counter()
        self._max_waiting = max_waiting
        self._arrived: deque[tuple[int, Chunk]] = deque()
        self._failure: Exception | None = None
        self._taken_in = False
        self._news = asyncio.Event()

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self.created

    @property
    def num_tokens(self) -> tuple[int, int]:
        """Of the prompts, and of the replies so far."""
        return sum(reader.num_prompt_tokens for _, reader in self.work), sum(reader.num_reply_tokens for _, reader in self.work)

    @property
    def finished(self) -> bool:
        """Whether every reply has ended, and been fetched."""
        return not self._arrived and self.outcomes.total() == self.num_replies

    async def taken_in(self) -> None:
        """Return once the engine has every request. Raises what it said against one."""
        while not (self._taken_in or self._failure):
            self._news.clear()
            await self._news.wait()
        if self._failure and not self._taken_in:
            raise self._failure

    async def fetch(self) -> list[tuple[int, Chunk]]:
        """Everything that has come since, each with the number of its prompt; empty when all is told. Raises what ended it early."""
        while not (self._arrived or self._failure or self.finished):
            self._news.clear()
            await self._news.wait()
        if self._failure and not self._arrived:
            raise self._failure
        arrived = list(self._arrived)
        self._arrived.clear()
        return arrived

    def deliver(self, number: int, chunk: Chunk) -> None:
        """A chunk has come."""
        if self._failure:
            return
        self._arrived.append((number, chunk))
        if chunk.finish_reason:
            self.outcomes[chunk.finish_reason] += 1
        self._news.set()
        if len(self._arrived) > self._max_waiting:
            self.fail(ReaderTooSlow(f"{self._max_waiting} pieces of the reply waited for their reader: read faster"))

    def acknowledge(self) -> None:
        """The engine has every request."""
        self._taken_in = True
        self._news.set()

    def fail(self, failure: Exception) -> None:
        """Nothing more will come."""
        self._failure = self._failure or failure
        self._news.set()


class Worker:
    """One model's engine in a thread of its own.

    Args:
        generator: its engine belongs to the worker from now on; `prepare` and `render` may be called from any thread.
        max_queue: replies that may be in the engine, running or waiting.
        max_waiting: of each ticket.
        observe: called in the event loop with every ticket that has ended, however it did.

    Attributes:
        statistics: the engine's, as of its last step.
        failure: what ended the thread, if anything did.
        stopping: nothing more is taken.
    """

    def __init__(self, generator: Generator, *, max_queue: int, max_waiting: int, observe: Callable[[Ticket], None]) -> None:
        self.generator = generator
        self.statistics = generator.engine.statistics
        self.failure: BaseException | None = None
        self._max_queue = max_queue
        self._max_waiting, self._observe = max_waiting, observe
        self.stopping = False
        self._tickets: set[Ticket] = set()  # the loop's
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._running: dict[int, tuple[Ticket, int]] = {}  # the engine's: request id -> ticket, number of the prompt
        self._news: list[Callable[[], None]] = []  # the engine's: what the loop is to be told after this step
        self._ended = False  # the engine's
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # the loop's side

    def start(self) -> None:
        """Begin to work for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def num_replies(self) -> int:
        """In the engine, running or waiting."""
        return sum(ticket.num_replies for ticket in self._tickets)

    def check_room(self, num_replies: int) -> None:
        """Raises QueueFull, Stopped or EngineFailed if so many more replies would not be taken now."""
        if self.failure:
            raise EngineFailed("the engine has failed and the server must be started again")
        if self.stopping:
            raise Stopped("the server is shutting down")
        if self.num_replies + num_replies > self._max_queue:
            raise QueueFull(f"{self.num_replies} replies are running or waiting, and {self._max_queue} may: try again later")

    def submit(self, work: Work) -> Ticket:
        """Give requests to the engine; whoever does must `withdraw` the ticket in the end. Raises as `check_room`."""
        ticket = Ticket(work, self._max_waiting)
        self.check_room(ticket.num_replies)
        self._tickets.add(ticket)
        self._orders.put(partial(self._add, ticket))
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """End a ticket: what of it is still in the engine is cancelled. May be called again."""
        if ticket in self._tickets:
            self._tickets.remove(ticket)
            self._orders.put(partial(self._drop, ticket))
            self._observe(ticket)

    def refuse(self) -> None:
        """Take nothing more; what runs goes on."""
        self.stopping = True

    def cancel_all(self) -> None:
        """End every ticket early: whoever waits for one gets Stopped."""
        self.refuse()
        for ticket in self._tickets:
            ticket.fail(Stopped("the server is shutting down"))
            self._orders.put(partial(self._drop, ticket))

    async def stop(self) -> None:
        """Cancel everything and end the thread; a step that is under way is waited for."""
        self.cancel_all()
        self._orders.put(self._end)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 10)

    def _fail(self, failure: BaseException) -> None:
        self.failure = failure
        for ticket in self._tickets:
            ticket.fail(EngineFailed("the engine has failed and the server must be started again"))

    # the engine's side

    def _run(self) -> None:
        try:
            while not self._ended:
                self._obey()
                if self._running:
                    for event in self.generator.engine.step():
                        self._read(event)
                self.statistics = self.generator.engine.statistics
                self._tell()
        except BaseException as failure:
            log.exception("the engine's thread has ended")
            self._news = [partial(self._fail, failure)]
            self._tell()

    def _obey(self) -> None:
        """Carry out every order there is; wait for one while there is nothing else to do."""
        with suppress(queue.Empty):
            self._orders.get(block=not self._running)()
            while True:
                self._orders.get_nowait()()

    def _add(self, ticket: Ticket) -> None:
        try:
            for number, (request, _) in enumerate(ticket.work):
                self._running[self.generator.engine.add(request)] = ticket, number
        except Exception as refused:  # whatever a plugin's part says is this ticket's alone
            self._drop(ticket)
            self._news.append(partial(ticket.fail, refused))
        else:
            self._news.append(ticket.acknowledge)

    def _drop(self, ticket: Ticket) -> None:
        for request_id in [request_id for request_id, (other, _) in self._running.items() if other is ticket]:
            self.generator.engine.cancel(request_id)
            del self._running[request_id]

    def _end(self) -> None:
        self._ended = True

    def _read(self, event: Event) -> None:
        if event.request_id not in self._running:
            return
        ticket, number = self._running[event.request_id]
        ticket.last_token = time.monotonic()
        ticket.first_token = ticket.first_token or ticket.last_token
        reader = ticket.work[number][1]
        try:
            if event.error is not None:
                raise event.error
            chunk = reader.feed(event)
        except Exception as failure:
            self._drop(ticket)
            self._news.append(partial(ticket.fail, failure))
            return
        if chunk is not None:
            self._news.append(partial(ticket.deliver, number, chunk))
        if reader.finished:
            del self._running[event.request_id]
        if chunk is not None and chunk.finish_reason and not event.finish_reason:  # a stop string, which the engine cannot know
            self.generator.engine.cancel(event.request_id, event.index)

    def _tell(self) -> None:
        news, self._news = self._news, []
        if news:
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop has ended, and with it everyone who could listen
                self._loop.call_soon_threadsafe(lambda: [tell() for tell in news])
