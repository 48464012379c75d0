"""Connections that only cost something are closed; everyone else is served meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx


def connected(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


def answered(client: socket.socket) -> None:
    """Read a whole answer of /health."""
    told = b""
    while not told.endswith(b"}"):
        told += client.recv(1000)
    assert told.startswith(b"HTTP/1.1 200")


def closed(client: socket.socket) -> bool:
    """Whether the other side ends it (within the socket's timeout)."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_200_half_open_connections(serving: Callable[..., Any]) -> None:
    """TRAP-136: each sends a byte of its head now and then; requests are served, and at last all are closed."""
    with serving(read_seconds=1.0) as running, contextlib.ExitStack() as stack:
        drips = [stack.enter_context(connected(running.url)) for _ in range(200)]
        for drip in drips:
            drip.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX: ")
        for _ in range(3):
            for drip in drips:
                drip.sendall(b"x")
            assert httpx.post(f"{running.url}/v1/completions", json={"prompt": "x", "max_tokens": 2}).status_code == 200
        assert all(closed(drip) for drip in drips)
        assert httpx.get(f"{running.url}/health").status_code == 200


def test_silence_is_closed_too(serving: Callable[..., Any]) -> None:
    with serving(read_seconds=0.2) as running, connected(running.url) as client:
        assert closed(client)


def test_a_second_head_must_come_as_well(serving: Callable[..., Any]) -> None:
    with serving(read_seconds=0.5, idle_seconds=30.0) as running, connected(running.url) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answered(client)
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - started < 5:
                client.sendall(b"G" if time.monotonic() - started < 0.1 else b"x")
                time.sleep(0.1)
        assert closed(client) and time.monotonic() - started < 5


def test_a_long_reply_is_no_silence(serving: Callable[..., Any]) -> None:
    with serving(read_seconds=0.2) as running:
        engine = running.worker.generator.engine
        step = engine.step
        engine.step = lambda: (time.sleep(0.05), step())[1]
        assert httpx.post(f"{running.url}/v1/completions", json={"prompt": "x", "max_tokens": 10, "ignore_eos": True}).status_code == 200


def test_idle_connections_are_closed(serving: Callable[..., Any]) -> None:
    with serving(idle_seconds=1.0) as running, connected(running.url) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answered(client)
        assert closed(client)


def test_so_many_connections_and_no_more(serving: Callable[..., Any]) -> None:
    with serving(max_connections=3) as running, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(running.url))
        time.sleep(0.1)
        with connected(running.url) as client:
            head, _, body = client.recv(2000).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503") and json.loads(body)["error"]["type"] == "server_error"
        stack.close()
        time.sleep(0.1)
        assert httpx.get(f"{running.url}/health").status_code == 200


def test_what_is_no_http_is_answered_alike(server: Any) -> None:
    for nonsense in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 100_000):
        with connected(server.url) as client:
            with contextlib.suppress(OSError):
                client.sendall(nonsense)
            head, _, body = client.recv(5000).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400") and set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
