"""Reads a request's body before anything else sees it: never more than so many bytes, never longer than so many seconds.

Requests flow in; whole bodies, 413 or 408 flow out. A body without a Content-Length is counted as it comes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from framework.server.errors import Refusal

CLOSE = {"connection": "close"}
DISCARD_SECONDS = 1.0  # a client that is still sending could not read why it was refused


class BodyLimit:
    """Middleware around an app.

    Args:
        app: gets each body in one piece.
        max_bytes, seconds: of a body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app, self._max_bytes, self._seconds = app, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(Headers(scope=scope), receive)
        except TimeoutError:
            late = Refusal(408, f"the body was not complete after {self._seconds:g} seconds", code="body_timeout", headers=CLOSE)
            await late.response()(scope, receive, send)
        except Refusal as refused:
            await refused.response()(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _again(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """The body; None when the client went away."""
        too_long = Refusal(413, f"the body is longer than {self._max_bytes} bytes", code="body_too_long", headers=CLOSE)
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._max_bytes:
            if "expect" not in headers:
                await _discard(receive)
            raise too_long
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                parts.clear()
                await _discard(receive)
                raise too_long
            if not message.get("more_body", False):
                return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read, then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return messages.pop() if messages else await receive()

    return read


async def _discard(receive: Receive) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
