"""Bodies that are too long or too slow never reach a parser."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest


@pytest.fixture(scope="module")
def small(serving: Callable[..., Any]) -> Iterator[Any]:
    with serving(max_body_bytes=1000, read_seconds=0.5) as running:
        yield running


def connected(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


def too_long(response: httpx.Response) -> bool:
    return response.status_code == 413 and response.json()["error"]["code"] == "body_too_long"


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize", "/health", "/nothing"])
def test_a_declared_length_is_enough_to_refuse(small: Any, path: str) -> None:
    assert too_long(httpx.post(small.url + path, content=b"x" * 1001))


def test_1000_bytes_are_not_too_many(small: Any) -> None:
    body = b'{"prompt": "x", "max_tokens": 1}'
    response = httpx.post(f"{small.url}/v1/completions", content=body.ljust(1000), headers={"content-type": "application/json"})
    assert response.status_code == 200


def test_a_body_without_a_length_is_counted(small: Any) -> None:
    """TRAP-136: 64 MB in chunks, of which nothing stays."""
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 2**16
            yield bytes(2**16)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert too_long(httpx.post(f"{small.url}/v1/completions", content=pieces(), timeout=20))
    assert sent > 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # KiB


def test_a_length_that_is_none(small: Any) -> None:
    with connected(small.url) as client:
        client.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_a_body_that_does_not_come(small: Any) -> None:
    with connected(small.url) as client:
        client.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{")
        for _ in range(4):  # a byte now and then does not help
            time.sleep(0.15)
            client.sendall(b" ")
        told = client.recv(1000)
        assert told.startswith(b"HTTP/1.1 408") and b"body_timeout" in told
        assert client.recv(1) == b"", "and the connection is closed"


def test_whoever_is_not_let_in_sends_no_body(serving: Callable[..., Any]) -> None:
    with serving(api_key="key") as running, connected(running.url) as client:
        client.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 401")
