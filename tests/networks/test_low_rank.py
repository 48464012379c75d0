"""A LoRA over a quantised base: products and gradients are those of the rounded matrices, what is merged is exact, little is kept."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.errors import CheckpointError
from framework.networks.base import Network
from framework.networks.lora import LoRA, without_adapters
from framework.networks.low_rank import AdaptedLinear, Adapter
from framework.networks.quantized import Kind
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.optimizers.adamw import AdamW
from framework.optimizers.groups import parameter_groups

SHAPES = {
    "gpt2": NetworkShape(2, 64, 4, feedforward="gelu_tanh", qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True),
    "llama": NetworkShape(2, 64, 4, 2, feedforward="swiglu", norm="rms", positions="rotary", tied_embeddings=False),
}
KINDS: list[Kind] = ["int8", "int4"]
VOCAB_SIZE, CONTEXT_LENGTH = 61, 48


def base_of(name: str = "llama", dtype: torch.dtype = torch.float32) -> Transformer:
    torch.manual_seed(0)
    return Transformer(SHAPES[name], VOCAB_SIZE, CONTEXT_LENGTH).to(dtype)


def lora_of(name: str = "llama", quantize: Kind | None = "int4", dtype: torch.dtype = torch.float32, **arguments: Any) -> LoRA:
    torch.manual_seed(1)
    return LoRA(lambda **sizes: base_of(name, dtype), quantize=quantize, **arguments)


@torch.no_grad()
def learn(network: LoRA) -> LoRA:
    generator = torch.Generator().manual_seed(2)
    for adapter in network.adapters("default").values():
        adapter.B_OR.copy_(torch.randn(adapter.B_OR.shape, generator=generator) * 0.1)
    return network


def ids_of(length: int = CONTEXT_LENGTH) -> Tensor:
    return torch.randint(VOCAB_SIZE, (2, length), generator=torch.Generator().manual_seed(0))


def rounded(network: LoRA) -> Network:
    """The base with its matrices rounded and whole, and no adapter."""
    plain = base_of(dtype=network.head_weight_VD.dtype)
    for at, layer in network.layers.items():
        given = plain.get_submodule(at)
        assert isinstance(given, nn.Linear)
        given.weight = nn.Parameter(layer.whole_weight())
    return plain


def loss_of(network: Network) -> Tensor:
    return F.cross_entropy(network.logits(network(ids_of()))[:, :-1].flatten(0, 1), ids_of()[:, 1:].flatten())


# one layer


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_rounded_matrix(bias: bool, dropout: float, bits: Literal[8, 4]) -> None:
    torch.manual_seed(0)
    given = nn.Linear(40, 24, bias=bias).double().requires_grad_(False)
    exact = given.weight.clone()
    layer = AdaptedLinear(given)
    layer.quantize(bits)
    layer.adapters["a"], layer.in_use = Adapter(torch.randn(3, 40).double(), torch.randn(24, 3).double(), 6.0, dropout), "a"
    adapter = layer.adapter
    assert adapter is not None and layer.weight is None
    weight = layer.whole_weight()
    assert weight.dtype == torch.float64 and 0 < (weight - exact).abs().max() < exact.abs().max() / (4 if bits == 4 else 100)
    x = torch.randn(2, 4, 40, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    out = layer(x)
    weights = torch.randn(2, 4, 24, dtype=torch.float64)
    found = torch.autograd.grad((out * weights).sum(), (x, adapter.A_RI, adapter.B_OR))
    torch.manual_seed(3)
    z = F.dropout(x, dropout)
    expected_out = x @ weight.T + (0 if given.bias is None else given.bias) + 2.0 * (z @ adapter.A_RI.T) @ adapter.B_OR.T
    torch.testing.assert_close(out, expected_out, rtol=0, atol=1e-13)
    expected = torch.autograd.grad((expected_out * weights).sum(), (x, adapter.A_RI, adapter.B_OR))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


# a whole network


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_adapter_it_is_the_rounded_base(kind: Kind) -> None:
    network = lora_of(quantize=kind)
    base = rounded(network)
    assert torch.equal(network(ids_of()), base(ids_of()))
    with learn(network).disabled():
        assert torch.equal(network(ids_of()), base(ids_of()))
    assert not torch.equal(network(ids_of()), base(ids_of()))


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_the_same_with_a_gradient_and_without(kind: Kind, rows: int) -> None:
    """A policy and its reference begin as equals: no integer product for the one and a whole one for the other."""
    network = lora_of(quantize=kind)
    x = torch.randn(rows, 64, requires_grad=True)
    for adapter in ("default", None):
        network._switch(adapter)
        for at in ("blocks.0.attention.qkv", "blocks.1.feedforward.up"):
            with_gradient = network.layers[at](x)
            assert with_gradient.requires_grad
            with torch.no_grad():
                assert torch.equal(network.layers[at](x), with_gradient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", ["all-linear", ["qkv"]])
def test_gradients_go_through_every_layer(kind: Kind, targets: Any) -> None:
    network = learn(lora_of(quantize=kind, targets=targets, dtype=torch.float64))
    plain = LoRA(lambda **sizes: rounded(network), targets=targets)
    plain.load_state_dict({**network.state_dict(), "base_sha256": plain.base_sha256})
    loss_of(network).backward()
    loss_of(plain).backward()
    others = dict(plain.named_parameters())
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, others[name].grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_merged_is_the_exact_base(name: str, kind: Kind) -> None:
    """To the bit what the same adapter gives beside a base that was never quantised."""
    network, exact = learn(lora_of(name, kind)), learn(lora_of(name, None))
    merged, expected = network.merged(), exact.merged()
    assert type(merged) is Transformer and merged.num_parameters() == base_of(name).num_parameters()
    assert all(torch.equal(one, other) for one, other in zip(merged.parameters(), expected.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in merged.parameters())
    torch.testing.assert_close(merged(ids_of()), network(ids_of()), rtol=0, atol=0.05 if kind == "int8" else 1.0)
    head = ScalarHead(lambda **sizes: network)
    inside = without_adapters(head)
    assert isinstance(inside, ScalarHead) and type(inside.base) is Transformer
    assert torch.equal(inside(ids_of()), merged(ids_of()))


def test_a_base_that_is_not_what_it_was_is_not_merged() -> None:
    bases = [base_of(), base_of()]
    with torch.no_grad():
        bases[1].embedding.weight[0, 0] += 1e-6
    network = LoRA(lambda **sizes: bases.pop(0), quantize="int8")
    with pytest.raises(CheckpointError, match="no longer what the adapter was trained on"):
        network.merged()


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_nearly_as_beside_the_exact_base(kind: Kind) -> None:
    losses: list[float] = []
    for network in (lora_of(quantize=None), lora_of(quantize=kind)):
        optimizer = AdamW(parameter_groups(network.named_parameters(), network.roles()), lr=1e-2)
        first = loss_of(network).item()
        for _ in range(12):
            optimizer.zero_grad()
            loss = loss_of(network)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        assert loss.item() < first - 0.5
    assert abs(losses[0] - losses[1]) < 0.05


@pytest.mark.parametrize(("kind", "most"), [("int8", 8.5 / 32), ("int4", 5.25 / 32)])
def test_it_takes_the_memory_of_its_bits(kind: Kind, most: float) -> None:
    """Of the matrices; and none of them is kept whole for the backward pass."""
    network = lora_of(quantize=kind)
    matrices = [layer.matrix for layer in network.layers.values()]
    assert len(matrices) == 2 * 5
    held = sum(buffer.nbytes for matrix in matrices if matrix is not None for buffer in matrix.buffers())
    whole = sum(module.weight.nbytes for name, module in base_of().named_modules() if isinstance(module, nn.Linear) and name != "head")
    assert held <= most * whole * 1.1  # panels of 16 and groups of 64 are filled up
    kept: list[int] = []
    shapes = {tuple(layer.whole_weight().shape) for layer in network.layers.values()}
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape in shapes) or tensor, lambda tensor: tensor):
        loss_of(learn(network))
    assert kept and not any(kept)


def test_counts_are_those_of_the_exact_base() -> None:
    network, exact = lora_of(), lora_of(quantize=None)
    assert network.num_parameters() == exact.num_parameters()
    assert network.flops_per_token(10) == exact.flops_per_token(10)
    assert network.roles().keys() == dict(network.named_parameters()).keys()
    assert network.init_args["quantize"] == "int4" and exact.init_args["quantize"] is None


def test_its_state_is_the_adapter_s() -> None:
    network = learn(lora_of())
    state = network.state_dict()
    assert state.keys() == lora_of(quantize=None).state_dict().keys()
    assert torch.equal(network.base_sha256, lora_of(quantize=None).base_sha256)  # of the exact base: the adapter fits both
    other = lora_of()
    other.load_state_dict(state)
    assert torch.equal(other(ids_of()), network(ids_of()))
    copied = copy.deepcopy(network)
    assert torch.equal(copied(ids_of()), network(ids_of()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bf16_base_has_an_adapter_in_fp32(kind: Kind) -> None:
    network = lora_of(quantize=kind, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters() if parameter.requires_grad} == {torch.float32}
    out = network(ids_of())
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32
        for parameter in network.parameters()
        if parameter.requires_grad
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert lora_of(quantize=kind)(ids_of()).isfinite().all()


def test_merging_for_speed_is_possible() -> None:
    """Beside the rounded matrix, where no gradient is asked for."""
    network = learn(lora_of())
    with torch.no_grad():
        expected = network(ids_of())
        network.merge()
        torch.testing.assert_close(network(ids_of()), expected, rtol=0, atol=1e-4)
        network.unmerge()
        assert torch.equal(network(ids_of()), expected)
