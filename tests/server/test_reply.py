"""What ends a reply early: the client goes, the time is up, the reader is too slow. Its places in the engine are free at once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

LONG = {"prompt": "x", "max_tokens": 250, "ignore_eos": True, "min_tokens": 250}


def connected(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


def post(body: dict[str, Any], path: str = "/v1/completions") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_whoever_leaves_frees_the_engine(server: Any, slow: Any, stream: bool, n: int) -> None:
    """TRAP-134: the reply would take ten seconds more; its places are free within one."""
    slow(0.04)
    used = server.worker.statistics.cache_tokens_used
    with connected(server.url) as client:
        client.sendall(post({**LONG, "stream": stream, "n": n}))
        server.until(lambda: server.worker.statistics.running == n)
    left = time.monotonic()
    server.until(lambda: not server.worker.statistics.running and not server.worker.num_replies)
    assert time.monotonic() - left < 1
    assert server.worker.statistics.cache_tokens_used == used
    assert server.worker.generator.engine.num_active == 0


def test_whoever_leaves_while_waiting_is_forgotten(server: Any, slow: Any) -> None:
    slow(0.02)
    engine = server.worker.generator.engine
    with connected(server.url) as first:
        first.sendall(post({**LONG, "n": 32}))
        server.until(lambda: server.worker.statistics.running == 32)
        with connected(server.url) as second:
            second.sendall(post(LONG))
            server.until(lambda: server.worker.statistics.waiting == 1)
        server.until(lambda: server.worker.statistics.waiting == 0)
        assert engine.num_active == 1


def test_a_deadline(serving: Callable[..., Any]) -> None:
    with serving(reply_seconds=0.3) as running:
        engine = running.worker.generator.engine
        step = engine.step
        engine.step = lambda: (time.sleep(0.02), step())[1]
        response = httpx.post(f"{running.url}/v1/completions", json=LONG, timeout=20)
        assert response.status_code == 504 and response.json()["error"]["code"] == "deadline"
        told = httpx.post(f"{running.url}/v1/completions", json={**LONG, "stream": True}, timeout=20).text.split("\n\n")
        assert json.loads(told[-3].removeprefix("data: "))["error"]["code"] == "deadline" and told[-2] == "data: [DONE]"
        running.wait_until_idle()
        assert engine.num_active == 0


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets that hold little, so that a reader who does not read is noticed soon."""
    import asyncio

    from framework.server.connections import Connection

    made = Connection.connection_made

    def small(self: Connection, transport: asyncio.Transport) -> None:
        made(self, transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport.set_write_buffer_limits(high=4096)

    monkeypatch.setattr(Connection, "connection_made", small)


def test_a_reader_that_never_reads_holds_up_nobody(serving: Callable[..., Any], narrow: None) -> None:
    """Its reply is cancelled when too many pieces wait for it; others are served meanwhile."""
    with serving(stream_chunks=50) as running:
        with connected(running.url) as idle:
            idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idle.sendall(post({**LONG, "stream": True, "n": 8, "logprobs": 20}))
            running.until(lambda: running.worker.num_replies == 8)
            assert httpx.post(f"{running.url}/v1/completions", json={"prompt": "y", "max_tokens": 5}, timeout=20).status_code == 200
            running.until(lambda: running.worker.generator.engine.num_active == 0)
            running.until(lambda: any(ticket._failure for ticket in running.worker._tickets))
        running.wait_until_idle()


def test_a_reader_that_never_reads_is_disconnected(serving: Callable[..., Any], narrow: None) -> None:
    with serving(write_seconds=0.3) as running, connected(running.url) as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.sendall(post({**LONG, "stream": True, "n": 8, "logprobs": 20}))
        running.until(lambda: running.worker.num_replies == 8)
        running.until(lambda: not running.worker.num_replies)
        running.until(lambda: not running.server.server_state.connections)


def test_a_full_queue_says_when_to_try_again(serving: Callable[..., Any]) -> None:
    """TRAP-135: what does not fit is refused at once, what fits is served."""
    with serving(max_queue=4) as running, ThreadPoolExecutor(4) as pool:
        engine = running.worker.generator.engine
        step = engine.step
        engine.step = lambda: (time.sleep(0.01), step())[1]
        url = f"{running.url}/v1/completions"
        taken = [pool.submit(httpx.post, url, json={**LONG, "max_tokens": 60, "min_tokens": 0, "n": 2}, timeout=20) for _ in range(2)]
        running.until(lambda: running.worker.num_replies == 4)
        for stream in (False, True):
            refused = httpx.post(url, json={**LONG, "stream": stream})
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
        assert [task.result().status_code for task in taken] == [200, 200]
        never = httpx.post(url, json={"prompt": "x", "n": 5})
        assert never.status_code == 400, "what could never be served is not told to try again"
        assert httpx.post(url, json={"prompt": "x", "max_tokens": 2}).status_code == 200


def test_events_are_framed(server: Any, client: httpx.Client) -> None:
    """TRAP-138, by the bytes: `data: ` lines between empty ones, and nothing else."""
    response = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 5, "stream": True, "temperature": 0})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8" and response.headers["cache-control"] == "no-cache"
    frames = response.content.split(b"\n\n")
    assert frames.pop() == b"" and frames.pop() == b"data: [DONE]"
    assert all(frame.startswith(b'data: {"') and b"\n" not in frame for frame in frames) and len(frames) == 5
