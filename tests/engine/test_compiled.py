"""Compiled decoding draws what uncompiled decoding draws, with few compilations."""

from __future__ import annotations

import pytest
import torch

from framework.engine.engine import Engine
from framework.engine.request import Event, Request
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.samplers.selection import Greedy


def serve(engine: Engine) -> dict[tuple[int, int], list[int]]:
    for number in range(7):
        engine.add(
            Request([number, 5, 9] * (1 + number), max_new_tokens=5 + 2 * number, samplers=[Greedy()] if number % 2 else (), seed=number)
        )
    events: list[Event] = []
    while engine.num_active:
        events += engine.step()
    replies: dict[tuple[int, int], list[int]] = {}
    for event in events:
        assert event.error is None
        replies.setdefault((event.request_id, event.index), []).append(event.token_id)
    return replies


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 7])
def test_compiled_rounds_are_the_same(window: int | None) -> None:
    torch.manual_seed(0)
    shape = NetworkShape(2, 32, 4, num_kv_heads=2, positions="rotary", norm="rms", feedforward="swiglu", sliding_window=window)
    network = Transformer(shape, 31, 72).double().eval()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = serve(Engine(network, compile=True))
    counters = torch._dynamo.utils.counters["stats"]
    assert compiled == serve(Engine(network))
    assert 1 <= counters["unique_graphs"] <= 4  # rows rounded to 8, 4, 2, 1; one width
    torch._dynamo.reset()


@pytest.mark.gpu
def test_cuda_graphs_draw_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    network = Transformer(NetworkShape(2, 64, 4, positions="rotary", norm="rms"), 31, 72).double().cuda().eval()
    assert serve(Engine(network, compile=True)) == serve(Engine(network))
