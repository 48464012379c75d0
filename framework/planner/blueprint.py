"""A network as it would be, without building it: its parameters one by one, and what a token costs. Imports no torch.

A shape and what is wrapped around it flow in, counts flow out. Tests hold every name, size and role against the network itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from framework.errors import ConfigError
from framework.networks.shape import GATED, NetworkShape

Part = Literal["embedding", "positions", "attention", "feed-forward", "norms", "head", "adapter", "scalar head"]
Role = Literal["matrix", "embedding", "vector"]
QUANTIZED_BITS = {"int8": 8.25, "int4": 5.0}  # a number's, with its group's scale and minimum (framework.networks.quantized)
PARTS: tuple[Part, ...] = ("embedding", "positions", "attention", "feed-forward", "norms", "head", "adapter", "scalar head")


class Weight(NamedTuple):
    """One parameter tensor.

    Attributes:
        name: the network's own name of it.
        part: what it belongs to.
        shape: its sizes, rows that pad the vocabulary included.
        role: what it is to the optimizer.
        trained: whether it learns.
        bits: of each number, where they are quantised; None: as the precision says.
    """

    name: str
    part: Part
    shape: tuple[int, ...]
    role: Role
    trained: bool = True
    bits: float | None = None

    @property
    def size(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)

    def bytes(self, each: int) -> int:
        """What it takes where a number has `each` bytes."""
        return self.size * each if self.bits is None else math.ceil(self.size * self.bits / 8)


@dataclass(frozen=True)
class Adapter:
    """A LoRA around the network: thin matrices beside the linear layers whose names end in one of the targets.

    Attributes:
        rank: their small size.
        targets: ends of names, or every linear layer.
        drops: whether a part of their inputs is left out, of which each then keeps a copy.
        quantize: bits of the linear layers it stands beside: int8 or int4; None: as they are.
    """

    rank: int
    targets: Sequence[str] | Literal["all-linear"] = "all-linear"
    drops: bool = False
    quantize: Literal["int8", "int4"] | None = None


@dataclass(frozen=True)
class Blueprint:
    """A Transformer, and what is wrapped around it.

    Attributes:
        shape: layers, widths, heads and kinds.
        vocab_size, context_length: ids, and the length of a table of positions.
        vocab_multiple: the tables have rows up to a multiple of this.
        checkpointing: whether the blocks' activations are computed again in the backward pass.
        adapter: with one only it learns.
        scalar_head: gives a number a token instead of logits; an output matrix of its own is then frozen.
        value_head: a further linear layer of one output on the hidden states, beside the logits.
    """

    shape: NetworkShape
    vocab_size: int
    context_length: int
    vocab_multiple: int = 1
    checkpointing: bool = False
    adapter: Adapter | None = None
    scalar_head: bool = False
    value_head: bool = False

    @cached_property
    def weights(self) -> list[Weight]:
        """Every parameter tensor, in the network's order, adapters and heads last."""
        weights = list(_transformer(self))
        if self.adapter is not None:
            thin = list(_adapters(weights, self.adapter))
            beside = {f"{weight.name.rpartition('.')[0]}.weight" for weight in thin}
            bits = None if self.adapter.quantize is None else QUANTIZED_BITS[self.adapter.quantize]
            frozen = [weight._replace(trained=False, bits=bits if weight.name in beside else None) for weight in weights]
            weights = frozen + thin
        if self.scalar_head:
            weights = [weight._replace(trained=weight.trained and weight.part != "head") for weight in weights]
        if self.scalar_head or self.value_head:
            name = "head" if self.scalar_head else "value_head"
            weights += [
                Weight(f"{name}.weight", "scalar head", (1, self.shape.width), "matrix"),
                Weight(f"{name}.bias", "scalar head", (1,), "vector"),
            ]
        return weights

    @property
    def num_parameters(self) -> int:
        """Parameters, tied ones once, rows that pad the vocabulary not counted."""
        return sum(weight.size for weight in self.weights) - sum(self.padding.values())

    @property
    def trained_parameters(self) -> int:
        """Those that learn."""
        trained = sum(weight.size for weight in self.weights if weight.trained)
        return trained - sum(count for name, count in self.padding.items() if self._weight(name).trained)

    @property
    def padding(self) -> dict[str, int]:
        """Numbers in rows that pad the vocabulary, by the table."""
        tables = ["embedding.weight"] if self.shape.tied_embeddings else ["embedding.weight", "head.weight"]
        return dict.fromkeys(tables, (self.num_rows - self.vocab_size) * self.shape.width)

    @property
    def num_rows(self) -> int:
        """Rows of the tables."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    def _weight(self, name: str) -> Weight:
        return next(weight for weight in self.weights if weight.name == name)

    @property
    def bare(self) -> Blueprint:
        """The network without what is wrapped around it."""
        return replace(self, adapter=None, scalar_head=False, value_head=False)

    # what a token costs

    def _multiplied(self) -> int:
        """Parameters that a forward pass multiplies with or adds: no positions, no table that is only looked up in."""
        looked_up = self.vocab_size * self.shape.width
        unused = sum(weight.size for weight in self.weights if weight.part == "positions")
        if not self.shape.tied_embeddings:
            unused += looked_up
        if self.scalar_head:  # no logits are made: neither table is an output matrix
            unused += looked_up
        return self.num_parameters - unused

    def _scores(self, length: int) -> int:
        """L H Q T: products of a token's queries with keys, half of what attention does."""
        return sum(self.shape.num_heads * self.shape.query_width * attended for attended in self.attended(length))

    def attended(self, length: int) -> list[int]:
        """Tokens that a token attends to at most, of each layer."""
        return [min(length, self.shape.layer_kind(layer).window or length) for layer in range(self.shape.num_layers)]

    def forward_flops(self, length: int) -> int:
        """Operations of one token's forward pass in a sequence of `length`: 2 N + 4 L H Q T."""
        return 2 * self._multiplied() + 4 * self._scores(length)

    def flops_per_token(self, length: int) -> int:
        """Operations of one training token, 6 N + 12 L H Q T (PaLM, appendix B), as the network's own `flops_per_token`.

        A LoRA's frozen matrices need no gradient of their own: 2 of their 6 operations fall away. A network with a scalar head is
        counted without the output matrix, which it does not use.
        """
        flops = 6 * self._multiplied() + 12 * self._scores(length)
        if self.adapter is not None:
            without_gradient = sum(weight.size for weight in self.weights if weight.role == "matrix" and not weight.trained)
            without_gradient += 0 if self.scalar_head else self.vocab_size * self.shape.width
            flops -= 2 * without_gradient
        return flops

    def recomputed_flops(self, length: int) -> int:
        """What activation checkpointing adds to a training token: the blocks' forward pass again."""
        if not self.checkpointing:
            return 0
        blocks = sum(weight.size for weight in self.weights if weight.name.startswith("blocks."))
        return 2 * blocks + 4 * self._scores(length)


