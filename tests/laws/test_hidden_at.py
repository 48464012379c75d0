"""Hidden states of some tokens are those that a pass over all gives them, gradients included, and cost less (float64)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from framework.networks.actor_critic import ActorCritic
from framework.networks.base import Network
from framework.networks.lora import LoRA
from framework.networks.quantized import quantize
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer

VOCAB_SIZE, ROWS, LENGTH = 61, 3, 12
LLAMA: dict[str, Any] = {"num_kv_heads": 2, "feedforward": "swiglu", "norm": "rms", "positions": "rotary"}
SHAPES = {
    "gpt2": NetworkShape(
        2, 32, 4, feedforward="gelu_tanh", qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True, dropout=0.1
    ),
    "llama": NetworkShape(2, 32, 4, tied_embeddings=False, sliding_window=5, **LLAMA),
    "qwen3": NetworkShape(2, 32, 4, qk_norm=True, **LLAMA),
    "gemma2": NetworkShape(
        3, 32, 4, output_norms=True, scaled_embeddings=True, sliding_window=5, windowed_layers=(0, 2), attention_softcap=0.5,
        **LLAMA | {"norm": "rms_plus_one"},
    ),
    "one layer": NetworkShape(1, 32, 4, **LLAMA),
}  # fmt: skip
IDS_BT = torch.randint(VOCAB_SIZE, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
DOCUMENTS_BT = (torch.arange(LENGTH) >= 7).long().expand(ROWS, LENGTH)
POSITIONS_BT = torch.cat([torch.arange(7), torch.arange(LENGTH - 7)]).expand(ROWS, LENGTH)
PACKED = (IDS_BT, POSITIONS_BT, DOCUMENTS_BT)
PLACES = (torch.tensor([0, 0, 2, 2, 2]), torch.tensor([3, 4, 0, 7, 11]))  # a row has none


def made(shape: NetworkShape, **arguments: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(shape, VOCAB_SIZE, LENGTH, **arguments).double()


def adapted(dropout: float = 0.0) -> LoRA:
    network = LoRA(lambda **_: made(SHAPES["llama"]), rank=3, dropout=dropout, vocab_size=VOCAB_SIZE, context_length=LENGTH).double()
    for adapter in network.adapters("default").values():
        nn.init.normal_(adapter.B_OR, generator=torch.Generator().manual_seed(1))
    return network


class Running(Network):
    """A plugin that has never heard of places: means of the embeddings so far."""

    vocab_size, context_length, init_args = VOCAB_SIZE, LENGTH, {}  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB_SIZE, 8, dtype=torch.float64)

    def forward(self, ids_BT, positions_BT=None, documents_BT=None, cache=None):  # type: ignore[no-untyped-def]
        return self.table(ids_BT).cumsum(1).tanh()

    @property
    def head_weight_VD(self) -> Tensor:
        return self.table.weight

    def flops_per_token(self, length: int) -> int:
        return 1


class Mixing(Transformer):
    """A plugin that builds on ours: some tokens alone would have another mean."""

    def forward(self, ids_BT, positions_BT=None, documents_BT=None, cache=None):  # type: ignore[no-untyped-def]
        hidden_BTD = super().forward(ids_BT, positions_BT, documents_BT, cache)
        return hidden_BTD + hidden_BTD.cumsum(1)


class Doubling(ScalarHead):
    """A plugin that builds on a network around another."""

    def forward(self, ids_BT, positions_BT=None, documents_BT=None, cache=None):  # type: ignore[no-untyped-def]
        return 2 * super().forward(ids_BT, positions_BT, documents_BT, cache)


NETWORKS: dict[str, Callable[[], Network]] = {
    **{name: lambda shape=shape: made(shape) for name, shape in SHAPES.items()},  # type: ignore[misc]
    "checkpointed": lambda: made(SHAPES["gemma2"], activation_checkpointing=True),
    "adapter": adapted,
    "adapter with dropout": lambda: adapted(dropout=0.5),
    "score": lambda: ScalarHead(lambda **_: made(SHAPES["qwen3"])),
    "policy of a critic": lambda: ActorCritic(adapted(), ScalarHead(lambda **_: made(SHAPES["qwen3"]))),
    "plugin": Running,
    "score of a plugin": lambda: ScalarHead(lambda **_: Running()),
    "built on ours": lambda: Mixing(SHAPES["llama"], VOCAB_SIZE, LENGTH).double(),
    "built on a score": lambda: Doubling(lambda **_: made(SHAPES["qwen3"])),
}


def gradients(network: Network, compute: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """Hidden states, and the gradients of a sum that looks at each differently; the same random numbers each time."""
    torch.manual_seed(0)
    network.zero_grad()
    hidden_ND = compute()
    weights_ND = torch.randn(hidden_ND.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (hidden_ND * weights_ND).sum().backward()
    return hidden_ND.detach(), [parameter.grad for parameter in network.parameters()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("given", [(IDS_BT,), PACKED], ids=["plain", "packed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_some_are_as_among_all(name: str, given: tuple[Tensor, ...], training: bool) -> None:
    network = NETWORKS[name]().train(training)
    expected_ND, theirs = gradients(network, lambda: network(*given)[PLACES])
    found_ND, ours = gradients(network, lambda: network.hidden_at(PLACES, *given))
    torch.testing.assert_close(found_ND, expected_ND, rtol=0, atol=1e-12)
    assert any(gradient is not None and gradient.any() for gradient in ours)
    for mine, its in zip(ours, theirs, strict=True):
        assert (mine is None) == (its is None)
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "adapter", "plugin"])
def test_none_are_none(name: str) -> None:
    """A micro-batch of which nothing is trained: every process still has a gradient of every parameter."""
    network, nowhere = NETWORKS[name]().eval(), (torch.zeros(0, dtype=torch.long),) * 2
    hidden_ND, found = gradients(network, lambda: network.hidden_at(nowhere, IDS_BT))
    assert hidden_ND.shape == (0, network.head_weight_VD.shape[1])
    _, theirs = gradients(network, lambda: network(IDS_BT)[nowhere])
    assert [gradient is None for gradient in found] == [gradient is None for gradient in theirs]
    assert not any(gradient.any() for gradient in found if gradient is not None)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantised_network_without_gradients(kind: Any) -> None:
    """In fp32, where our kernels round each row for itself."""
    network = quantize(made(SHAPES["llama"]).float(), kind).eval()
    with torch.no_grad():
        torch.testing.assert_close(network.hidden_at(PLACES, IDS_BT), network(IDS_BT)[PLACES], rtol=0, atol=1e-4)


def rows_of_last_feedforward(network: Transformer) -> list[int]:
    """The number of tokens that each of its calls gets, as they come."""
    seen: list[int] = []
    network.blocks[-1].feedforward.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:-1].numel()))  # type: ignore[union-attr]
    return seen


def test_the_work_of_the_others_is_left_out() -> None:
    """Of the last block: the attention's output matrix and the feed-forward."""
    network = made(SHAPES["qwen3"])
    seen, shape = rows_of_last_feedforward(network), network.shape
    flops = {}
    for number in (0, 1, 20, ROWS * LENGTH):
        places_N = torch.arange(number)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.hidden_at((places_N // LENGTH, places_N % LENGTH), IDS_BT)
        flops[number] = counter.get_total_flops()
    assert seen == list(flops)
    each = 2 * (shape.width**2 + 3 * shape.width * shape.inner_width)  # of a token
    assert {number: found - flops[0] for number, found in flops.items()} == {number: number * each for number in flops}


def test_what_sees_modules_run_sees_these() -> None:
    """Hooks of the network itself, by which others (sharded weights, plans, pages) know that it runs."""
    network, seen = adapted(), []
    for module in (network, network.base):
        module.register_forward_pre_hook(lambda module, given: seen.append((type(module), given[0].shape)))
    network.hidden_at(PLACES, IDS_BT)
    assert seen == [(LoRA, IDS_BT.shape), (Transformer, IDS_BT.shape)]


def test_compiled_blocks_take_all_tokens() -> None:
    """For each number of tokens they would be compiled anew."""
    network = made(SHAPES["llama"])
    network.compiled, seen = True, rows_of_last_feedforward(network)
    expected_ND = network(IDS_BT)[PLACES]
    torch.testing.assert_close(network.hidden_at(PLACES, IDS_BT), expected_ND, rtol=0, atol=1e-12)
    assert seen == [ROWS * LENGTH] * 2


def test_the_compiler_makes_one_graph_of_it() -> None:
    torch.compiler.reset()
    network = made(SHAPES["llama"])
    compiled = torch.compile(lambda: network.hidden_at(PLACES, IDS_BT), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(), network(IDS_BT)[PLACES], rtol=0, atol=1e-12)
    torch.compiler.reset()
