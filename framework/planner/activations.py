"""What a forward pass leaves behind for the backward pass, tensor by tensor, in bytes. Imports no torch.

A blueprint, the sizes of a micro-batch and a precision flow in, bytes flow out. The lists below follow the modules of
framework.networks line by line; tests hold them against the tensors that autograd keeps.

Shape legend, in comments: N tokens of a micro-batch, T of a row, D width, I inner width, H query heads, K key-value heads, Q head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from framework.errors import ConfigError
from framework.networks.shape import GATED
from framework.planner.blueprint import Blueprint

WIDE = 4  # bytes of fp32: norms' statistics, attention's sums


@dataclass(frozen=True)
class Precision:
    """Bytes of numbers under one of Lightning's precisions.

    Attributes:
        name: as `trainer.precision` has it.
        weight: of a weight, its gradient, its optimizer states and the residual stream.
        product: of what matrix products take and give.
    """

    name: str
    weight: int
    product: int

    @property
    def is_mixed(self) -> bool:
        """Whether products run in another type than weights have."""
        return self.weight != self.product


PRECISIONS: dict[str | int, Precision] = {
    **dict.fromkeys(("32-true", "32", 32), Precision("32-true", 4, 4)),
    **dict.fromkeys(("64-true", "64", 64), Precision("64-true", 8, 8)),
    **dict.fromkeys(("bf16-mixed", "bf16"), Precision("bf16-mixed", 4, 2)),
    **dict.fromkeys(("16-mixed", "16", 16), Precision("16-mixed", 4, 2)),
    "bf16-true": Precision("bf16-true", 2, 2),
    "16-true": Precision("16-true", 2, 2),
}


def precision(name: str | int | None) -> Precision:
    """One of Lightning's. Raises ConfigError for one that is not counted here."""
    if (found := PRECISIONS.get("32-true" if name is None else name)) is None:
        raise ConfigError(
            f"trainer.precision {name!r} cannot be planned; those that can: 32-true, bf16-mixed, bf16-true, 16-mixed, 64-true."
        )
    return found


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads.

    Attributes:
        rows, length: sequences and the tokens of each, at most.
        masked: whether the rows hold several documents that do not see each other: attention then takes a mask.
        on_cpu: whether it runs on a CPU, whose RMSNorm and dropout keep more.
        replies: tokens of a row whose probabilities a policy is asked for, at most; None: all.
    """

    rows: int
    length: int
    masked: bool = False
    on_cpu: bool = False
    replies: int | None = None

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return self.rows * self.length

    @property
    def asked(self) -> int:
        """Tokens whose probabilities a policy is asked for."""
        return self.rows * min(self.length, self.replies or self.length)


def block_bytes(network: Blueprint, batch: MicroBatch, kind: Precision, layer: int) -> int:
    """What one block keeps for its backward pass, its input included."""
    norms = (4 if network.shape.output_norms else 2) * _norm(network, batch, kind)
    return batch.tokens * (
        norms + _attention(network, batch, kind, layer) + _feed_forward(network, batch, kind) + _adapter(network, kind)
    ) + _mask(network, batch, kind, layer)


def _norm(network: Blueprint, batch: MicroBatch, kind: Precision) -> int:
    """Of a token: a norm's input and statistics."""
    width = network.shape.width
    if network.shape.norm == "layer":
        return width * kind.weight + 2 * WIDE
    if not batch.on_cpu:
        return width * kind.weight + WIDE
    wide = max(kind.weight, WIDE)  # no fused kernel there: computed in fp32, and the normalised numbers wait for the weight's gradient
    return width * wide * (1 if network.adapter is not None else 2) + WIDE


def _inputs(network: Blueprint, batch: MicroBatch, kind: Precision, width: int, *layers: str) -> int:
    """Of a token: what linear layers keep of the numbers that they all read, for the gradient of their weights.

    Frozen ones keep nothing; adapters the input, or, with dropout, each a copy of its own and what that was multiplied with.
    """
    if network.adapter is None:
        return width * kind.product
    adapted = [weight for weight in network.weights if weight.name.removeprefix("blocks.0.").removesuffix(".A_RI") in layers]
    if network.adapter.drops:
        return len(adapted) * width * (kind.product + (kind.product if batch.on_cpu else 1))
    return width * kind.product if adapted else 0


