"""LoRA: begins as its base, trains nothing of it, and is the same network merged, through the engine, and in a copy (TRAP-80)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.engine.engine import Engine
from framework.engine.request import Request
from framework.errors import CheckpointError
from framework.networks.base import Network
from framework.networks.linear import Linear
from framework.networks.lora import LoRA, without_adapters
from framework.networks.low_rank import AdaptedLinear, Adapter
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.optimizers.adamw import AdamW
from framework.optimizers.groups import parameter_groups
from framework.samplers.selection import Greedy
from framework.testing.networks import CHECKS

SHAPES = {
    "gpt2": NetworkShape(2, 32, 4, feedforward="gelu_tanh", qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True),
    "llama": NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary", tied_embeddings=False),
}
VOCAB_SIZE, CONTEXT_LENGTH = 61, 48


def base_of(name: str, **arguments: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(SHAPES[name], VOCAB_SIZE, CONTEXT_LENGTH, **arguments)


def lora_of(base: Network, **arguments: Any) -> LoRA:
    torch.manual_seed(1)
    return LoRA(lambda **sizes: base, **arguments)


@torch.no_grad()
def learn(network: LoRA, name: str = "default", seed: int = 2) -> LoRA:
    """Give an adapter something to say."""
    generator = torch.Generator().manual_seed(seed)
    for adapter in network.adapters(name).values():
        adapter.B_OR.copy_(torch.randn(adapter.B_OR.shape, generator=generator) * 0.1)
    return network


def ids_of(length: int = CONTEXT_LENGTH, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB_SIZE, (2, length), generator=torch.Generator().manual_seed(seed))


def bits(network: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().clone().view(torch.uint8).numpy().tobytes() for name, tensor in network.named_parameters()}


def by_hand(network: LoRA) -> Network:
    """The base with W + scaling B A in each layer, written out."""
    plain = copy.deepcopy(network.base)
    for at, layer in network.layers.items():
        adapter = network.adapters(network.in_use or "")[at]
        matrix = nn.Linear(layer.in_features, layer.out_features)
        matrix.weight = nn.Parameter(layer.weight + adapter.alpha / adapter.rank * adapter.B_OR @ adapter.A_RI)
        matrix.bias = layer.bias  # type: ignore[assignment]
        plain.get_submodule(at.rpartition(".")[0]).__setattr__(at.rpartition(".")[2], matrix)
    return plain


# it begins as the base, and the base stays


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPES)
def test_the_first_output_is_the_base_s_to_the_bit(name: str, dtype: torch.dtype) -> None:
    base = base_of(name).to(dtype)
    alone, network = copy.deepcopy(base), lora_of(base, dropout=0.5)
    for length in (4, CONTEXT_LENGTH):  # with few rows and no gradients kernels compute
        assert torch.equal(network(ids_of(length)), alone(ids_of(length)))
        with torch.no_grad():
            assert torch.equal(network(ids_of(length)), alone(ids_of(length)))
            assert torch.equal(network.logits(network(ids_of(length))), alone.logits(alone(ids_of(length))))


@pytest.mark.parametrize("name", SHAPES)
def test_training_reaches_the_adapter_alone(name: str) -> None:
    base = base_of(name)
    before, network = bits(base), lora_of(base)
    groups = parameter_groups(network.named_parameters(), network.roles())
    trained = [parameter for group in groups for parameter in group["params"]]
    assert [group["role"] for group in groups] == ["matrix"]
    wanted = [parameter for adapter in network.adapters("default").values() for parameter in adapter.parameters()]
    assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in wanted} and len(trained) == len(wanted)
    optimizer, losses = AdamW(groups, lr=1e-2), []
    for _ in range(5):
        loss = F.cross_entropy(network.logits(network(ids_of()))[:, :-1].flatten(0, 1), ids_of()[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    after = {name.replace(".adapters.default", ""): value for name, value in bits(base).items()}
    assert {name: after[name] for name in before} == before
    assert all(parameter.grad is None for parameter in network.frozen().values())
    assert all(adapter.B_OR.any() for adapter in network.adapters("default").values())


def test_a_rate_of_zero_changes_nothing() -> None:
    network = learn(lora_of(base_of("llama")))
    before = bits(network)
    optimizer = AdamW(parameter_groups(network.named_parameters(), network.roles()), lr=0.0)
    network(ids_of()).square().sum().backward()
    optimizer.step()
    assert bits(network) == before


# what it computes


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_formula(bias: bool, dropout: float) -> None:
    torch.manual_seed(0)
    given = nn.Linear(7, 5, bias=bias).double().requires_grad_(False)
    layer = AdaptedLinear(given)
    layer.adapters["a"], layer.in_use = Adapter(torch.randn(3, 7).double(), torch.randn(5, 3).double(), 6.0, dropout), "a"
    adapter = layer.adapter
    assert adapter is not None
    x = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    out = layer(x)
    weights = torch.randn(2, 4, 5, dtype=torch.float64)
    found = torch.autograd.grad((out * weights).sum(), (x, adapter.A_RI, adapter.B_OR))
    torch.manual_seed(3)
    z = F.dropout(x, dropout)
    expected_out = x @ given.weight.T + (0 if given.bias is None else given.bias) + 2.0 * (z @ adapter.A_RI.T) @ adapter.B_OR.T
    torch.testing.assert_close(out, expected_out, rtol=0, atol=1e-13)
    expected = torch.autograd.grad((expected_out * weights).sum(), (x, adapter.A_RI, adapter.B_OR))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_scaling() -> None:
    for rank, stabilised, scaling in ((4, False, 4.0), (16, False, 1.0), (16, True, 4.0)):
        network = learn(lora_of(base_of("gpt2").double(), rank=rank, alpha=16.0, rank_stabilised=stabilised, targets=["up"]))
        adapter = network.adapters("default")["blocks.1.feedforward.up"]
        assert (adapter.rank, adapter.scaling) == (rank, scaling)
        layer, x = network.layers["blocks.1.feedforward.up"], torch.randn(3, 32, dtype=torch.float64)
        change = layer(x) - F.linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(change, scaling * x @ adapter.A_RI.T @ adapter.B_OR.T, rtol=0, atol=1e-12)


def test_first_values_are_peft_s() -> None:
    """A as torch's Linear begins, uniform within 1 / sqrt(inputs); B zero."""
    network = lora_of(base_of("gpt2"), rank=64)
    for at, adapter in network.adapters("default").items():
        bound = network.layers[at].in_features ** -0.5
        assert not adapter.B_OR.any()
        assert 0.95 * bound < adapter.A_RI.abs().max() <= bound
        assert adapter.A_RI.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_dropout_is_for_training() -> None:
    network = learn(lora_of(base_of("llama"), dropout=0.5))
    with torch.no_grad():
        assert not torch.equal(network(ids_of()), network(ids_of()))
        network.eval()
        assert torch.equal(network(ids_of()), network(ids_of()))
        torch.testing.assert_close(network(ids_of()), by_hand(network)(ids_of()), rtol=0, atol=1e-5)


