"""10,000 requests of every kind, a fifth of them left by their clients, a tenth malformed: the server is as it was before (TRAP-143)."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

NUM_REQUESTS = int(os.environ.get("FRAMEWORK_SOAK_REQUESTS", "10000"))
AT_ONCE = 40
MALFORMED: list[Any] = [
    {"prompt": "x", "n": 10**7},
    {"prompt": [10**6]},
    {"prompt": "x", "temperature": -1},
    {"prompt": "x", "top_p": 0},
    {"prompt": "x", "max_tokens": 10**9},
    {"prompt": "x", "logit_bias": {"9999": 1}},
    {"prompt": "x", "regex": "("},
    {"prompt": "x" * 100_000},
    {"prompt": "x", "unknown": 1},
    {"messages": []},
    [],
    "text",
]


def resident_bytes() -> int:
    """Memory that is in use: what the allocator keeps for later is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def request(draw: random.Random) -> dict[str, Any]:
    """A body that is served."""
    body: dict[str, Any] = {"max_tokens": draw.randint(1, 24), "stream": draw.random() < 0.5, "seed": draw.choice([None, 1, 2])}
    body |= draw.choice(
        [{}, {"temperature": 0}, {"top_k": 5, "min_p": 0.1}, {"top_p": 0.8, "repetition_penalty": 1.2}, {"presence_penalty": 1}]
    )
    body |= draw.choice(
        [{}, {}, {"n": 2}, {"stop": ["a", "zz"]}, {"logit_bias": {"101": 5}}, {"choices": ["yes", "no"]}, {"ignore_eos": True}]
    )
    if draw.random() < 0.4:
        return {
            **body,
            "messages": [{"role": "user", "content": "hi " * draw.randint(1, 20)}],
            **draw.choice([{}, {"logprobs": True, "top_logprobs": 2}]),
        }
    prompt = "shared beginning of many prompts, " * draw.randint(0, 3) + str(draw.random())
    return {
        **body,
        "prompt": draw.choice([prompt, [prompt, "b"], list(prompt.encode())]),
        **draw.choice([{}, {"logprobs": 2, "echo": True}]),
    }


async def one(client: httpx.AsyncClient, url: str, draw: random.Random, told: Counter[str]) -> None:
    chance = draw.random()
    if chance < 0.1:
        wrong = draw.choice(MALFORMED)
        content = draw.choice([json.dumps(wrong).encode(), json.dumps(wrong).encode()[:-1]])
        response = await client.post(f"{url}/v1/completions", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400 and "error" in response.json(), response.text
        told["malformed"] += 1
        return
    body = request(draw)
    path = f"{url}/v1/chat/completions" if "messages" in body else f"{url}/v1/completions"
    if chance < 0.33:
        body |= {"max_tokens": 200, "ignore_eos": True}
        try:
            async with asyncio.timeout(draw.uniform(0.0, 0.3)):
                await client.post(path, json=body)
            told["was served before it left"] += 1
        except TimeoutError:
            told["left"] += 1
        return
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    if body["stream"]:
        assert response.text.endswith("data: [DONE]\n\n") and '{"error"' not in response.text
    told["served"] += 1


async def load(url: str, num_requests: int, seed: int) -> Counter[str]:
    told: Counter[str] = Counter()
    numbers = iter(range(num_requests))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=AT_ONCE)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:

        async def caller() -> None:
            for number in numbers:
                await one(client, url, random.Random(seed + number), told)

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return told


@pytest.mark.slow
def test_the_server_is_as_it_was(serving: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with serving(max_queue=1000) as running:
        engine = running.worker.generator.engine
        warm = max(NUM_REQUESTS // 5, 100)
        asyncio.run(load(running.url, warm, 0))
        running.wait_until_idle(60)
        before, memory = engine.statistics, resident_bytes()
        told = asyncio.run(load(running.url, NUM_REQUESTS, 10**6))
        running.wait_until_idle(60)
        after, grown = engine.statistics, (resident_bytes() - memory) / 2**20
        with capsys.disabled():
            print(f"\n{dict(told)}; memory {memory / 2**20:.0f} MiB {grown:+.1f} MiB; {after}")
        assert told.total() == NUM_REQUESTS and told["malformed"] > NUM_REQUESTS * 0.08 and told["left"] > NUM_REQUESTS * 0.15
        assert (after.running, after.waiting, after.cache_tokens_used) == (0, 0, before.cache_tokens_used) and engine.num_active == 0
        assert not running.worker._running and not running.worker._tickets
        assert grown < 8, "memory is flat"
        assert httpx.get(f"{running.url}/health").json() == {"status": "ok"}
        assert httpx.post(f"{running.url}/v1/completions", json={"prompt": "x", "max_tokens": 2}).status_code == 200
