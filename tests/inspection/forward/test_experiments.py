"""Parts left out and patched: the same as weights set to zero in a copy, as other formulas, as the other prompt itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from framework.errors import RequestError
from framework.inspection.forward.experiments import Part, ablate, every_part, parts_of, patch
from framework.inspection.forward.trace import blocks_of, lens, trace
from framework.networks.base import Network
from framework.networks.quantized import quantize
from framework.networks.transformer import Transformer

IDS, OTHER = list(b"the cat sat"), list(b"the dog ran")


@torch.no_grad()
def logits_of(network: Network, ids: list[int]) -> Tensor:
    return network.logits(network(torch.tensor([ids])))[0, -1]


def without(network: Network, name: str) -> Tensor:
    return ablate(network, IDS, parts_of(name, network, len(IDS)))


def patched(network: Network, name: str) -> Tensor:
    return patch(network, IDS, OTHER, parts_of(name, network, len(IDS)))


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def differ(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() > 1e-3


def test_without_a_head_is_without_its_columns_of_the_output_matrix(network: Transformer) -> None:
    width = network.shape.query_width
    for head in (0, 3):
        copied = copy.deepcopy(network)
        blocks_of(copied)[1].attention.out.weight[:, head * width : (head + 1) * width] = 0.0
        same(without(network, f"layer.1.head.{head}"), logits_of(copied, IDS))
        differ(without(network, f"layer.1.head.{head}"), logits_of(network, IDS))


@pytest.mark.parametrize(("half", "last"), [("attention", "out"), ("feedforward", "down")])
def test_without_half_a_layer_is_without_its_last_matrix(network: Transformer, half: str, last: str) -> None:
    copied = copy.deepcopy(network)
    matrix = getattr(getattr(blocks_of(copied)[0], half), last)
    matrix.weight.zero_()
    if matrix.bias is not None:
        matrix.bias.zero_()
    same(without(network, f"layer.0.{half}"), logits_of(copied, IDS))


def test_without_a_layer_the_stream_passes_it_by(network: Transformer) -> None:
    last = network.shape.num_layers - 1
    before_TD = trace(network, IDS).layers[last].before_TD
    same(without(network, f"layer.{last}"), lens(network, before_TD)[-1])
    same(without(network, f"layer.{last}.attention+layer.{last}.feedforward"), lens(network, before_TD)[-1])


def test_all_heads_of_a_layer_are_its_attention_without_its_bias(llama: Transformer) -> None:
    same(without(llama, "+".join(f"layer.1.head.{head}" for head in range(4))), without(llama, "layer.1.attention"))


def test_a_position_of_its_own(llama: Transformer) -> None:
    """The last layer's output at other places does not reach the last token's logits; at its own it is all that does."""
    last = llama.shape.num_layers - 1
    assert torch.equal(without(llama, f"layer.{last}@3"), ablate(llama, IDS, []))
    same(without(llama, f"layer.{last}@-1"), without(llama, f"layer.{last}"))
    same(without(llama, f"layer.{last}@{len(IDS) - 1}"), without(llama, f"layer.{last}"))
    differ(without(llama, "layer.0@3"), logits_of(llama, IDS))


def test_a_patch_from_the_same_prompt_changes_nothing(network: Transformer) -> None:
    for name in ("layer.1", "layer.1.attention", "layer.0.feedforward@2", "layer.1.head.2", "layer.0+layer.1.head.0@-1"):
        same(patch(network, IDS, IDS, parts_of(name, network, len(IDS))), logits_of(network, IDS))


def test_a_whole_layer_patched_is_the_other_prompt(network: Transformer) -> None:
    differ(logits_of(network, IDS), logits_of(network, OTHER))
    same(patched(network, "layer.1"), logits_of(network, OTHER))
    last = network.shape.num_layers - 1
    same(patched(network, f"layer.{last}@-1"), logits_of(network, OTHER))
    differ(patched(network, "layer.0@0"), logits_of(network, OTHER))


def test_a_patched_half_by_hand(llama: Transformer) -> None:
    """The last layer's feed-forward at the last token is added to the stream: so the other prompt's can be added instead."""
    last = llama.shape.num_layers - 1
    mine, other = trace(llama, IDS).layers[last], trace(llama, OTHER).layers[last]
    same(patched(llama, f"layer.{last}.feedforward"), lens(llama, mine.middle_TD + other.feedforward_TD)[-1])
    middle_TD = mine.before_TD + other.attention_TD
    block = blocks_of(llama)[last]
    same(patched(llama, f"layer.{last}.attention"), lens(llama, middle_TD + block.feedforward(block.feedforward_norm(middle_TD)))[-1])


def test_a_patched_head_by_hand(llama: Transformer) -> None:
    last = llama.shape.num_layers - 1
    mine, other, block = trace(llama, IDS).layers[last], trace(llama, OTHER).layers[last], blocks_of(llama)[last]
    mixed_THQ = mine.mixed_THQ.clone()
    mixed_THQ[:, 2] = other.mixed_THQ[:, 2]
    middle_TD = mine.before_TD + block.attention.out(mixed_THQ.flatten(1))
    same(patched(llama, f"layer.{last}.head.2"), lens(llama, middle_TD + block.feedforward(block.feedforward_norm(middle_TD)))[-1])


def test_every_part_once(llama: Transformer) -> None:
    parts = every_part(llama)
    assert [len(row) for row in parts] == [6, 6, 6]
    assert parts[2][1] == Part(2, "head", 1) and parts[0][4:] == [Part(0, "attention"), Part(0, "feedforward")]


def test_quantised_networks_and_no_hook_left_behind(llama: Transformer) -> None:
    quantised = quantize(llama, "int8")
    differ(without(quantised, "layer.1.head.0"), logits_of(quantised, IDS))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in quantised.modules())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("layer.1.neuron.3", "'layer.1.neuron.3' names no part: layer.3, layer.3.attention"),
        ("layer.3", "layer.3 names layer 3; there are 3, numbered from 0"),
        ("layer.0.head.4", "layer.0.head.4 names head 4; there are 4"),
        ("layer.0@11", "names position 11; the prompt has 11 tokens"),
        ("layer.0+", "'' names no part"),
    ],
)
def test_what_is_not_there(llama: Transformer, name: str, said: str) -> None:
    with pytest.raises(RequestError, match=said.replace(".", r"\.")):
        parts_of(name, llama, len(IDS))


def test_prompts_of_other_lengths_and_other_networks(llama: Transformer, averages: Network) -> None:
    with pytest.raises(RequestError, match="the prompt has 11 tokens and the one to patch from 3"):
        patch(llama, IDS, [1, 2, 3], [Part(0, "block")])
    for refused in (lambda: parts_of("layer.0", averages, 3), lambda: every_part(averages)):
        with pytest.raises(RequestError, match="Averages is no Transformer"):
            refused()