def test_a_bf16_base_has_an_adapter_in_fp32() -> None:
    network = learn(lora_of(base_of("llama").bfloat16()))
    assert {parameter.dtype for parameter in network.parameters() if parameter.requires_grad} == {torch.float32}
    network(ids_of()).float().square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters() if parameter.requires_grad)


def test_autocast() -> None:
    network = learn(lora_of(base_of("llama")))
    network(ids_of()).square().sum().backward()
    exact = {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = network(ids_of())
    hidden.float().square().sum().backward()
    for name, gradient in exact.items():
        found = dict(network.named_parameters())[name].grad
        assert found is not None and found.dtype == torch.float32
        assert (found - gradient).norm() < 0.05 * gradient.norm(), name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_activations_changes_nothing(dropout: float) -> None:
    gradients = []
    for recompute in (False, True):
        network = learn(lora_of(base_of("llama", activation_checkpointing=recompute), dropout=dropout))
        torch.manual_seed(5)
        network(ids_of()).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))  # type: ignore[arg-type]


def test_it_compiles_into_one_graph() -> None:
    network = learn(lora_of(base_of("llama")))
    block = network.base.get_submodule("blocks.0")
    hidden, turn = torch.randn(2, 8, 32, requires_grad=True), (torch.ones(1, 8, 1, 4), torch.zeros(1, 8, 1, 4))
    gradients = []
    for compute in (torch.compile(block, backend="eager", fullgraph=True), block):
        network.zero_grad()
        compute(hidden, turn, None, None).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == 10
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# merging


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", SHAPES)
def test_merged_is_the_same_network(name: str, dtype: torch.dtype, tolerance: float) -> None:
    network = learn(lora_of(base_of(name).to(dtype)))
    before, merged = bits(network), network.merged()
    assert type(merged) is Transformer and merged.init_args == network.base.init_args
    assert {type(module) for module in merged.modules() if isinstance(module, nn.Linear)} == {Linear}
    assert all(parameter.requires_grad for parameter in merged.parameters())
    for length in (4, CONTEXT_LENGTH):
        expected = by_hand(network)(ids_of(length))
        torch.testing.assert_close(merged(ids_of(length)), expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(network(ids_of(length)), expected, rtol=0, atol=tolerance)
        with torch.no_grad():
            torch.testing.assert_close(network(ids_of(length)), expected, rtol=0, atol=tolerance)
    assert bits(network) == before
    with torch.no_grad():
        next(merged.parameters()).add_(1)
    assert bits(network) == before  # nothing is shared


@torch.no_grad()
def test_merging_in_place_and_back() -> None:
    network = learn(lora_of(base_of("gpt2").double()))
    before, apart = bits(network), network(ids_of())
    network.merge()
    merged = network(ids_of())
    assert not torch.equal(merged, apart)
    torch.testing.assert_close(merged, apart, rtol=0, atol=1e-12)
    with network.disabled():
        assert torch.equal(network(ids_of()), base_of("gpt2").double()(ids_of()))
    learn(network, seed=9)
    torch.testing.assert_close(network(ids_of()), by_hand(network)(ids_of()), rtol=0, atol=1e-12)
    learn(network)
    assert torch.equal(network(ids_of()), merged)
    network.unmerge()
    assert bits(network) == before and torch.equal(network(ids_of()), apart)


def test_a_merged_network_is_trained_all_the_same() -> None:
    network = learn(lora_of(base_of("gpt2").double()))
    gradients = []
    for merge in (False, True):
        network.zero_grad()
        if merge:
            network.merge()
        network(ids_of()).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))  # type: ignore[arg-type]


