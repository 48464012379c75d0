"""What a part of a Transformer does for the next token: leave it out, or give it what it had for another prompt, and look again.

    layer.3                 a block: left out, the residual stream passes it by
    layer.3.attention       its attention's output; left out: zeros
    layer.3.feedforward     its feed-forward's output; left out: zeros
    layer.3.head.1          what head 1 read, before the output matrix; left out: zeros
    layer.3.head.1@4        at position 4 only; -1 is the last
    layer.3.head.1+layer.2  several parts at once

Shape legend: B = 1, T tokens, D model width, W width of what is replaced, V vocabulary.
Names of parts and ids flow in, logits of the next token flow out. Must not know text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from framework.errors import RequestError
from framework.inspection.forward.trace import blocks_of, transformer_of
from framework.networks.base import Network
from framework.networks.transformer import Transformer

NAME = re.compile(r"layer\.(\d+)(?:\.(?:(attention|feedforward)|head\.(\d+)))?(?:@(-?\d+))?")
Kind = Literal["block", "attention", "feedforward", "head"]
Change = Callable[[Tensor, Tensor], Tensor]  # a part's output [T, W] and what it is when the part is left out -> the output to go on with


class Part(NamedTuple):
    """A part of a Transformer, as the module's docstring names them.

    Attributes:
        layer: the block's number.
        kind: what of it.
        head: its number; 0 for what is no head.
        position: the token; None: all.
    """

    layer: int
    kind: Kind
    head: int = 0
    position: int | None = None


def parts_of(name: str, network: Network, num_tokens: int) -> list[Part]:
    """The parts that a name stands for. Raises RequestError for what this network or prompt does not have."""
    transformer = transformer_of(network)
    if transformer is None:
        raise RequestError(f"{type(network).__name__} is no Transformer: it has no layers to ablate or patch")
    return [_part(word, transformer, num_tokens) for word in name.split("+")]


def every_part(network: Network) -> list[list[Part]]:
    """Each layer's heads, then its attention and its feed-forward. Raises RequestError as `parts_of`."""
    parts_of("layer.0", network, 1)
    transformer = transformer_of(network)
    assert transformer is not None
    heads = range(transformer.shape.num_heads)
    return [
        [*(Part(layer, "head", head) for head in heads), Part(layer, "attention"), Part(layer, "feedforward")]
        for layer in range(transformer.shape.num_layers)
    ]


@torch.no_grad()
def ablate(network: Network, ids: Sequence[int], parts: Sequence[Part]) -> Tensor:
    """Logits of the next token without these parts, [V]."""
    return _next(network, ids, [(part, lambda output_TW, without_TW: without_TW) for part in parts])


@torch.no_grad()
def patch(network: Network, ids: Sequence[int], other: Sequence[int], parts: Sequence[Part]) -> Tensor:
    """Logits of the next token when these parts give out what they give for another prompt, [V].

    Raises:
        RequestError: the other prompt is not as many tokens long.
    """
    if len(other) != len(ids):
        raise RequestError(
            f"the prompt has {len(ids)} tokens and the one to patch from {len(other)}: a patch needs as many "
            "(framework inspect DIR TEXT --tokenizer_only true shows them)"
        )
    kept: dict[Part, Tensor] = {}

    def keep(part: Part) -> Change:
        def change(output_TW: Tensor, without_TW: Tensor) -> Tensor:
            kept[part] = output_TW.clone()
            return output_TW

        return change

    def give(part: Part) -> Change:
        return lambda output_TW, without_TW: kept[part]

    _next(network, other, [(part._replace(position=None), keep(part)) for part in parts])
    return _next(network, ids, [(part, give(part)) for part in parts])


def _part(word: str, transformer: Transformer, num_tokens: int) -> Part:
    found = NAME.fullmatch(word)
    if found is None:
        raise RequestError(
            f"{word!r} names no part: layer.3, layer.3.attention, layer.3.feedforward or layer.3.head.1, each with @POSITION"
        )
    layer, half, head, position = found.groups()
    kind = cast(Kind, half or ("block" if head is None else "head"))
    part = Part(int(layer), kind, int(head or 0), None if position is None else int(position))
    shape = transformer.shape
    for what, number, count in (("layer", part.layer, shape.num_layers), ("head", part.head, shape.num_heads)):
        if number >= count:
            raise RequestError(f"{word} names {what} {number}; there are {count}, numbered from 0")
    if part.position is not None and not -num_tokens <= part.position < num_tokens:
        raise RequestError(f"{word} names position {part.position}; the prompt has {num_tokens} tokens, numbered from 0")
    return part


def _next(network: Network, ids: Sequence[int], changes: Sequence[tuple[Part, Change]]) -> Tensor:
    transformer = transformer_of(network)
    assert transformer is not None
    with ExitStack() as stack:
        for part, change in changes:
            handle = _register(transformer, part, change)
            stack.callback(handle.remove)
        hidden_BTD = network(torch.tensor([list(ids)], device=network.head_weight_VD.device))
    return network.logits(hidden_BTD[:, -1:])[0, 0]


def _register(transformer: Transformer, part: Part, change: Change) -> Any:
    """A hook that puts what `change` makes of a part's output in its place."""
    block = blocks_of(transformer)[part.layer]

    def changed(output_TW: Tensor, without_TW: Tensor) -> Tensor:
        wanted_TW = change(output_TW, without_TW)
        if part.position is None:
            return wanted_TW
        result_TW = output_TW.clone()
        result_TW[part.position] = wanted_TW[part.position]
        return result_TW

    def output(module: nn.Module, inputs: tuple[Any, ...], found_BTD: Tensor) -> Tensor:
        without_TD = inputs[0][0] if part.kind == "block" else torch.zeros_like(found_BTD[0])
        return changed(found_BTD[0], without_TD)[None]

    def head(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        width = transformer.shape.query_width
        columns = slice(part.head * width, (part.head + 1) * width)
        mixed_BTW = inputs[0].clone()
        mixed_BTW[0, :, columns] = changed(inputs[0][0, :, columns], torch.zeros_like(inputs[0][0, :, columns]))
        return (mixed_BTW,)

    match part.kind:
        case "head":
            return block.attention.out.register_forward_pre_hook(head)
        case "attention":
            return block.attention.register_forward_hook(output)
        case "feedforward":
            return block.feedforward.register_forward_hook(output)
        case "block":
            return block.register_forward_hook(output)