def _attention(network: Blueprint, batch: MicroBatch, kind: Precision, layer: int) -> int:
    """Of a token: queries, keys, values, what they were made from, and the mix."""
    shape = network.shape
    query, key = shape.num_heads * shape.query_width, shape.kv_heads * shape.query_width
    is_rotated = shape.positions == "rotary" and layer not in (shape.unrotated_layers or ())
    kept = (query + 2 * key) * kind.product  # one tensor: the values in it are kept, and so is all of it
    if is_rotated or shape.qk_norm:
        kept += (query + key) * kind.product
    if shape.qk_norm:
        decomposed = shape.norm != "layer" and batch.on_cpu
        kept += (shape.num_heads + shape.kv_heads) * WIDE * (1 if shape.norm != "layer" else 2)
        kept += (query + key) * max(kind.product, WIDE) if decomposed and network.adapter is None else 0
    if shape.attention_scale_width not in (None, shape.query_width):
        kept += 0 if is_rotated or shape.qk_norm else query * kind.product  # the scaled queries
    mix = query * kind.product  # which the output's product reads
    if network.adapter is not None and network.adapter.drops:
        mix += _inputs(network, batch, kind, query, "attention.out")
    return kept + mix + _inputs(network, batch, kind, shape.width, "attention.qkv") + _scores(network, batch, kind)


def _scores(network: Blueprint, batch: MicroBatch, kind: Precision) -> int:
    """Of a token: what attention itself keeps: one sum a head where it is fused, every score where it is not."""
    shape = network.shape
    each = shape.num_heads * batch.length
    if shape.attention_softcap is not None:  # tanh, softmax; and the copy in the type of products
        return each * (kind.product + WIDE + (kind.product if kind.product != WIDE else 0))
    if shape.dropout and batch.on_cpu:  # scores, what dropout multiplied with, and their product
        return 3 * each * kind.product
    return shape.num_heads * WIDE


def _feed_forward(network: Blueprint, batch: MicroBatch, kind: Precision) -> int:
    """Of a token: before and after the activation; and the factors of dropout."""
    shape = network.shape
    before = shape.inner_width * (3 if shape.feedforward in GATED else 1) * kind.product
    read = _inputs(network, batch, kind, shape.width, "feedforward.up", "feedforward.gate")
    after = _inputs(network, batch, kind, shape.inner_width, "feedforward.down")
    if shape.feedforward == "relu" and (network.adapter is None or not network.adapter.drops):
        after = 0  # it keeps its result, which is what the next product reads
    dropped = 2 * shape.width * (kind.product if batch.on_cpu else 1) if shape.dropout else 0
    return before + read + after + dropped


def _adapter(network: Blueprint, kind: Precision) -> int:
    """Of a token: a LoRA's thin outputs."""
    if network.adapter is None:
        return 0
    layers = sum(weight.name.endswith(".A_RI") for weight in network.weights)
    return network.adapter.rank * layers // network.shape.num_layers * kind.product


def _mask(network: Blueprint, batch: MicroBatch, kind: Precision, layer: int) -> int:
    """The mask as numbers, which each layer makes of it; rows share one that only a window makes."""
    window = network.shape.layer_kind(layer).window
    if not batch.masked and (window is None or window >= batch.length):
        return 0
    return (batch.rows if batch.masked else 1) * batch.length**2 * kind.product


def outside_bytes(network: Blueprint, batch: MicroBatch, kind: Precision) -> int:
    """What is kept before and after the blocks: ids and targets, rotation, the mask, the last norm's input and output."""
    shape = network.shape
    columns = 4 if batch.masked else 2
    kept = columns * 8 * batch.tokens
    if shape.positions == "rotary":
        kept += (batch.tokens if batch.masked else batch.length) * shape.query_width * WIDE
    if batch.masked:
        kept += batch.rows * batch.length**2
    if shape.dropout:
        kept += batch.tokens * shape.width * (kind.weight if batch.on_cpu else 1)
    return kept + batch.tokens * (_norm(network, batch, kind) + shape.width * kind.weight)


def activation_bytes(network: Blueprint, batch: MicroBatch, kind: Precision) -> int:
    """All that waits for the backward pass when the forward pass is done; with checkpointing each block's input alone."""
    layers = range(network.shape.num_layers)
    if network.checkpointing:
        return len(layers) * batch.tokens * network.shape.width * kind.weight + outside_bytes(network, batch, kind)
    return sum(block_bytes(network, batch, kind, layer) for layer in layers) + outside_bytes(network, batch, kind)