@torch.no_grad()
def test_inside_another_network() -> None:
    torch.manual_seed(0)
    network = ScalarHead(lambda **sizes: learn(lora_of(base_of("llama"))))
    plain, lengths = without_adapters(network), torch.tensor([30, 48])
    assert type(plain) is ScalarHead and type(plain.base) is Transformer
    assert without_adapters(plain) is plain
    torch.testing.assert_close(
        plain.scores(ids_of(), lengths, 0 * lengths), network.scores(ids_of(), lengths, 0 * lengths), rtol=0, atol=1e-5
    )
    assert isinstance(network.base, LoRA)
    state = network.state_dict()
    assert "head.weight" in state and not [name for name in state if name.startswith("base.base.") and ".adapters." not in name]


# several adapters


@torch.no_grad()
def test_adapters_share_a_base() -> None:
    network = learn(lora_of(base_of("llama").double(), adapter="one"), "one")
    network.add("two", rank=2, alpha=2.0, targets=["feedforward.down"])
    learn(network, "two", seed=7)
    assert network.names == ["one", "two"] and network.in_use == "one"
    one = network(ids_of())
    network.use("two")
    two = network(ids_of())
    with network.disabled():
        neither = network(ids_of())
        with network.disabled():
            pass
        assert torch.equal(network(ids_of()), neither)
    assert torch.equal(neither, base_of("llama").double()(ids_of()))
    assert torch.equal(network(ids_of()), two) and not torch.equal(one, two) and not torch.equal(two, neither)
    assert {name for name, parameter in network.named_parameters() if parameter.requires_grad} == {
        f"base.blocks.{block}.feedforward.down.adapters.two.{matrix}" for block in (0, 1) for matrix in ("A_RI", "B_OR")
    }
    network.use("one")
    assert torch.equal(network(ids_of()), one)
    assert {name.split(".")[-2] for name, parameter in network.named_parameters() if parameter.requires_grad} == {"one"}