def _transformer(blueprint: Blueprint) -> Iterator[Weight]:
    shape, width = blueprint.shape, blueprint.shape.width
    yield Weight("embedding.weight", "embedding", (blueprint.num_rows, width), "embedding")
    if shape.positions == "learned":
        yield Weight("position_embedding.weight", "positions", (blueprint.context_length, width), "embedding")
    for layer in range(shape.num_layers):
        yield from _block(shape, f"blocks.{layer}.")
    yield from _norm(shape, "norm", width)
    if not shape.tied_embeddings:
        yield Weight("head.weight", "head", (blueprint.num_rows, width), "embedding")


def _block(shape: NetworkShape, at: str) -> Iterator[Weight]:
    width, inner, query = shape.width, shape.inner_width, shape.num_heads * shape.query_width
    heads = query + 2 * shape.kv_heads * shape.query_width
    yield from _norm(shape, f"{at}attention_norm", width)
    yield from _linear(f"{at}attention.qkv", "attention", heads, width, shape.qkv_bias)
    yield from _linear(f"{at}attention.out", "attention", width, query, shape.out_bias)
    if shape.qk_norm:
        for name in ("query_norm", "key_norm"):
            yield Weight(f"{at}attention.{name}.weight", "norms", (shape.query_width,), "vector")
    if shape.output_norms:
        yield from _norm(shape, f"{at}attention_output_norm", width)
    yield from _norm(shape, f"{at}feedforward_norm", width)
    yield from _linear(f"{at}feedforward.up", "feed-forward", inner, width, shape.feedforward_bias)
    if shape.feedforward in GATED:
        yield from _linear(f"{at}feedforward.gate", "feed-forward", inner, width, shape.feedforward_bias)
    yield from _linear(f"{at}feedforward.down", "feed-forward", width, inner, shape.feedforward_bias)
    if shape.output_norms:
        yield from _norm(shape, f"{at}feedforward_output_norm", width)


def _norm(shape: NetworkShape, name: str, width: int) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", "norms", (width,), "vector")
    if shape.norm_bias:
        yield Weight(f"{name}.bias", "norms", (width,), "vector")


def _linear(name: str, part: Part, rows: int, columns: int, bias: bool) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", part, (rows, columns), "matrix")
    if bias:
        yield Weight(f"{name}.bias", part, (rows,), "vector")


def _adapters(weights: Sequence[Weight], adapter: Adapter) -> Iterator[Weight]:
    """A LoRA's matrices. Raises ConfigError for a target that no linear layer answers to."""
    linear = {weight.name.removesuffix(".weight"): weight.shape for weight in weights if weight.role == "matrix"}
    targets = [""] if adapter.targets == "all-linear" else [f".{target}" for target in adapter.targets]
    for target in targets:
        if not any(f".{name}".endswith(target) for name in linear):
            known = dict.fromkeys(".".join(word for word in name.split(".") if not word.isdigit()) for name in linear)
            raise ConfigError(f"the LoRA target {target[1:]!r} is the end of no linear layer's name; there are: {', '.join(known)}")
    for name, (rows, columns) in linear.items():
        if any(f".{name}".endswith(target) for target in targets):
            yield Weight(f"{name}.A_RI", "adapter", (adapter.rank, columns), "matrix")
            yield Weight(f"{name}.B_OR", "adapter", (rows, adapter.rank), "matrix")
