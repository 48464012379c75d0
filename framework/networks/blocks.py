"""The blocks of a Transformer in one call of our kernels, for the few new tokens of a decoding step on a CPU.

Shape legend: N new tokens, D model width. Hidden states flow in and out; keys and values go into the cache. The modules keep the
weights and say what is computed: where anything is otherwise than the kernel has it (another kind of norm, a hook, a wrapped layer,
gradients), `run` declines and the modules run themselves. Must not know requests.

The modules are read anew in each call, so that whatever was changed since the last one is seen, unless the cache's owner vouches that
nothing was. At one token reading takes 5% of a step and 15% of an int8 one; through `nn.Module.__getattr__` it would be three times that.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from framework.kernels import calls
from framework.networks.attention import Attention, Rotation
from framework.networks.cache import View
from framework.networks.feedforward import FeedForward
from framework.networks.linear import MOST_ROWS, Linear
from framework.networks.norm import Norm
from framework.networks.shape import NetworkShape

Numbers = list[int]
NORMS = {"rms": 0, "layer": 1}  # as kernels/blocks.cpp numbers them
ACTIVATIONS = {"relu": 0, "relu2": 1, "gelu": 2, "geglu": 2, "gelu_tanh": 3, "geglu_tanh": 3, "swiglu": 4}  # as kernels/elements.cpp
FLOAT = torch.float32


class OtherwiseError(Exception):
    """The modules do not compute what the kernel does."""


def run(
    blocks: Iterable[nn.Module], kind: type[nn.Module], shape: NetworkShape, hidden_BTD: Tensor, turn: Rotation | None, cache: View
) -> Tensor | None:
    """Hidden states after all blocks, [1, N, D]; None where the modules have to run themselves.

    Args:
        blocks: each does what layer 0 of the shape does, if it is of this kind.
        kind: the class whose computation the kernel has.
        shape: theirs.
        hidden_BTD: before the first block.
        turn: their rotation; None leaves positions out.
        cache: takes keys and values.
    """
    num_tokens = hidden_BTD.shape[1]
    if not calls.serve(hidden_BTD) or hidden_BTD.dtype != FLOAT or num_tokens > MOST_ROWS:
        return None
    few = cache.few
    if few is None or len(few.tokens_N) < num_tokens or cache.cache.keys_LSKQ.dtype != FLOAT:
        return None
    if turn is not None and (len(turn[0]) != 1 or turn[0].shape[1] != num_tokens):
        return None
    if cache.cache.layers is None:
        try:
            cache.cache.layers = Reader(shape).read(blocks, kind)
        except OtherwiseError:
            return None
    keys, values = cache.cache.keys_LSKQ, cache.cache.values_LSKQ
    turns = [] if turn is None else [part.contiguous() for part in turn]
    cos, sin = [part.data_ptr() for part in turns] or [0, 0]
    read = [cache.slots_T, few.tables_RM, few.rows_N, few.positions_N]
    tokens = [num_tokens, cos, sin, keys.data_ptr(), values.data_ptr(), keys.stride(0), *(part.data_ptr() for part in read)]
    tokens += [few.tables_RM.shape[1], few.block_tokens]
    return calls.blocks(hidden_BTD, cache.cache.layers, tokens)


class Reader:
    """Reads blocks as kernels/blocks.cpp has them.

    Args:
        shape: what they all should be.

    Raises:
        OtherwiseError: the kernel computes none of this shape.
    """

    def __init__(self, shape: NetworkShape) -> None:
        if shape.norm not in NORMS or shape.feedforward not in ACTIVATIONS:
            raise OtherwiseError
        self.heads, self.scores = (shape.num_heads, shape.kv_heads, shape.query_width), (shape.layer_kind(0).window, 1.0, None)
        self.norm, self.feedforward, self.shape = (shape.norm, shape.norm_eps), shape.feedforward, shape
        self.width, self.head_width, self.inner = shape.width, shape.query_width, shape.inner_width
        self.queries = shape.num_heads * shape.query_width
        self.all_heads = self.queries + 2 * shape.kv_heads * shape.query_width
        self.modules: list[nn.Module] = []  # that the kernel takes the place of
        self.tensors: list[Tensor] = []  # whose addresses it gets

    def read(self, blocks: Iterable[nn.Module], kind: type[nn.Module]) -> calls.Layers:
        """The blocks as the kernel has them. Raises OtherwiseError where a module does anything else."""
        numbers: Numbers = []
        count = 0
        for count, block in enumerate(blocks, 1):
            if type(block) is not kind or block.layer != count - 1:  # the number says where its keys and values go
                raise OtherwiseError
            self._read_block(block, numbers)
        if hooks._global_forward_hooks or hooks._global_forward_pre_hooks or any(map(_is_watched, self.modules)):
            raise OtherwiseError
        shape = self.shape
        kinds = [shape.layer_kind(0).window or 0, NORMS[shape.norm], ACTIVATIONS[shape.feedforward]]
        sizes = [count, self.width, *self.heads, self.inner, *kinds]
        floats = 2 * (self.width + (shape.num_heads + shape.kv_heads) * self.head_width + self.inner)
        return calls.Layers(array("q", numbers), array("q", sizes), floats, shape.norm_eps, self.tensors)

    def _read_block(self, block: nn.Module, numbers: Numbers) -> None:
        parts = block._modules
        attention, feedforward = parts["attention"], parts["feedforward"]
        if type(attention) is not Attention or type(feedforward) is not FeedForward:
            raise OtherwiseError
        if "attention_output_norm" in parts or "feedforward_output_norm" in parts:
            raise OtherwiseError
        self._check(attention, feedforward)
        self.modules += (block, attention, feedforward)
        heads, inner = attention._modules, feedforward._modules
        self._read_norm(parts["attention_norm"], self.width, numbers)
        self._read_norm(parts["feedforward_norm"], self.width, numbers)
        if "query_norm" in heads or "key_norm" in heads:
            self._read_norm(heads.get("query_norm"), self.head_width, numbers)
            self._read_norm(heads.get("key_norm"), self.head_width, numbers)
        else:
            numbers += (0, 0, 0, 0)
        self._read_matrix(heads["qkv"], self.all_heads, self.width, numbers)
        self._read_matrix(heads["out"], self.width, self.queries, numbers)
        if "gate" in inner:
            self._read_matrix(inner["gate"], self.inner, self.width, numbers)
        else:
            numbers += (0, 0, 0, 0)
        self._read_matrix(inner["up"], self.inner, self.width, numbers)
        self._read_matrix(inner["down"], self.width, self.inner, numbers)

    def _check(self, attention: Attention, feedforward: FeedForward) -> None:
        heads = (attention.num_heads, attention.num_kv_heads, attention.head_width)
        scores = (attention.window, attention.query_scale, attention.softcap)
        if heads != self.heads or scores != self.scores or feedforward.kind != self.feedforward:
            raise OtherwiseError
        if (attention.training and attention.dropout) or (feedforward.training and feedforward.dropout):
            raise OtherwiseError

    def _read_norm(self, norm: nn.Module | None, width: int, numbers: Numbers) -> None:
        if type(norm) is not Norm or (norm.kind, norm.eps) != self.norm:
            raise OtherwiseError
        self.modules.append(norm)
        parameters = norm._parameters
        bias = parameters.get("bias")
        numbers += (self._address(parameters["weight"], (width,)), 0 if bias is None else self._address(bias, (width,)))

    def _read_matrix(self, module: nn.Module | None, outputs: int, inputs: int, numbers: Numbers) -> None:
        if module is None:
            raise OtherwiseError
        self.modules.append(module)
        parameters = module._parameters
        bias = parameters.get("bias")
        shift = 0 if bias is None else self._address(bias, (outputs,))
        if type(module) is Linear:
            numbers += (32, self._address(parameters["weight"], (outputs, inputs)), 0, shift)
            return
        for_kernel: Any = getattr(type(module), "for_kernel", None)  # of a quantised layer, or one with an adapter
        found = None if for_kernel is None else for_kernel(module, outputs, inputs)
        if found is None:
            raise OtherwiseError
        bits, weight, scales = found
        self.tensors.append(weight)
        if scales is not None:
            self.tensors.append(scales)
        numbers += (bits, weight.data_ptr(), 0 if scales is None else scales.data_ptr(), shift)

    def _address(self, tensor: Tensor | None, shape: tuple[int, ...]) -> int:
        """Of fp32 numbers in the order that the kernel reads."""
        if tensor is None or tensor.dtype is not FLOAT or tensor.shape != shape or not tensor.is_contiguous() or not tensor.is_cpu:
            raise OtherwiseError
        if type(tensor) not in calls.PLAIN:
            raise OtherwiseError
        self.tensors.append(tensor)
        return tensor.data_ptr()


def _is_watched(module: nn.Module) -> bool:
    """Whether something wants to see this module run, or runs in its place."""
    own = module.__dict__
    watchers = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return bool(watchers) or "forward" in own