def test_disabled_ends_with_an_error_inside() -> None:
    network = lora_of(base_of("llama"))
    with pytest.raises(RuntimeError), network.disabled():
        raise RuntimeError
    assert network.in_use == "default"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank .0."),
        ({"alpha": 0.0}, "alpha .0"),
        ({"dropout": 1.0}, "dropout .1"),
        ({"targets": ["qkv", "q_proj"]}, "'q_proj' is the end of no linear layer's name; there are: blocks.attention.qkv, blocks.attention.out, "),
        ({"targets": ["head"]}, "'head' is the end of no"),
        ({"targets": ["kv"]}, "'kv' is the end of no"),
        ({"targets": []}, "is the end of no"),
        ({"adapter": "a.b"}, "cannot be called 'a.b'"),
        ({"adapter": "train"}, "cannot be called 'train'"),
    ],
)  # fmt: skip
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora_of(base_of("llama"), **arguments)


def test_names_that_are_taken_or_not_there() -> None:
    network = lora_of(base_of("llama"))
    with pytest.raises(ValueError, match="already"):
        network.add("default")
    with pytest.raises(ValueError, match="no adapter 'other'; there are: default"):
        network.use("other")
    with pytest.raises(ValueError, match="no linear layer"):
        network.put("other", {"embedding": Adapter(torch.zeros(2, 32), torch.zeros(VOCAB_SIZE, 2), 1.0)})
    assert network.in_use == "default" and network.names == ["default"]


def test_targets() -> None:
    every = {
        f"blocks.{block}.{part}"
        for block in (0, 1)
        for part in ("attention.qkv", "attention.out", "feedforward.up", "feedforward.gate", "feedforward.down")
    }
    assert set(lora_of(base_of("llama")).layers) == every  # not the output matrix
    assert set(lora_of(base_of("llama"), targets=["qkv", "1.feedforward.down"]).layers) == {
        "blocks.0.attention.qkv", "blocks.1.attention.qkv", "blocks.1.feedforward.down",
    }  # fmt: skip


# what every network is


def example(vocab_size: int, context_length: int) -> LoRA:
    with torch.random.fork_rng():  # a state is that of its base: seeds differ in the adapter alone
        torch.manual_seed(0)
        base = Transformer(SHAPES["llama"], vocab_size, context_length, 16)
    network = LoRA(lambda **sizes: base, dropout=0.2)
    for adapter in network.adapters("default").values():
        nn.init.normal_(adapter.B_OR, std=0.1)
    return network


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Callable[..., Network]], None]) -> None:
    check(example)


def test_counts() -> None:
    base = base_of("gpt2")
    alone, flops, head = base.num_parameters(), base.flops_per_token(10), base.head_weight_VD.numel()
    matrices = sum(module.weight.numel() for module in base.modules() if isinstance(module, nn.Linear))
    network = lora_of(base, rank=4)
    adapter = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert adapter == 2 * 4 * ((32 + 96) + (32 + 32) + 2 * (32 + 128))
    assert network.num_parameters() == alone + adapter
    assert network.flops_per_token(10) == flops + 6 * adapter - 2 * (matrices + head)


def test_sizes_reach_the_base() -> None:
    network = LoRA(lambda **sizes: Transformer(SHAPES["llama"], **sizes), vocab_size=40, context_length=9)
    assert (network.vocab_size, network.context_length, network.base.vocab_size) == (40, 9, 40)


# state


