"""Whose pages may ask something of a server that changes something."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("starlette")

from framework.server.same_origin import SameOrigin


def status(method: str, **headers: str) -> int:
    """What a request is answered with."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": pairs}
    asyncio.run(SameOrigin(app)(scope, None, send))  # type: ignore[arg-type]
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("POST", {"host": "localhost:1", "origin": "http://localhost:1"}, 200),
        ("POST", {"host": "localhost:1", "origin": "https://localhost:1"}, 200),
        ("POST", {"host": "localhost:1"}, 200),
        ("GET", {"host": "localhost:1", "sec_fetch_site": "cross-site"}, 200),
        ("POST", {"host": "localhost:1", "sec_fetch_site": "none"}, 200),
        ("POST", {"host": "localhost:1", "origin": "http://localhost:2"}, 403),
        ("POST", {"host": "localhost:1", "origin": "http://localhost:1.elsewhere.example"}, 403),
        ("POST", {"host": "localhost:1", "origin": "null"}, 403),
        ("POST", {"host": "localhost:1", "sec_fetch_site": "same-site"}, 403),
        ("POST", {"origin": "http://localhost:1"}, 403),
        ("GET", {"host": "localhost:1", "origin": "http://elsewhere.example"}, 403),
        ("POST", {"host": "localhost:1", "origin": "http://[broken"}, 403),
    ],
)
def test_same_origin(method: str, headers: dict[str, str], expected: int) -> None:
    assert status(method, **headers) == expected
