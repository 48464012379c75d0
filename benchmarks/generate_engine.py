"""What only our engine is asked: waiting for the first token, shared prefixes, time outside the network, memory over many requests.

Each function is called with `rounds` and answers with `figures`: milliseconds, shares, megabytes.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from generate_contenders import MB, our_network

SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top-k and top-p": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
}


class Client:
    """An engine and random requests to it."""

    def __init__(self, directory: str, precision: str, threads: int, **settings: Any) -> None:
        from framework.engine.engine import Engine

        torch.set_num_threads(threads)
        self.network = our_network(directory, precision)
        self.engine = Engine(self.network, **settings)
        self._chance = random.Random(0)

    def ids(self, count: int) -> list[int]:
        """Random ones, never the same again."""
        return self._chance.choices(range(self.network.vocab_size), k=count)

    def add(self, prompt: list[int], reply_length: int, sampling: str = "greedy") -> int:
        """A request; its id."""
        from framework.engine.request import Request
        from framework.samplers.chain import SamplingOptions

        samplers = SamplingOptions(**SAMPLING[sampling]).chain()
        return self.engine.add(Request(prompt, reply_length, samplers=samplers, seed=0))

    def step(self) -> set[int]:
        """The requests that got a token. Raises what made one fail."""
        events = self.engine.step()
        if failed := [event.error for event in events if event.error]:
            raise failed[0]
        return {event.request_id for event in events}

    def fill(self, count: int, prompt_length: int, reply_length: int, sampling: str = "greedy") -> list[int]:
        """Requests that have all read their prompts."""
        added = [self.add(self.ids(prompt_length), reply_length, sampling) for _ in range(count)]
        waiting = set(added)
        while waiting:
            waiting -= self.step()
        return added

    def milliseconds_to(self, request: int) -> float:
        """Until the request's first token."""
        begin = time.perf_counter()
        while request not in self.step():
            pass
        return (time.perf_counter() - begin) * 1e3

    def end(self, requests: list[int]) -> None:
        """Cancel them."""
        for request in requests:
            self.engine.cancel(request)


def first_token(rounds: Any, directory: str, threads: int, precision: str, running: int, prompt_lengths: list[int]) -> None:
    """A new request's wait for its first token while others are being decoded, and the longest that these wait meanwhile."""
    client = Client(directory, precision, threads, max_running=running + 1)
    while True:
        rounds()
        others = client.fill(running, 32, 400)
        steps = [timed(client.step) for _ in range(8)]
        figures = {"step": sorted(steps)[len(steps) // 2] * 1e3}
        for length in prompt_lengths:
            request = client.add(client.ids(length), 8)
            longest = begin = 0.0
            seen: set[int] = set()
            start = time.perf_counter()
            while request not in seen:
                begin = time.perf_counter()
                seen = client.step()
                longest = max(longest, time.perf_counter() - begin)
            figures |= {f"first token {length}": (time.perf_counter() - start) * 1e3, f"longest step {length}": longest * 1e3}
            client.end([request])
        client.end(others)
        rounds.note(figures=figures, rates={})


def prefix(rounds: Any, directory: str, threads: int, precision: str, shared: int, own: int) -> None:
    """The prefill of a prompt, and of one that differs from it in its last `own` tokens."""
    client = Client(directory, precision, threads)
    while True:
        rounds()
        common = client.ids(shared)
        first, second = (client.milliseconds_to(client.add(common + client.ids(own), 1)) for _ in range(2))
        rounds.note(figures={"first prefill": first, "second prefill": second}, rates={})


def outside(rounds: Any, directory: str, threads: int, precision: str, running: int, steps: int) -> None:
    """The part of a decoding step that is not spent in the network's forward pass and output matrix."""
    client = Client(directory, precision, threads, max_running=running)
    inside = Stopwatch()
    client.network.forward = inside.timing(client.network.forward)
    client.network.logits = inside.timing(client.network.logits)
    while True:
        rounds()
        figures = {}
        for sampling in SAMPLING:
            requests = client.fill(running, 32, steps + 8, sampling)
            for _ in range(2):
                client.step()
            inside.seconds = 0.0
            whole = sum(timed(client.step) for _ in range(steps))
            figures[f"outside {precision} {sampling}"] = 1 - inside.seconds / whole
            figures[f"outside ms {precision} {sampling}"] = (whole - inside.seconds) / steps * 1e3
            client.end(requests)
        rounds.note(figures=figures, rates={})


class Stopwatch:
    """Adds up the time spent in functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def run(*arguments: Any, **keywords: Any) -> Any:
            begin = time.perf_counter()
            result = function(*arguments, **keywords)
            self.seconds += time.perf_counter() - begin
            return result

        return run


def memory(rounds: Any, directory: str, threads: int, precision: str, requests: int) -> None:
    """Resident memory after each round's requests: random lengths, up to 32 at a time, a tenth cancelled.

    The cache is small enough that the first round fills it: its memory is the system's until it is first written.
    """
    client = Client(directory, precision, threads, cache_tokens=2048)
    chance = random.Random(1)
    for number in itertools.count():
        rounds()
        for _ in range(requests if number else max(60, requests // 2)):
            while client.engine.num_active >= 48:
                client.step()
            request = client.add(client.ids(chance.randint(8, 96)), chance.randint(1, 24), chance.choice(list(SAMPLING)))
            if chance.random() < 0.1:
                client.step()
                client.engine.cancel(request)
        while client.engine.num_active:
            client.step()
        rounds.note(figures={"resident MB": resident() / MB}, rates={})


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(function: Callable[[], Any]) -> float:
    """Seconds of a call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
