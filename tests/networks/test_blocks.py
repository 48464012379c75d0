"""All blocks in one call compute what the modules compute one by one, and leave them alone where anything is otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from framework.kernels import calls
from framework.networks import blocks
from framework.networks.base import Network
from framework.networks.quantized import quantize
from framework.networks.shape import NetworkShape, RotaryScaling
from framework.networks.transformer import Transformer

LLAMA: dict[str, Any] = {
    "num_layers": 3,
    "width": 64,
    "num_heads": 4,
    "num_kv_heads": 2,
    "feedforward": "swiglu",
    "norm": "rms",
    "positions": "rotary",
}
SHAPES: list[dict[str, Any]] = [
    {},
    {"qk_norm": True, "qkv_bias": True, "sliding_window": 5, "head_width": 24},
    {"feedforward_width": 100, "num_kv_heads": 1, "feedforward_bias": True, "out_bias": True},
]
TABLES = torch.tensor([[2, 1, 4], [3, 5, 6]], dtype=torch.int32)

pytestmark = pytest.mark.skipif(not calls.available(), reason="no kernels on this machine")


def make(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    network = Transformer(NetworkShape(**{**LLAMA, **changes}), 100, 64).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3) if parameter.ndim > 1 else parameter.uniform_(0.5, 1.5)
    return network


def hidden(network: Network, monkeypatch: pytest.MonkeyPatch, fused: bool) -> tuple[Tensor, list[bool]]:
    """Hidden states of two sequences in three forwards, and whether each went through the one call."""
    ran: list[bool] = []
    run = blocks.run

    def watched(*arguments: Any) -> Tensor | None:
        result = run(*arguments) if fused else None
        ran.append(result is not None)
        return result

    ids_BT = torch.arange(7)[None] * 13 % 100
    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(blocks, "run", watched)
        cache = network.new_cache(6)
        assert cache is not None
        steps = [([0, 0], [3, 4]), ([3, 4], [1, 1]), ([4, 5], [2, 3])]
        parts = [network(ids_BT[:, : sum(counts)], cache=cache.view(TABLES, lengths, counts)) for lengths, counts in steps]
    return torch.cat(parts, dim=1), ran


@pytest.mark.parametrize("kind", [None, "int8", "int4"])
@pytest.mark.parametrize("changes", SHAPES)
def test_one_call_is_the_modules(changes: dict[str, Any], kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network: Network = make(**changes) if kind is None else quantize(make(**changes), kind)
    found, ran = hidden(network, monkeypatch, fused=True)
    expected, alone = hidden(network, monkeypatch, fused=False)
    assert ran == [True] * 3 and alone == [False] * 3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the forward that trains, in float64, without a cache."""
    network = make(qk_norm=True, sliding_window=5)
    found, _ = hidden(network, monkeypatch, fused=True)
    ids = [torch.tensor([[0, 13, 26, 0, 0, 13]]), torch.tensor([[39, 52, 65, 78, 13, 26, 39, 52]])]
    first, second = (network.double()(each)[0] for each in ids)
    expected = torch.cat([first[:3], second[:4], first[3:4], second[4:5], first[4:6], second[5:8]])
    torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=1e-5)


def test_modules_that_are_watched_or_replaced_run_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = make(), []
    handle = network.blocks[1].feedforward.gate.register_forward_hook(lambda *_: seen.append(1))  # type: ignore[union-attr]
    assert hidden(network, monkeypatch, fused=True)[1] == [False] * 3 and len(seen) == 3
    handle.remove()
    assert hidden(network, monkeypatch, fused=True)[1] == [True] * 3

    class Wrapped(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return 2.0 * self.inner(x)

    network.blocks[0].attention.out = Wrapped(network.blocks[0].attention.out)  # type: ignore[union-attr, arg-type]
    assert hidden(network, monkeypatch, fused=True)[1] == [False] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "layer"},
        {"norm": "rms_plus_one"},
        {"feedforward": "geglu"},
        {"feedforward": "geglu_tanh"},
        {"positions": "learned"},
        {"output_norms": True},
        {"sliding_window": 3, "windowed_layers": (1,)},
        {"unrotated_layers": (1,)},
        {"attention_scale_width": 5},
        {"attention_softcap": 0.5},
    ],
)
def test_other_shapes_run_themselves(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And compute what the forward without a cache does."""
    network = make(**changes)
    found, ran = hidden(network, monkeypatch, fused=True)
    assert ran == [False] * 3
    ids = [torch.tensor([[0, 13, 26, 0, 0, 13]]), torch.tensor([[39, 52, 65, 78, 13, 26, 39, 52]])]
    with torch.inference_mode():
        first, second = (network(each)[0] for each in ids)
    expected = torch.cat([first[:3], second[:4], first[3:4], second[4:5], first[4:6], second[5:8]])
    torch.testing.assert_close(found[0], expected, rtol=0, atol=2e-4)


def test_scaled_embeddings_and_rotations_are_outside_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = RotaryScaling("yarn", 4.0, original_context_length=16)
    network = make(scaled_embeddings=True, rotary_scaling=scaling, sliding_window=5, local_rotary_theta=50.0, logit_softcap=3.0)
    found, ran = hidden(network, monkeypatch, fused=True)
    expected, _ = hidden(network, monkeypatch, fused=False)
    assert ran == [True] * 3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_other_types_and_training_run_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hidden(make().double(), monkeypatch, fused=True)[1] == [False] * 3
    assert hidden(make().bfloat16(), monkeypatch, fused=True)[1] == [False] * 3
    network = make()
    cache = network.new_cache(6)
    network(torch.zeros(1, 2, dtype=torch.long), cache=cache.view(TABLES, [0, 0], [1, 1])).sum().backward()
    assert network.blocks[0].attention.qkv.weight.grad is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [None, "int8"])
def test_without_kernels_the_modules_and_torch_do_it(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, FRAMEWORK_KERNELS=0, or another device: the same hidden states, and no kernel is called."""
    network: Network = make() if kind is None else quantize(make(), kind)
    expected, _ = hidden(network, monkeypatch, fused=True)
    monkeypatch.setattr(calls, "available", lambda: False)
    monkeypatch.setattr(calls, "load", lambda: None)
    found, ran = hidden(network, monkeypatch, fused=True)
    assert ran == [False] * 3
    error = ((found - expected).norm() / expected.norm()).item()
    assert error < (1e-5 if kind is None else 0.1), error  # the kernel rounds activations to 8 bits
