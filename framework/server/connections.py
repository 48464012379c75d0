"""A connection that cannot be held for nothing: heads must come, readers must read, and there are only so many at a time.

Bytes flow in and out; uvicorn's protocol does all of HTTP, this adds the clocks that it lacks. Must not know any route.
"""

from __future__ import annotations

import asyncio
import json
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from framework.server.limits import Limits


class Connection(H11Protocol):
    """One client's connection; `limited` makes the class that a server takes."""

    limits: ClassVar[Limits] = Limits()
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, unless there are too many."""
        super().connection_made(transport)
        self.access_log = False  # uvicorn's shows queries, and access_log=False does not keep it from a root logger
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, "too many connections are open: try again later", "server_error")
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a head or a body."""
        if not self._in_request:
            self._await_head()
        super().data_received(data)
        if self._in_request:
            self._head_timer = _cancel(self._head_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._head_timer, self._write_timer = _cancel(self._head_timer), _cancel(self._write_timer)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        super().pause_writing()
        self._write_timer = self._write_timer or self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        self._write_timer = _cancel(self._write_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered in the form of every other error."""
        self._refuse(400, msg, "invalid_request_error")

    @property
    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self._head_timer or self.loop.call_later(self.limits.read_seconds, self.transport.abort)

    def _refuse(self, status: int, message: str, kind: str) -> None:
        body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


def limited(given: Limits) -> type[Connection]:
    """The connections of a server with these limits."""

    class Limited(Connection):
        limits = given

    return Limited


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """No timer any more."""
    if timer is not None:
        timer.cancel()
    return None
