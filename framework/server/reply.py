"""A call's way from its prompt to its last byte, as one response: tokenise, submit, then write, at once or as a stream of events.

A call flows in, bytes flow out. Whatever ends it early (the client goes, time is up, the server stops) frees its places in the engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from framework.generation import Chunk
from framework.server.answers import Answer
from framework.server.calls import Call, merged
from framework.server.errors import refusal
from framework.server.worker import Ticket

log = logging.getLogger(__name__)

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
DONE = b"data: [DONE]\n\n"
PIECE = 10_000  # values of a list that are written at once


class Reply(Response):
    """The response to a completion call.

    Args:
        call: what to answer.
        seconds: for all of it; what is not complete then ends with an error.
    """

    def __init__(self, call: Call[Any], seconds: float) -> None:
        super().__init__()
        self._call, self._seconds = call, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. What fails before the first byte is raised, and becomes an error response; after it, an error event."""
        await while_connected(receive, self._answer(send))

    async def _answer(self, send: Send) -> None:
        call, worker = self._call, self._call.model.worker
        worker.check_room(call.num_replies)
        ends = asyncio.get_running_loop().time() + self._seconds
        ticket = worker.submit(await asyncio.to_thread(call.prepare))
        try:
            async with asyncio.timeout_at(ends):
                await ticket.taken_in()
            await (self._stream(ticket, send, ends) if call.body.stream else self._whole(ticket, send, ends))
        finally:
            worker.withdraw(ticket)

    async def _whole(self, ticket: Ticket, send: Send, ends: float) -> None:
        pieces: defaultdict[tuple[int, int], list[Chunk]] = defaultdict(list)
        async with asyncio.timeout_at(ends):
            while arrived := await ticket.fetch():
                for number, chunk in arrived:
                    pieces[number, chunk.index].append(chunk)
        body = await asyncio.to_thread(self._encode, pieces, ticket)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    def _encode(self, pieces: dict[tuple[int, int], list[Chunk]], ticket: Ticket) -> bytes:
        replies = {key: merged(chunks) for key, chunks in pieces.items()}
        return encode(self._call.answer(replies, self._call.usage(ticket)))

    async def _stream(self, ticket: Ticket, send: Send, ends: float) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})

        async def write(text: bytes) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": True})

        call = self._call
        try:
            async with asyncio.timeout_at(ends):
                await write(_events([call.event([choice]) for choice in call.opening()]))
                while arrived := await ticket.fetch():
                    await write(_events([call.event([call.piece(number, chunk)]) for number, chunk in arrived]))
                if call.include_usage:
                    await write(_events([call.event([], call.usage(ticket))]))
        except Exception as failure:
            told = refusal(failure)
            if told.status_code == 500:
                log.error("a stream failed", exc_info=failure)
            await write(_events([dict(told.body)]))
        await send({"type": "http.response.body", "body": DONE})


def encode(answer: Mapping[str, Any]) -> bytes:
    """JSON of an object, its long lists piece by piece: one call of `dumps` for a million values would hold back every other thread."""
    return b"{%b}" % b",".join(b"%b:%b" % (_json(name), _encode_value(value)) for name, value in answer.items())


def _encode_value(value: Any) -> bytes:
    if not isinstance(value, list):
        return _json(value)
    return b"[%b]" % b",".join(_json(value[start : start + PIECE])[1:-1] for start in range(0, len(value), PIECE))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _events(answers: Iterable[Answer]) -> bytes:
    return b"".join(b"data: %b\n\n" % _json(answer) for answer in answers)


async def while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work, or as much of it as there is time for until the client goes away."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
