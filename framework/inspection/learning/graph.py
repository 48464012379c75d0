"""The computation graph of a loss: which modules ran, in order, and the nodes that the backward pass will visit, each in its module.

A network and a function that computes a loss with it flow in, a tree of calls flows out. Must not know recipes or how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node as Backward
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Shape = list[int]
LEAF = "AccumulateGrad"


@dataclass(frozen=True)
class Node:
    """A node of autograd's graph.

    Attributes:
        name: as autograd calls it; of a weight, where its gradient gathers, AccumulateGrad.
        shapes: of what the operation put out, whose gradient comes in.
        parameter: the weight's name; None elsewhere.
    """

    name: str
    shapes: list[Shape]
    parameter: str | None = None


@dataclass
class Call:
    """One run of a module.

    Attributes:
        module: its name in the network; empty for the network itself, "loss" for what stands outside of it.
        kind: its class.
        inputs, outputs: shapes of the tensors.
        parameters: its own, without its children's, by name.
        flops: floating-point operations of matrix products and attention in its forward pass, children included.
        nodes: its own backward nodes, in the forward's order.
        calls: of its children, in order.
    """

    module: str
    kind: str
    inputs: list[Shape]
    outputs: list[Shape] = field(default_factory=list)
    parameters: dict[str, Shape] = field(default_factory=dict)
    flops: int = 0
    nodes: list[Node] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def walk(self) -> Iterator[Call]:
        """This call and all inside it."""
        yield self
        for call in self.calls:
            yield from call.walk()


def computation_graph(network: nn.Module, compute: Callable[[], Tensor]) -> Call:
    """The graph of `compute()`, a scalar that `network` takes part in: the loss, with the calls of the network's modules inside it.

    A compiled network's inside cannot be seen; a copy of one is not compiled.
    """
    return _Tracer(network).trace(compute)


class _Tracer:
    """Follows a forward pass by hooks, and hands every backward node to the innermost module whose output it leads to."""

    def __init__(self, network: nn.Module) -> None:
        self._names = {module: name for name, module in network.named_modules()}
        self._parameters = {parameter: name for name, parameter in network.named_parameters()}
        # it counts below autograd, whose graph it so leaves as it is
        self._counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        self._open: list[tuple[Call, int, int]] = []  # with the operations and nodes that there were at its beginning
        self._claimed: dict[Backward, int] = {}  # in order; it keeps them, too: a node's Python object lives as long as somebody holds it

    def trace(self, compute: Callable[[], Tensor]) -> Call:
        """The loss."""
        root = self._begin("loss", "loss", [], {})
        handles = [hook for module in self._names for hook in self._attach(module)]
        try:
            with torch.enable_grad(), self._counter:
                loss = compute()
        finally:
            for handle in handles:
                handle.remove()
        self._end(loss, [])
        return root

    def _attach(self, module: nn.Module) -> list[Any]:
        return [
            module.register_forward_pre_hook(self._enter, with_kwargs=True),
            module.register_forward_hook(self._leave, with_kwargs=True),
        ]

    def _enter(self, module: nn.Module, arguments: Any, named: Any) -> None:
        own = {name: list(parameter.shape) for name, parameter in module.named_parameters(recurse=False)}
        self._begin(self._names[module], type(module).__name__, _shapes([arguments, named]), own)

    def _leave(self, module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        self._end(output, [arguments, named])

    def _begin(self, module: str, kind: str, inputs: list[Shape], parameters: dict[str, Shape]) -> Call:
        call = Call(module, kind, inputs, parameters=parameters)
        if self._open:
            self._open[-1][0].calls.append(call)
        self._open.append((call, self._counter.get_total_flops(), len(self._claimed)))
        return call

    def _end(self, output: Any, inputs: Any) -> None:
        call, flops, claimed = self._open.pop()
        call.outputs, call.flops = _shapes(output), self._counter.get_total_flops() - flops
        call.nodes = [self._node(node) for node in self._claim(output, inputs, claimed)]

    def _claim(self, output: Any, inputs: Any, before: int) -> list[Backward]:
        """The nodes between inputs and outputs that no inner module has, inputs' side first; `before`: those that were claimed earlier."""
        seen = {tensor.grad_fn for tensor in tensors(inputs)}
        found: list[Backward] = []
        stack = [(tensor.grad_fn, False) for tensor in tensors(output) if tensor.grad_fn is not None]
        while stack:
            node, done = stack.pop()
            if done:
                if node not in self._claimed:
                    found.append(node)
            elif node not in seen and self._claimed.get(node, before) >= before:
                seen.add(node)
                stack.append((node, True))
                stack += [(below, False) for below, _ in reversed(node.next_functions) if below is not None]
        for node in found:
            self._claimed[node] = len(self._claimed)
        return found

    def _node(self, node: Backward) -> Node:
        name = node.name().rpartition("::")[2]
        variable = node.variable if name == LEAF else None  # type: ignore[attr-defined] # AccumulateGrad alone has it
        shapes = [list(metadata.shape) for metadata in node._input_metadata]
        return Node(name, shapes, self._parameters.get(variable) if isinstance(variable, nn.Parameter) else None)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors(inner)


def _shapes(value: Any) -> list[Shape]:
    return [list(tensor.shape) for tensor in tensors(value)]


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _product_flops(added: Shape, one: Shape, other: Shape, *_: Any, **__: Any) -> int:
    return 2 * one[0] * one[1] * other[1]


FORMULAS = {  # that torch lacks: attention on a CPU, a product added in place
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.addmm_: _product_flops,
}
