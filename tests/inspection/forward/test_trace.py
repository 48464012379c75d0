"""The forward pass as it is observed, against the papers' formulas written out in float64, and against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from framework.checkpoint import save
from framework.inspection.forward.trace import blocks_of, head_matrices, lens, trace, transformer_of
from framework.networks.base import Network
from framework.networks.lora import LoRA
from framework.networks.quantized import quantize
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.byte import Byte

IDS = list(b"the cat sat on the")
LONG = [token for start in range(4) for token in range(start, 250, 13)]  # more than what goes through our kernels


class ByHand(NamedTuple):
    """A layer, in float64."""

    before: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    pattern: Tensor
    mixed: Tensor
    attention: Tensor
    middle: Tensor
    inner: Tensor
    feedforward: Tensor
    after: Tensor


def by_hand(network: Transformer, ids: list[int]) -> tuple[list[ByHand], Tensor, Tensor]:
    """Layers, hidden states after the final norm, and logits: the formulas of the papers in float64, head by head, token by token."""
    weights = {name: tensor.detach().double() for name, tensor in network.state_dict().items()}
    shape, num_tokens = network.shape, len(ids)
    stream = weights["embedding.weight"][ids]
    if shape.positions == "learned":
        stream = stream + weights["position_embedding.weight"][:num_tokens]
    stream = stream * (shape.width**0.5 if shape.scaled_embeddings else 1)
    layers = []
    for number in range(shape.num_layers):
        at = f"blocks.{number}."
        normed = _norm(stream, weights, f"{at}attention_norm", shape)
        rows = normed @ weights[f"{at}attention.qkv.weight"].T + weights.get(f"{at}attention.qkv.bias", torch.tensor(0.0))
        width, heads, kv_heads = shape.query_width, shape.num_heads, shape.kv_heads
        cut = [rows[:, start * width : (start + 1) * width] for start in range(heads + 2 * kv_heads)]
        queries, keys, values = cut[:heads], cut[heads : heads + kv_heads], cut[heads + kv_heads :]
        if shape.qk_norm:
            queries = [_norm(head, weights, f"{at}attention.query_norm", shape) for head in queries]
            keys = [_norm(head, weights, f"{at}attention.key_norm", shape) for head in keys]
        if shape.positions == "rotary" and number not in (shape.unrotated_layers or ()):
            queries, keys = [_turn(head, shape.rotary_theta) for head in queries], [_turn(head, shape.rotary_theta) for head in keys]
        queries = [head * (width / (shape.attention_scale_width or width)) ** 0.5 for head in queries]
        window = shape.sliding_window if number in (shape.windowed_layers or range(shape.num_layers)) else None
        patterns, mixed = [], []
        for head in range(heads):
            key, value = keys[head * kv_heads // heads], values[head * kv_heads // heads]
            pattern = torch.zeros(num_tokens, num_tokens, dtype=torch.float64)
            for token in range(num_tokens):
                first = 0 if window is None else max(0, token - window + 1)
                scores = _capped((key[first : token + 1] @ queries[head][token]) / width**0.5, shape.attention_softcap)
                pattern[token, first : token + 1] = scores.exp() / scores.exp().sum()
            patterns.append(pattern)
            mixed.append(pattern @ value)
        out = torch.cat(mixed, -1) @ weights[f"{at}attention.out.weight"].T + weights.get(f"{at}attention.out.bias", torch.tensor(0.0))
        out = _norm(out, weights, f"{at}attention_output_norm", shape) if shape.output_norms else out
        middle = stream + out
        inner = _inner(_norm(middle, weights, f"{at}feedforward_norm", shape), weights, f"{at}feedforward", shape)
        bent = inner @ weights[f"{at}feedforward.down.weight"].T + weights.get(f"{at}feedforward.down.bias", torch.tensor(0.0))
        bent = _norm(bent, weights, f"{at}feedforward_output_norm", shape) if shape.output_norms else bent
        after = middle + bent
        stacked = (torch.stack(each, 1) for each in (queries, keys, values))
        layers.append(ByHand(stream, *stacked, torch.stack(patterns), torch.stack(mixed, 1), out, middle, inner, bent, after))
        stream = after
    hidden = _norm(stream, weights, "norm", shape)
    table = weights["embedding.weight" if shape.tied_embeddings else "head.weight"]
    return layers, hidden, _capped(hidden @ table.T, shape.logit_softcap)


def _norm(x: Tensor, weights: dict[str, Tensor], name: str, shape: NetworkShape) -> Tensor:
    centred = x - x.mean(-1, keepdim=True) if shape.norm == "layer" else x
    scale = weights[f"{name}.weight"] + (1 if shape.norm == "rms_plus_one" else 0)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + shape.norm_eps).sqrt() * scale
    return scaled + weights.get(f"{name}.bias", torch.tensor(0.0))


def _capped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * torch.tanh(x / cap)


def _turn(head: Tensor, theta: float) -> Tensor:
    half = head.shape[1] // 2
    angles = torch.arange(len(head), dtype=torch.float64)[:, None] / theta ** (torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(head[:, :half], head[:, half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], -1)


def _inner(x: Tensor, weights: dict[str, Tensor], name: str, shape: NetworkShape) -> Tensor:
    def product(part: str) -> Tensor:
        return x @ weights[f"{name}.{part}.weight"].T + weights.get(f"{name}.{part}.bias", torch.tensor(0.0))

    up = product("up")
    match shape.feedforward:
        case "relu":
            return up * (up > 0)
        case "gelu_tanh":
            return _gelu(up)
        case "geglu_tanh":
            return _gelu(product("gate")) * up
        case "swiglu":
            gate = product("gate")
            return gate / (1 + (-gate).exp()) * up
    raise AssertionError(shape.feedforward)


def _gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("ids", [IDS, LONG, [7]], ids=["short", "long", "one token"])
def test_every_value_is_the_formulas(network: Transformer, ids: list[int], dtype: torch.dtype, tolerance: float) -> None:
    layers, hidden_TD, logits_TV = by_hand(network, ids)
    found = trace(network.to(dtype), ids)
    for layer, expected in zip(found.layers, layers, strict=True):
        for value, by_formula in zip(layer, expected, strict=True):
            close(value, by_formula, tolerance)
    close(found.hidden_TD, hidden_TD, tolerance)
    close(found.logits_TV, logits_TV[:, : network.vocab_size], tolerance)
    close(found.token_TD, network.embedding.weight[ids], 0.0)
    if network.position_embedding is None:
        assert found.position_TD is None
    else:
        close(found.position_TD, network.position_embedding.weight[: len(ids)], 0.0)


def test_the_traced_forward_is_the_ordinary_one(network: Transformer) -> None:
    with torch.no_grad():
        ordinary_TV = network.logits(network(torch.tensor([IDS])))[0]
    found = trace(network, IDS)
    close(found.logits_TV, ordinary_TV, 1e-5)
    assert found.difference < 1e-5 and found.pattern_difference < 1e-5
    assert found.difference == pytest.approx(float((found.logits_TV - ordinary_TV).abs().max() / ordinary_TV.abs().max()), rel=1e-3)


def test_patterns_are_distributions_over_what_came_before(network: Transformer) -> None:
    for number, layer in enumerate(trace(network, IDS).layers):
        window = network.shape.layer_kind(number).window or len(IDS)
        assert layer.pattern_HTS.shape == (network.shape.num_heads, len(IDS), len(IDS))
        close(layer.pattern_HTS.sum(-1), torch.ones(network.shape.num_heads, len(IDS)), 1e-5)
        allowed = torch.ones(len(IDS), len(IDS)).tril() - torch.ones(len(IDS), len(IDS)).tril(-window)
        assert not layer.pattern_HTS[:, allowed == 0].any() and (layer.pattern_HTS[:, allowed == 1] > 0).all()


def test_the_lens_ends_with_the_logits(network: Transformer) -> None:
    found = trace(network, IDS)
    assert torch.equal(lens(network, found.layers[-1].after_TD), found.logits_TV)
    weights = {name: tensor.double() for name, tensor in network.state_dict().items()}
    stream_TD = found.layers[0].after_TD.double()
    table = weights["embedding.weight" if network.shape.tied_embeddings else "head.weight"][: network.vocab_size]
    expected_TV = _capped(_norm(stream_TD, weights, "norm", network.shape) @ table.T, network.shape.logit_softcap)
    close(lens(network, found.layers[0].after_TD), expected_TV, 1e-5)


def test_a_head_matrix_makes_the_head(llama: Transformer) -> None:
    """The rows that are named, times what attention gets, are the head's values, and its queries before they are turned."""
    found, attention = trace(llama, IDS).layers[1], blocks_of(llama)[1].attention
    normed_TD = blocks_of(llama)[1].attention_norm(found.before_TD)
    matrices, state = head_matrices(llama, 1), llama.state_dict()
    assert [len(matrices[kind]) for kind in ("query", "key", "value")] == [4, 2, 2]
    for head, (name, (start, stop), num_inputs) in enumerate(matrices["value"]):
        assert name == "blocks.1.attention.qkv.weight" and (stop - start, num_inputs) == (attention.head_width, 32)
        close(normed_TD @ state[name][start:stop].T, found.values_TKQ[:, head], 1e-5)
    for kind, seen in (("query", found.queries_THQ), ("key", found.keys_TKQ)):
        for head, (name, (start, stop), _) in enumerate(matrices[kind]):
            close((normed_TD @ state[name][start:stop].T)[0], seen[0, head], 1e-5)  # position 0 turns nothing
    assert [matrix.rows for matrix in matrices["key"]] == [(32, 40), (40, 48)]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_transformers_sees_the_same(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    shape = {
        "gpt2": NetworkShape(2, 32, 4, feedforward="gelu_tanh", qkv_bias=True, out_bias=True, feedforward_bias=True, norm_bias=True),
        "llama": NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary"),
    }[name]
    network = Transformer(shape, 260, 64).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.15 * torch.randn_like(parameter))
    save(tmp_path / "model", network, Byte(), {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager").eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS]), output_attentions=True, output_hidden_states=True)
    found = trace(network, IDS)
    for layer, pattern, before in zip(found.layers, expected.attentions, expected.hidden_states):
        close(layer.pattern_HTS, pattern[0], 1e-5)
        close(layer.before_TD, before[0], 1e-5)
    close(found.hidden_TD, expected.hidden_states[-1][0], 1e-5)
    close(found.logits_TV, expected.logits[0], 1e-5)


def test_another_network_is_known_at_its_ends(averages: Network) -> None:
    found = trace(averages, IDS)
    assert found.layers == [] and found.position_TD is None and found.difference == 0.0
    close(found.token_TD, averages.embedding.weight[IDS].detach(), 0.0)
    assert found.logits_TV.shape == (len(IDS), averages.vocab_size) and transformer_of(averages) is None


def test_quantised_and_adapted_networks(llama: Transformer) -> None:
    torch.manual_seed(2)
    adapted = LoRA(lambda **_: llama, rank=2).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    with torch.no_grad():
        expected_TV = adapted.logits(adapted(torch.tensor([IDS])))[0]
    found = trace(adapted, IDS)
    close(found.logits_TV, expected_TV, 1e-5)
    assert head_matrices(adapted, 0)["query"][0].name in dict(adapted.named_parameters())
    quantised = quantize(adapted.merged(), "int8")
    assert head_matrices(quantised, 0)["query"][0].name == "network.blocks.0.attention.qkv"
    found = trace(quantised, IDS)
    assert found.difference < 0.05 and found.pattern_difference < 1e-5 and len(found.layers) == 3
    assert torch.equal(lens(quantised, found.layers[-1].after_TD), found.logits_TV)


def test_nothing_is_left_behind(network: Transformer) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace(network, IDS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