def test_the_state_is_the_adapter_s() -> None:
    network = learn(lora_of(base_of("gpt2")))
    state = network.state_dict()
    assert {name for name in state if ".adapters.default." not in name} == {"base_sha256"}
    other = lora_of(base_of("gpt2"))
    assert not torch.equal(other(ids_of()), network(ids_of()))
    other.load_state_dict(copy.deepcopy(state))
    assert torch.equal(other(ids_of()), network(ids_of()))
    with pytest.raises(RuntimeError, match="Missing"):
        other.load_state_dict({name: tensor for name, tensor in state.items() if "blocks.1.attention.out" not in name})


def test_a_state_of_another_base_is_refused() -> None:
    state, base = lora_of(base_of("gpt2")).state_dict(), base_of("gpt2")
    with torch.no_grad():
        base.norm.bias[3] += 1e-6
    with pytest.raises(CheckpointError, match="trained on another base"):
        lora_of(base).load_state_dict(state)


def test_copies_are_apart() -> None:
    network = learn(lora_of(base_of("llama")))
    with torch.no_grad():
        network(ids_of(4))
        twin = copy.deepcopy(network)
        learn(twin, seed=8)
        assert not torch.equal(twin(ids_of(4)), network(ids_of(4)))
    assert torch.equal(network(ids_of()), learn(lora_of(base_of("llama")))(ids_of()))


# the engine


def replies(network: Network, engine: Engine | None = None, greedy: bool = False) -> list[list[int]]:
    engine = engine or Engine(network, max_running=3)
    samplers = [Greedy()] if greedy else []
    requests = [Request([1, 2, 3, *range(length)], 12, samplers, seed=length) for length in (2, 19, 21)]
    numbers = [engine.add(request) for request in requests]
    found: dict[int, list[int]] = {number: [] for number in numbers}
    while engine.num_active:
        for event in engine.step():
            found[event.request_id].append(event.token_id)
    return list(found.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_the_engine_writes_what_the_merged_network_writes(name: str, dtype: torch.dtype) -> None:
    network = learn(lora_of(base_of(name).to(dtype), dropout=0.5))
    assert replies(network) == replies(network.merged())
    assert replies(network, greedy=True) == replies(network.merged(), greedy=True)
    assert network.training


def test_an_engine_sees_every_change() -> None:
    """Live weights, another adapter, none: nothing computed before serves after, though prompts are the same."""
    network = learn(lora_of(base_of("llama").double()))
    network.add("other")
    learn(network, "other", seed=4)
    engine, seen = Engine(network, max_running=3), []

    def agree() -> None:
        seen.append(replies(network, engine))
        assert seen[-1] == replies(network)
        assert engine.statistics.cache_tokens_used == 0

    agree()
    network.use("other")
    agree()
    network.use("default")
    with network.disabled():
        agree()
    agree()
    learn(network, seed=6)
    agree()
    assert seen[3] == seen[0] and len({str(one) for one in seen}) == 4


@pytest.mark.kernels
@torch.no_grad()
def test_decoding_takes_the_kernel_of_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from framework.kernels import calls

    seen, run = [], calls.blocks
    monkeypatch.setattr(calls, "blocks", lambda *arguments: seen.append(1) or run(*arguments))  # type: ignore[func-returns-value]
    network = learn(lora_of(base_of("llama"), dropout=0.1)).eval()
    merged, table = network.merged(), torch.tensor([[1, 2]], dtype=torch.int32)
    hidden = []
    for one in (network, merged):
        cache = one.new_cache(2)
        assert cache is not None
        hidden.append(torch.cat([one(ids_of(9)[:1, at : at + 3], cache=cache.view(table, [at], [3])) for at in (0, 3, 6)], dim=1))
    assert len(seen) == 6
    assert torch.equal(*hidden)
    learn(network, seed=3)
    cache = network.new_cache(2)
    assert cache is not None
    live = network(ids_of(9)[:1, :3], cache=cache.view(table, [0], [3]))
    torch.testing.assert_close(live, by_hand(network)(ids_of(9)[:1, :3]), rtol=0, atol=1e-5)
