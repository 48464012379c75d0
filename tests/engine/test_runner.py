"""What a runner remembers of its network between rounds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from framework.engine.engine import Engine
from framework.engine.request import Request
from framework.networks import blocks
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.samplers.selection import Greedy


@pytest.mark.kernels
def test_modules_are_read_once_a_request_and_changed_weights_and_hooks_are_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network: Any = Transformer(NetworkShape(num_layers=3, width=64, num_heads=4), vocab_size=31, context_length=72).eval()
    reads: list[int] = []
    seen: list[int] = []
    read = blocks.Reader.read
    monkeypatch.setattr(blocks.Reader, "read", lambda *given: reads.append(1) or read(*given))
    engine = Engine(network)

    def tokens(rounds: int) -> list[int]:
        return [event.token_id for _ in range(rounds) for event in engine.step()]

    engine.add(Request(prompt_ids=[1, 2, 3], max_new_tokens=40, samplers=[Greedy()]))
    before = tokens(10)
    assert len(reads) == 1

    with torch.no_grad():
        network.blocks[1].attention.qkv.weight = nn.Parameter(torch.randn(192, 64))  # which the engine has not seen yet
        network.norm.weight.neg_()
    after = tokens(10)
    assert len(reads) == 2
    anew = Engine(copy.deepcopy(network)).stream(Request(prompt_ids=[1, 2, 3, *before], max_new_tokens=10, samplers=[Greedy()]))
    assert after == [event.token_id for event in anew]

    handle = network.blocks[1].feedforward.up.register_forward_hook(lambda *_: seen.append(1))
    tokens(2)
    assert len(seen) == 2
    handle.remove()
    reads.clear()
    tokens(3)
    assert len(reads) == 1 and len(seen) == 2

    assert tokens(40) and not engine.num_active
    assert engine._runner.cache is not None and engine._runner.cache.layers is None  # nothing of the modules is held
