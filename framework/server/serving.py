"""An application on a socket: uvicorn with our connections, and an end that lets replies finish.

A socket and an application flow in, an exit code flows out. SIGTERM and Ctrl-C stop it gracefully: nothing new is taken, what runs has
`shutdown_seconds` to finish, what is left then is cancelled with an error to its reader. That is how a server ends, so the exit code is 0;
a second Ctrl-C ends it at once, with 130.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from framework.errors import ConfigError
from framework.server.connections import limited
from framework.server.gate import is_loopback
from framework.server.limits import Limits
from framework.server.models import Models

INTERRUPTED = 130
LAST_WORDS_SECONDS = 5.0  # for the errors that cancelled replies end with


def bind(host: str, port: int, api_key: str | None) -> socket.socket:
    """A socket that takes its place but no connections yet. Raises ConfigError for a place that cannot be had, or not without a key."""
    if api_key == "":
        raise ConfigError("the API key is empty: give one that nobody can guess, or none")
    if api_key is None and not is_loopback(host):
        raise ConfigError(f"{host} can be reached by others: give an --api_key (or FRAMEWORK_API_KEY), or stay on 127.0.0.1")
    if not 0 <= port < 2**16:
        raise ConfigError(f"--port {port} is none: give one from 0 (any free one) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        place = socket.socket(family, kind, protocol)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except OSError as problem:
        raise ConfigError(f"cannot serve on {host}, port {port}: {problem.strerror}; choose another --host or --port") from None
    return place


def url(place: socket.socket) -> str:
    """Where a socket can be reached."""
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Serves an application of `create_app` on sockets until it is told to stop.

    Args:
        app: of `create_app`.
        limits: those of the app.
    """

    def __init__(self, app: FastAPI, limits: Limits) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=limited(limits),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=round(limits.idle_seconds) or 1,
                timeout_graceful_shutdown=round(limits.shutdown_seconds + LAST_WORDS_SECONDS),
            )
        )
        self._models: Models = app.state.models
        self._shutdown_seconds = limits.shutdown_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing more, and end when everything has, or is out of time."""
        workers = [model.worker for model in self._models.values()]
        for worker in workers:
            worker.refuse()
            asyncio.get_running_loop().call_later(self._shutdown_seconds, worker.cancel_all)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stop the server, and are not raised again afterwards as uvicorn does: it ended as it was asked to."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(app: FastAPI, limits: Limits, place: socket.socket) -> int:
    """Serve until a signal; the exit code."""
    server = Server(app, limits)
    server.run(sockets=[place])
    return INTERRUPTED if server.force_exit else 0
