"""The engine's thread: orders, failures and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from framework.generation import Chunk
from framework.server.worker import EngineFailed, ReaderTooSlow, Stopped, Ticket


class Request:
    n = 2


class Reader:
    num_prompt_tokens, num_reply_tokens = 3, 4


def test_a_ticket_gives_out_what_came_and_then_why_it_ended() -> None:
    async def story() -> None:
        ticket = Ticket([(Request(), Reader())], 2)  # type: ignore[list-item]
        assert ticket.num_replies == 2 and ticket.num_tokens == (3, 4)
        ticket.deliver(0, Chunk("a", None))
        ticket.deliver(0, Chunk("b", "stop"))
        ticket.fail(Stopped("end"))
        ticket.deliver(0, Chunk("late", None))
        assert [chunk.text for _, chunk in await ticket.fetch()] == ["a", "b"]
        with pytest.raises(Stopped):
            await ticket.fetch()
        assert ticket.outcomes == {"stop": 1} and not ticket.finished

    asyncio.run(story())


def test_a_ticket_ends_when_every_reply_has() -> None:
    async def story() -> None:
        ticket = Ticket([(Request(), Reader())], 9)  # type: ignore[list-item]
        fetching = asyncio.ensure_future(ticket.fetch())
        await asyncio.sleep(0)
        ticket.deliver(0, Chunk("", "length", 1))
        assert len(await fetching) == 1
        ticket.deliver(0, Chunk("", "stop", 0))
        assert len(await ticket.fetch()) == 1 and await ticket.fetch() == [] and ticket.finished

    asyncio.run(story())


def test_too_much_that_nobody_fetches_is_an_end() -> None:
    async def story() -> None:
        ticket = Ticket([(Request(), Reader())], 2)  # type: ignore[list-item]
        for _ in range(5):
            ticket.deliver(0, Chunk("a", None))
        assert len(await ticket.fetch()) == 3
        with pytest.raises(ReaderTooSlow):
            await ticket.fetch()

    asyncio.run(story())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_is_told_to_everyone(serving: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """TRAP-140: requests that run get 503, later ones too, and so does /health; the other model's engine goes on."""
    with serving(("tiny", "other")) as running, ThreadPoolExecutor() as pool:
        url = f"{running.url}/v1/completions"
        assert httpx.get(f"{running.url}/health").json() == {"status": "ok"}

        def burst() -> Any:
            raise SystemError("secret")

        running.worker.generator.engine.step = burst
        with caplog.at_level(logging.ERROR):
            whole = pool.submit(httpx.post, url, json={"prompt": "x"}).result()
        assert whole.status_code == 503 and "secret" not in whole.text and "secret" in caplog.text
        assert isinstance(running.worker.failure, SystemError)
        assert httpx.post(url, json={"prompt": "x", "stream": True}).status_code == 503
        for path in ("/health", "/health/live"):
            response = httpx.get(running.url + path)
            assert response.status_code == 503 and response.json() == {"status": "failed"}
        assert httpx.post(url, json={"prompt": "x", "model": "other", "max_tokens": 2}).status_code == 200
        with pytest.raises(EngineFailed):
            running.worker.check_room(1)


def test_withdrawing_twice_is_once(server: Any) -> None:
    worker, seen = server.worker, []
    loop = worker._loop

    async def story() -> None:
        generator = worker.generator
        from framework.generation import Settings

        ticket = worker.submit([generator.prepare("x", Settings(max_new_tokens=200, ignore_eos=True))])
        await ticket.taken_in()
        seen.append(await ticket.fetch())
        worker.withdraw(ticket)
        worker.withdraw(ticket)
        assert worker.num_replies == 0

    asyncio.run_coroutine_threadsafe(story(), loop).result(10)
    server.wait_until_idle()
    assert seen and worker.generator.engine.num_active == 0


def test_what_the_engine_refuses_is_a_400(serving: Callable[..., Any]) -> None:
    """The cache is smaller than the context: only the engine knows."""
    with serving(engine={"cache_tokens": 64}) as running:
        for stream in (False, True):
            response = httpx.post(f"{running.url}/v1/completions", json={"prompt": ["x", "y"], "max_tokens": 200, "stream": stream})
            assert response.status_code == 400 and "cache" in response.json()["error"]["message"]
        assert httpx.post(f"{running.url}/v1/completions", json={"prompt": "x", "max_tokens": 9}).status_code == 200
        chat = httpx.post(f"{running.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "temperature": 0})
        assert chat.json()["usage"]["total_tokens"] == 64, "a chat without max_tokens takes what room there is"
        running.wait_until_idle()


@pytest.mark.parametrize("n", [1, 2])
def test_a_stop_string_ends_the_work_too(server: Any, client: httpx.Client, n: int) -> None:
    """The engine cannot know of it, and is told: nothing is computed that nobody will read."""
    body = {"prompt": "q", "temperature": 0, "max_tokens": 250, "n": n, "ignore_eos": True}
    stop = client.post("/v1/completions", json={**body, "max_tokens": 9}).json()["choices"][0]["text"][4:7]
    server.wait_until_idle()
    before = server.worker.statistics.generated_tokens
    told = client.post("/v1/completions", json={**body, "stop": stop}).json()
    server.wait_until_idle()
    assert {choice["finish_reason"] for choice in told["choices"]} == {"stop"}
    assert server.worker.statistics.generated_tokens - before == told["usage"]["completion_tokens"] <= 7 * n
