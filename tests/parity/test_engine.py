"""The engine's replies beside the training forward: what is off by more than rounding is named, a tie is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.parity.engine import Reply, compare, replies, unlike

PROMPTS = [[1], [2, 3, 4], list(range(5, 45))]


@pytest.fixture(scope="module")
def network() -> Transformer:
    torch.manual_seed(0)
    made = Transformer(NetworkShape(2, 32, 4, 2, positions="rotary", norm="rms", feedforward="swiglu"), 50, 64).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def logits(network: Transformer, reply: Reply) -> Tensor:
    with torch.inference_mode():
        return network.logits(network(torch.tensor([[*reply.prompt_ids, *reply.ids]])))[0]


@pytest.mark.parametrize("together", [False, True])
def test_the_same(network: Transformer, together: bool) -> None:
    written = replies(network, PROMPTS, 8, together)
    assert [reply.prompt_ids for reply in written] == PROMPTS and all(len(reply.ids) == 8 for reply in written)
    assert all(len(reply.log_probs) == len(reply.prompt_ids) + 7 for reply in written)
    found = compare("engine", written, [logits(network, reply) for reply in written], 1e-4)
    assert found.outcome == "passed" and "24 greedy tokens equal" in found.detail and found.figures["largest difference"] < 1e-4


def test_another_log_probability_and_another_token(network: Transformer) -> None:
    written = replies(network, PROMPTS, 4, together=True)
    seen = [logits(network, reply) for reply in written]
    written[1].log_probs[2] += 0.01
    found = compare("engine", written, seen, 1e-4)
    assert found.outcome == "FAILED" and found.detail == "prompt 1: the log-probability of token 3 differs by 0.01"
    written[1].log_probs[2] -= 0.01
    other = (written[2].ids[1] + 1) % 50
    written[2].ids[1] = other
    found = compare("engine", written, seen, 10.0)
    assert found.outcome == "passed"  # no gap of logits is wider than that tolerance allows
    found = compare("engine", written, seen, 1e-4)
    assert f"prompt 2: token 41 is {other}, the training forward has " in found.detail


def test_a_network_whose_cache_is_wrong(network: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotations that start anew with every round: only the engine has rounds."""
    forward = Transformer.forward

    def forgetful(self: Transformer, ids_BT: Tensor, positions_BT: Tensor | None = None, *rest: object, **more: object) -> Tensor:
        if more.get("cache") is not None:
            positions_BT = torch.zeros_like(ids_BT)
        return forward(self, ids_BT, positions_BT, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Transformer, "forward", forgetful)
    written = replies(network, PROMPTS, 4, together=False)
    found = compare("engine", written, [logits(network, reply) for reply in written], 1e-4)
    assert found.outcome == "FAILED" and found.detail.startswith("prompt 0: the log-probability of token ")


def test_a_tie_is_no_difference() -> None:
    logits_TV = torch.tensor([[0.0, 1.0, 1.00001], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert unlike(logits_TV, [0, 1, 0], 1, 1e-4) == []
    assert unlike(logits_TV, [0, 1, 0], 1, 1e-6) == [(1, 2)]
    assert unlike(logits_TV, [0, 2, 1], 1, 1e-4) == [(2, 0)]
