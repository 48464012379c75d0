"""Packed integers come back as they were, their products equal float64's, and a quantised network is a network."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.errors import ConfigError
from framework.kernels import calls
from framework.networks.quantized import GROUP, Kind, QuantizedMatrix, quantize
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer

Bits = Literal[8, 4]


def whole(rows: int, inputs: int, group: int) -> Tensor:
    """Activations that rounding to 8 bits keeps: whole numbers, 127 in each group, times a power of two."""
    x = torch.randint(-127, 128, (rows, inputs)).float()
    x[:, ::group] = 127
    return x / 64


@pytest.mark.parametrize("bits", [8, 4])
def test_numbers_that_fit_come_back_as_they_were(bits: Bits) -> None:
    torch.manual_seed(0)
    lowest, highest = (-127, 127) if bits == 8 else (-5, 10)
    weight = torch.randint(lowest, highest + 1, (37, 100)).float()
    weight[:, :: GROUP[bits]], weight[:, 1 :: GROUP[bits]] = lowest, highest
    matrix = QuantizedMatrix(weight / 32, bits)
    assert torch.equal(matrix.dequantised()[:, :96], weight[:, :96] / 32)  # the last group of 4 bits is padded with zeros
    assert torch.equal(matrix.rows(torch.tensor([36, 0, 36])), matrix.dequantised()[[36, 0, 36]])


@pytest.mark.parametrize(("bits", "most"), [(8, 0.5 / 127 + 2**-9), (4, 0.5 / 15 * 2 + 2**-9)])
def test_an_error_is_half_a_step_of_the_largest_weight_of_the_group(bits: Bits, most: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 128) * torch.logspace(-6, 2, 40)[:, None]
    weight[3] = 0
    groups = weight.unflatten(1, (-1, GROUP[bits]))
    error = (QuantizedMatrix(weight, bits).dequantised().unflatten(1, (-1, GROUP[bits])) - groups).abs().amax(dim=2)
    assert (error <= most * groups.abs().amax(dim=2)).all()


@pytest.mark.kernels
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("inputs", [1, 7, 32, 64, 100, 576])
@pytest.mark.parametrize("outputs", [1, 16, 70])
def test_products(bits: Bits, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    matrix, bias = QuantizedMatrix(torch.randn(outputs, inputs) / 10, bits), torch.randn(outputs)
    x = whole(300, inputs, GROUP[bits])
    exact = F.linear(x.double(), matrix.dequantised().double(), bias.double())
    alone = torch.cat([matrix.product(x[n : n + 1], bias) for n in range(len(x))])
    scale = F.linear(x.double().abs(), matrix.dequantised().double().abs()) + 1
    assert ((alone - exact).abs() / scale).max() < 1e-6
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        for rows in (2, 7, 8, 9, 17, 64, 300):
            assert torch.equal(matrix.product(x[:rows], bias), alone[:rows])


@pytest.mark.kernels
@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_of_activations_costs_less_than_a_hundredth(bits: Bits) -> None:
    torch.manual_seed(0)
    matrix = QuantizedMatrix(torch.randn(64, 576), bits)
    x = torch.randn(9, 576)
    exact = F.linear(x.double(), matrix.dequantised().double())
    assert (matrix.product(x) - exact).norm() < 0.01 * exact.norm()


@pytest.mark.kernels
def test_what_is_not_a_number_stays_so() -> None:
    matrix, x = QuantizedMatrix(torch.randn(20, 64), 8), torch.randn(3, 64)
    x[1, 5], x[2, 7] = float("nan"), float("inf")
    out = matrix.product(x)
    assert out[0].isfinite().all() and not out[1:].isfinite().any()


def small(tied: bool = True, **changes: object) -> Transformer:
    torch.manual_seed(0)
    shape = NetworkShape(2, 64, 4, num_kv_heads=2, positions="rotary", norm="rms", feedforward="swiglu", tied_embeddings=tied, **changes)  # type: ignore[arg-type]
    network = Transformer(shape, vocab_size=50, context_length=64, vocab_multiple=8).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("kind", "most"), [("int8", 0.03), ("int4", 0.25)])
def test_a_quantised_network_is_nearly_the_network(tied: bool, kind: Kind, most: float) -> None:
    network = small(tied, qkv_bias=True)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        hidden = network(ids)
        logits = network.logits(hidden)
    parameters, flops, arguments = network.num_parameters(), network.flops_per_token(64), network.init_args
    quantized = quantize(network, kind)
    with torch.inference_mode():
        theirs = quantized(ids)
        their_logits = quantized.logits(theirs)
        assert their_logits.shape == (1, 20, 50)
        assert 0 < (their_logits - logits).norm() < most * logits.norm()
        torch.testing.assert_close(their_logits, theirs @ quantized.head_weight_VD.T, rtol=0.05, atol=0.05 * logits.abs().max().item())
    assert (quantized.num_parameters(), quantized.flops_per_token(64), quantized.init_args) == (parameters, flops, arguments)
    assert not any(parameter.requires_grad for parameter in quantized.parameters())


@pytest.mark.kernels
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_torch_computes_the_same_where_there_are_no_kernels(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, ids = quantize(small(), kind), torch.arange(20)[None]
    with torch.inference_mode():
        with_kernels = quantized.logits(quantized(ids))
        monkeypatch.setattr(calls, "available", lambda: False)
        without = quantized.logits(quantized(ids))
    assert not torch.equal(with_kernels, without)
    assert (with_kernels - without).norm() < 0.03 * without.norm()


def test_it_decodes_with_a_cache() -> None:
    quantized, ids = quantize(small(), "int8"), torch.arange(20)[None]
    cache = quantized.new_cache(num_blocks=4, block_tokens=8)
    tables = torch.tensor([[1, 2, 3]], dtype=torch.int32)
    with torch.inference_mode():
        together = quantized(ids)
        parts = [quantized(ids[:, :15], cache=cache.view(tables, [0], [15]))]
        parts += [quantized(ids[:, n : n + 1], cache=cache.view(tables, [n], [1])) for n in range(15, 20)]
    assert (torch.cat(parts, dim=1) - together).norm() < 0.01 * together.norm()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_its_state_is_small_and_loads_again(kind: Kind) -> None:
    network = small()
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    other = quantize(copy.deepcopy(network), kind)
    quantized = quantize(network, kind)
    state = quantized.state_dict()
    tensors = {value.data_ptr(): value.numel() * value.element_size() for value in state.values()}
    assert sum(tensors.values()) < size * (0.35 if kind == "int8" else 0.3)
    for value in other.state_dict().values():
        value.zero_()
    other.load_state_dict(state)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.equal(quantized(ids), other(ids))


def test_a_bfloat16_network_stays_one() -> None:
    quantized = quantize(small().bfloat16(), "int8")
    with torch.inference_mode():
        hidden = quantized(torch.arange(20)[None])
        assert hidden.dtype == quantized.logits(hidden).dtype == torch.bfloat16


def test_only_a_transformer_is_quantised() -> None:
    with pytest.raises(ConfigError, match="a Quantized: run it without"):
        quantize(quantize(small(), "int8"), "int8")
