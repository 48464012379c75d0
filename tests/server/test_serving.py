"""Where a server may listen, and how it ends."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from framework.errors import ConfigError
from framework.server import serving as package


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_alone_needs_no_key(host: str) -> None:
    with package.bind(host, 0, None) as place:
        assert place.getsockname()[1] > 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.1", "models.example"])
def test_an_address_for_others_needs_one(host: str) -> None:
    """TRAP-128, before anything is bound or looked up."""
    with pytest.raises(ConfigError, match="--api_key"):
        package.bind(host, 0, None)


def test_with_a_key_anyone_may_come() -> None:
    with package.bind("0.0.0.0", 0, "key") as place:
        assert package.url(place).startswith("http://0.0.0.0:")


def test_an_empty_key_is_none() -> None:
    with pytest.raises(ConfigError, match="empty"):
        package.bind("127.0.0.1", 0, "")


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_that_are_none(port: int) -> None:
    with pytest.raises(ConfigError, match="--port"):
        package.bind("127.0.0.1", port, None)


def test_a_taken_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="in use"):
        package.bind("127.0.0.1", taken.getsockname()[1], None)


LONG = {"prompt": "x", "max_tokens": 50, "ignore_eos": True, "min_tokens": 50}


def slowed(running: Any, seconds: float) -> None:
    engine = running.worker.generator.engine
    step = engine.step
    engine.step = lambda: (time.sleep(seconds), step())[1]


def test_what_runs_may_finish(serving: Callable[..., Any]) -> None:
    """TRAP-140: told to stop, the server takes nothing new, and both a stream and an answer come to their ends."""
    with serving() as running, ThreadPoolExecutor() as pool:
        slowed(running, 0.01)
        url = f"{running.url}/v1/completions"
        replies = [pool.submit(httpx.post, url, json={**LONG, "stream": stream}, timeout=20) for stream in (False, True)]
        while running.worker.statistics.running < 2:
            time.sleep(0.005)
        running.server.should_exit = True
        while not running.worker.stopping:
            time.sleep(0.005)
        whole, stream = (reply.result() for reply in replies)
        assert whole.status_code == 200 and whole.json()["usage"]["completion_tokens"] == 50
        assert stream.text.count("data: ") > 2 and stream.text.endswith("data: [DONE]\n\n") and "error" not in stream.text


def test_what_does_not_finish_is_told_so(serving: Callable[..., Any]) -> None:
    with serving(shutdown_seconds=0.2) as running, ThreadPoolExecutor() as pool:
        slowed(running, 0.1)
        url = f"{running.url}/v1/completions"
        replies = [pool.submit(httpx.post, url, json={**LONG, "stream": stream}, timeout=20) for stream in (False, True)]
        while running.worker.statistics.running < 2:
            time.sleep(0.005)
        running.server.should_exit = True
        whole, stream = (reply.result() for reply in replies)
        assert whole.status_code == 503 and "shutting down" in whole.json()["error"]["message"]
        *_, told, done, _ = stream.text.split("\n\n")
        assert "shutting down" in json.loads(told.removeprefix("data: "))["error"]["message"] and done == "data: [DONE]"
    assert not any(thread.name == "engine" and thread is running.worker._thread for thread in threading.enumerate())
