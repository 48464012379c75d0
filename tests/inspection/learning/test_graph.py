"""The computation graph: every node once, in the module it belongs to, with shapes and operations counted by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from framework.inspection.learning.graph import Call, computation_graph, tensors
from framework.losses import next_token
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer

B, T, D, V, LAYERS, HEADS = 2, 8, 32, 40, 3, 4


def network(**settings: Any) -> Transformer:
    shape = NetworkShape(num_layers=LAYERS, width=D, num_heads=HEADS, feedforward="gelu", **settings)
    return Transformer(shape, vocab_size=V, context_length=T)


def loss_of(made: Transformer) -> Tensor:
    torch.manual_seed(0)
    ids_BT = torch.randint(V, (B, T))
    return next_token(made(ids_BT), made.head_weight_VD, ids_BT)


def reachable(loss: Tensor) -> Counter[str]:
    """Names of all nodes of a graph, walked without modules."""
    seen, stack, names = set(), [loss.grad_fn], Counter[str]()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names[node.name().rpartition("::")[2]] += 1
            stack += [below for below, _ in node.next_functions]
    return names


@pytest.mark.parametrize("settings", [{}, {"positions": "rotary", "norm": "rms"}, {"dropout": 0.1}, {"tied_embeddings": False}])
def test_every_node_is_there_once(settings: Any) -> None:
    made = network(**settings)
    graph = computation_graph(made, lambda: loss_of(made))
    assert Counter(node.name for call in graph.walk() for node in call.nodes) == reachable(loss_of(made))
    leaves = Counter(node.parameter for call in graph.walk() for node in call.nodes if node.name == "AccumulateGrad")
    assert leaves == Counter(name for name, _ in made.named_parameters())


def call(graph: Call, module: str) -> Call:
    (found,) = [inner for inner in graph.walk() if inner.module == module and inner.kind != "loss"]
    return found


def test_modules_in_the_order_they_ran_with_shapes() -> None:
    made = network()
    graph = computation_graph(made, lambda: loss_of(made))
    assert graph.kind == "loss" and graph.outputs == [[]]
    (whole,) = graph.calls
    assert [inner.module for inner in whole.calls] == ["embedding", "position_embedding", *(f"blocks.{n}" for n in range(LAYERS)), "norm"]
    block = call(graph, "blocks.1")
    assert block.inputs[0] == [B, T, D] and block.outputs == [[B, T, D]]
    assert [inner.module.rpartition(".")[2] for inner in block.calls] == ["attention_norm", "attention", "feedforward_norm", "feedforward"]
    assert call(graph, "embedding").inputs == [[B, T]] and call(graph, "embedding").parameters == {"weight": [V, D]}
    assert call(graph, "blocks.0.attention.qkv").parameters == {"weight": [3 * D, D]} | ({"bias": [3 * D]} if made.shape.qkv_bias else {})


def test_nodes_stand_in_the_module_that_made_them() -> None:
    made = network()
    graph = computation_graph(made, lambda: loss_of(made))
    names = {inner.module: [node.name for node in inner.nodes] for inner in graph.walk() if inner.kind != "loss"}
    assert names["blocks.0"] == ["AddBackward0", "AddBackward0"]  # the two residual sums
    assert any(name.startswith("ScaledDotProduct") for name in names["blocks.0.attention"])
    assert "GeluBackward0" in names["blocks.0.feedforward"] and "NativeLayerNormBackward0" in names["norm"]
    assert "_NextTokenBackward" in [node.name for node in graph.nodes]
    products = [node for node in call(graph, "blocks.0.feedforward.up").nodes if "mm" in node.name.lower()]
    assert [node.shapes for node in products] == [[[B * T, 4 * D]]]


def test_operations_counted_by_hand() -> None:
    made = network()
    graph = computation_graph(made, lambda: loss_of(made))
    assert call(graph, "blocks.0.attention.qkv").flops == 2 * B * T * D * 3 * D
    assert call(graph, "blocks.2.feedforward").flops == 2 * 2 * B * T * D * 4 * D
    attention = 2 * B * T * D * 3 * D + 2 * B * T * D * D + 2 * 2 * B * T * T * D
    assert call(graph, "blocks.2.attention").flops == attention
    forward = LAYERS * (attention + 4 * B * T * D * 4 * D)
    assert call(graph, "").flops == forward
    assert graph.flops == forward + 3 * 2 * B * T * D * V  # the loss makes its two gradients in the forward pass


def test_a_module_that_runs_twice_is_there_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer(self.layer(x)).relu()
            return result

    made = Twice()
    graph = computation_graph(made, lambda: made(torch.ones(1, 3)).sum())
    first, second = graph.calls[0].calls
    assert first.module == second.module == "layer"
    assert [node.name for node in second.nodes if node.parameter] == []  # its weights' ends are the first call's
    assert [node.name for node in graph.calls[0].nodes] == ["ReluBackward0"] and [node.name for node in graph.nodes] == ["SumBackward0"]


def test_hooks_go_when_the_forward_fails() -> None:
    made = network()
    with pytest.raises(ZeroDivisionError):
        computation_graph(made, lambda: loss_of(made) / (1 // 0))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())


def test_frozen_parts_have_no_nodes() -> None:
    made = network()
    made.requires_grad_(False)
    made.norm.weight.requires_grad_(True)
    graph = computation_graph(made, lambda: loss_of(made))
    assert not call(graph, "blocks.0").nodes and call(graph, "blocks.0").outputs == [[B, T, D]]
    assert [node.parameter for node in call(graph, "norm").nodes if node.parameter] == ["norm.weight"]


def test_tensors_in_nested_values() -> None:
    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    assert [len(found) for found in tensors([(one, None), {"a": [two, "text"]}, three])] == [1, 2, 3]
