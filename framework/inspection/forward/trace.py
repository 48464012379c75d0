"""One forward pass of a network, every step of it kept: what its modules took in and gave out, observed with hooks.

Shape legend: T tokens, S the tokens they attend to (the same ones), D model width, H query heads, K key-value heads, Q head width,
F feed-forward width, V vocabulary, B = 1, C columns.
A network and ids flow in, plain tensors flow out. Nothing is computed a second time but attention's pattern, and that by the
network's own attention on other values. Must not know text, samplers or how a trace is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from framework.networks.base import Network
from framework.networks.cache import View
from framework.networks.transformer import Block, Transformer


class Layer(NamedTuple):
    """What happened in a block.

    Attributes:
        before_TD: the residual stream that came in.
        queries_THQ, keys_TKQ, values_TKQ: of each head, as attention compares them: normalised and turned where the network does that.
        pattern_HTS: how much each token (row) took from each token's value (column): rows sum to 1.
        mixed_THQ: what each head read.
        attention_TD: what attention adds to the stream: its output, normalised where the network does that.
        middle_TD: the residual stream after attention.
        inner_TF: the feed-forward's activations, as its last matrix gets them.
        feedforward_TD: what the feed-forward adds.
        after_TD: the residual stream that went out.
    """

    before_TD: Tensor
    queries_THQ: Tensor
    keys_TKQ: Tensor
    values_TKQ: Tensor
    pattern_HTS: Tensor
    mixed_THQ: Tensor
    attention_TD: Tensor
    middle_TD: Tensor
    inner_TF: Tensor
    feedforward_TD: Tensor
    after_TD: Tensor


class Trace(NamedTuple):
    """A forward pass.

    Attributes:
        ids: the tokens.
        token_TD: rows of the embedding table; None for a network whose table is not found.
        position_TD: rows of the table of positions; None without one.
        layers: of a Transformer; none for another network, of which only the ends are known.
        hidden_TD: after the final norm.
        logits_TV: of the next token after each.
        difference: the largest distance to the logits of the ordinary forward, over the largest of these.
        pattern_difference: the largest distance of patterns times values to what the heads read, over the largest of that.
    """

    ids: list[int]
    token_TD: Tensor | None
    position_TD: Tensor | None
    layers: list[Layer]
    hidden_TD: Tensor
    logits_TV: Tensor
    difference: float
    pattern_difference: float


def transformer_of(network: Network) -> Transformer | None:
    """The Transformer that a network is or has inside, quantised or adapted; None where there is none."""
    return next((module for module in network.modules() if isinstance(module, Transformer)), None)


def blocks_of(transformer: Transformer) -> list[Block]:
    """Its blocks, in order."""
    return [block for block in transformer.blocks if isinstance(block, Block)]


@torch.no_grad()
def trace(network: Network, ids: Sequence[int]) -> Trace:
    """Observe a forward over `ids`, which the network must have room for. The network is in evaluation mode and stays as it is."""
    ids_BT = torch.tensor([list(ids)], device=network.head_weight_VD.device)
    ordinary_TV = network.logits(network(ids_BT))[0]
    transformer = transformer_of(network)
    seen = _Seen()
    with seen.watching(network, transformer):
        if transformer is None:
            hidden_BTD = network(ids_BT)
        else:
            seen.view = _view(transformer, len(ids))
            hidden_BTD = network(ids_BT, cache=seen.view)
    logits_TV = network.logits(hidden_BTD)[0]
    layers = [] if transformer is None else [seen.layer(block) for block in blocks_of(transformer)]
    return Trace(
        list(ids),
        seen.outputs.get("token"),
        seen.outputs.get("position"),
        layers,
        hidden_BTD[0],
        logits_TV,
        _distance(logits_TV, ordinary_TV),
        max((_distance(_read(layer), layer.mixed_THQ) for layer in layers), default=0.0),
    )


def lens(network: Network, residual_TD: Tensor) -> Tensor:
    """Logits that the network would end with if a residual stream were its last, [T, V]: final norm and output matrix (the logit lens)."""
    transformer = transformer_of(network)
    assert transformer is not None
    with torch.no_grad():
        return network.logits(transformer.norm(residual_TD))


class Asked(NamedTuple):
    """What a layer's attention was asked, and what it answered."""

    queries_THQ: Tensor
    keys_TKQ: Tensor
    values_TKQ: Tensor
    pattern_HTS: Tensor
    mixed_THQ: Tensor


class Watch(View):
    """A view of a cache that keeps what each layer's attention is asked, and finds its pattern before it answers.

    A pattern is what attention reads where value number s is one at place s and zero elsewhere: so it has the network's own scale,
    mask, window and whatever else it does to its scores.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: dict[int, Asked] = {}

    def attend(self, layer: int, query_BTHQ: Tensor, key_BTKQ: Tensor, value_BTKQ: Tensor, *settings: Any, **named: Any) -> Tensor:
        """As the view's, whatever settings there are."""
        num_tokens, width = value_BTKQ.shape[1], value_BTKQ.shape[-1]
        eye_TS = torch.eye(num_tokens, -(-num_tokens // width) * width, dtype=value_BTKQ.dtype, device=value_BTKQ.device)
        parts = [
            super(Watch, self).attend(layer, query_BTHQ, key_BTKQ, eye_TQ[None, :, None].expand_as(value_BTKQ), *settings, **named)[0]
            for eye_TQ in torch.split(eye_TS, width, dim=1)
        ]
        pattern_HTS = torch.cat(parts, dim=-1)[..., :num_tokens].transpose(0, 1)
        mixed_BTHQ = super().attend(layer, query_BTHQ, key_BTKQ, value_BTKQ, *settings, **named)
        self.asked[layer] = Asked(query_BTHQ[0].clone(), key_BTKQ[0].clone(), value_BTKQ[0].clone(), pattern_HTS, mixed_BTHQ[0].clone())
        return mixed_BTHQ


class _Seen:
    """What hooks saw, by the module's place."""

    def __init__(self) -> None:
        self.inputs: dict[nn.Module, Tensor] = {}
        self.outputs: dict[nn.Module | str, Tensor] = {}
        self.view: Watch | None = None

    @contextmanager
    def watching(self, network: Network, transformer: Transformer | None) -> Iterator[None]:
        """Hooks on what is to be seen, taken off at the end."""
        with ExitStack() as stack:
            table = _table(network) if transformer is None else transformer.embedding
            positions = None if transformer is None else transformer.position_embedding
            for name, module in (("token", table), ("position", positions)):
                if module is not None:
                    stack.enter_context(_hook(module, self._keep(name)))
            for block in [] if transformer is None else blocks_of(transformer):
                for module in (block, *_adders(block), block.feedforward_norm, block.feedforward.down):
                    stack.enter_context(_hook(module, self._keep(module)))
            yield

    def layer(self, block: Block) -> Layer:
        """What a block did."""
        assert self.view is not None
        attention, feedforward = _adders(block)
        return Layer(
            self.inputs[block],
            *self.view.asked[block.layer],
            self.outputs[attention],
            self.inputs[block.feedforward_norm],
            self.inputs[block.feedforward.down],
            self.outputs[feedforward],
            self.outputs[block],
        )

    def _keep(self, place: nn.Module | str) -> Any:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            self.outputs[place] = output[0].clone()
            if isinstance(place, nn.Module):
                self.inputs[place] = inputs[0][0].clone()

        return keep


def _adders(block: Block) -> tuple[nn.Module, nn.Module]:
    """The modules whose outputs a block adds to the residual stream."""
    return block.attention_output_norm or block.attention, block.feedforward_output_norm or block.feedforward


@contextmanager
def _hook(module: nn.Module, function: Any) -> Iterator[None]:
    handle = module.register_forward_hook(function)
    try:
        yield
    finally:
        handle.remove()


def _view(transformer: Transformer, num_tokens: int) -> Watch:
    cache = transformer.new_cache(1, block_tokens=num_tokens)
    return Watch(cache, torch.ones(1, 1, dtype=torch.int32), [0], [num_tokens])


def _table(network: Network) -> nn.Module | None:
    """The first embedding with a row for every id."""
    tables = (module for module in network.modules() if isinstance(module, nn.Embedding))
    return next((table for table in tables if table.num_embeddings >= network.vocab_size), None)


def _read(layer: Layer) -> Tensor:
    """What the heads must have read: their pattern times the values, [T, H, Q]."""
    shared = layer.pattern_HTS.shape[0] // layer.values_TKQ.shape[1]
    values_HSQ = layer.values_TKQ.transpose(0, 1).repeat_interleave(shared, dim=0)
    return (layer.pattern_HTS @ values_HSQ).transpose(0, 1)


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-30))


class Matrix(NamedTuple):
    """Where a head's matrix is: rows [start, stop) of a parameter, or of a quantised layer."""

    name: str
    rows: tuple[int, int]
    num_inputs: int


def head_matrices(network: Network, layer: int) -> dict[str, list[Matrix]]:
    """W_Q of each head, W_K and W_V of each key-value head of a layer, by "query", "key" and "value"."""
    transformer = transformer_of(network)
    assert transformer is not None
    attention = blocks_of(transformer)[layer].attention
    layer_name = next(name for name, module in network.named_modules() if module is attention.qkv)
    name = f"{layer_name}.weight" if "weight" in attention.qkv._parameters else layer_name
    heads, kv_heads, width = attention.num_heads, attention.num_kv_heads, attention.head_width
    first = {"query": 0, "key": heads, "value": heads + kv_heads}
    count = {"query": heads, "key": kv_heads, "value": kv_heads}
    return {
        kind: [
            Matrix(name, ((first[kind] + head) * width, (first[kind] + head + 1) * width), transformer.shape.width)
            for head in range(count[kind])
        ]
        for kind in first
    }
