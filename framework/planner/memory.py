"""What a device holds, component by component, at the moments of a training step that take the most. Imports no torch.

A network, a micro-batch and settings flow in, bytes flow out. The moments:

- loss: every activation is there, and the logits of a chunk, and the output matrix's gradient;
- backward: gradients come as activations go, block by block (the worst block is shown);
- step: every gradient and every optimizer state.

Counted are tensors; an allocator's rounding and fragments, a CUDA context and libraries' workspaces come on top (see HEADROOM).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from framework.networks.shape import GATED
from framework.planner.activations import WIDE, MicroBatch, Precision, activation_bytes, block_bytes, outside_bytes
from framework.planner.blueprint import Blueprint, Weight

Loss = Literal["tokens", "log-probabilities", "score"]

HEADROOM = 0.9  # share of a device's memory that tensors may take
BLOCK_TOKENS = 16  # of the cache: framework.networks.cache

# framework.losses.next_token and log_probs: tokens whose logits exist at one time, and the most that wait for the backward pass
MIN_CHUNK_TOKENS = 512
CHUNK_LOGITS = 2**27
CHUNK_LOGITS_CPU = 2**21
KEPT_LOGITS = 2**26

STATES = {"AdamW": 2, "Adam": 2, "Muon": 2, "SGD": 0, "Lion": 1, "Adagrad": 1, "RMSprop": 1}  # numbers kept for each weight


@dataclass(frozen=True)
class Optimizer:
    """What is kept between steps.

    Attributes:
        name: its class.
        momentum: whether SGD keeps an average.
    """

    name: str = "AdamW"
    momentum: bool = False

    @property
    def is_known(self) -> bool:
        """Whether its states are counted by what it is; else as AdamW's."""
        return self.name in STATES

    def state_bytes(self, weight: Weight, each: int) -> int:
        """For one parameter tensor whose numbers have `each` bytes."""
        if self.name == "SGD":
            return weight.size * each if self.momentum else 0
        if self.name == "Muon" and weight.role == "matrix":
            return weight.size * each
        count = STATES.get(self.name, 2)
        return count * weight.size * each + (WIDE if count == 2 else 0)  # Adam counts its steps for each tensor

    def step_bytes(self, trained: Sequence[Weight], each: int) -> int:
        """What a step takes for itself: Muon's products of the largest matrix; fused kernels nothing."""
        if self.name != "Muon":
            return 0
        return 4 * max((weight.size for weight in trained if weight.role == "matrix"), default=0) * each


@dataclass(frozen=True)
class Trained:
    """A network that learns, and the loss that it learns from."""

    network: Blueprint
    loss: Loss = "tokens"


@dataclass(frozen=True)
class Kept:
    """A network that is only looked at.

    Attributes:
        name: what it is.
        network: its blueprint.
        is_policy: whether it is the policy itself with its adapter switched off, and so takes no memory of its own.
    """

    name: str
    network: Blueprint
    is_policy: bool = False


@dataclass(frozen=True)
class Settings:
    """How a step is run.

    Attributes:
        trained: the networks that learn: one, or a policy and its critic.
        kept: networks that are only looked at.
        batch: a micro-batch of one device.
        precision: of weights and products.
        optimizer: its class.
        accumulates: whether gradients of earlier micro-batches are there.
        devices: that share the work.
        sharded: whether weights, gradients and states are divided among them (FSDP2), or each has all (DDP).
        cache_tokens: tokens of the key-value cache with which the first network writes; 0: it writes nothing.
    """

    trained: tuple[Trained, ...]
    batch: MicroBatch
    precision: Precision
    optimizer: Optimizer = Optimizer()
    kept: tuple[Kept, ...] = ()
    accumulates: bool = False
    devices: int = 1
    sharded: bool = False
    cache_tokens: int = 0


@dataclass(frozen=True)
class Moment:
    """Bytes by component at one moment."""

    name: str
    components: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Of all components."""
        return sum(self.components.values())


def moments(settings: Settings) -> list[Moment]:
    """The three moments; components that are nothing at any of them are left out."""
    resident, gradients = _resident(settings), _gradient_bytes(settings)
    carried = gradients if settings.accumulates else 0
    found = [_at_loss(settings, carried), _in_backward(settings, carried)]
    states = {"gradients": gradients, "working memory": settings.optimizer.step_bytes(_trained(settings), settings.precision.weight)}
    found.append(Moment("at the step", states))
    found = [Moment(moment.name, resident | moment.components) for moment in found]
    names = dict.fromkeys(name for moment in found for name in moment.components)
    used = [name for name in names if any(moment.components.get(name) for moment in found)]
    return [Moment(moment.name, {name: moment.components.get(name, 0) for name in used}) for moment in found]


def peak(settings: Settings) -> Moment:
    """The moment that takes the most."""
    return max(moments(settings), key=lambda moment: moment.total)


def largest_rows(settings: Settings, memory_bytes: float) -> int:
    """The most rows of a micro-batch that fit, a tenth of the memory left free; 0 where one does not."""

    def fits(rows: int) -> bool:
        batch = replace(settings.batch, rows=rows)
        return peak(replace(settings, batch=batch)).total <= HEADROOM * memory_bytes

    if not fits(1):
        return 0
    high = 2
    while fits(high) and high < 2**20:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


# what is always there


def _resident(settings: Settings) -> dict[str, int]:
    each, share = settings.precision.weight, settings.devices if settings.sharded else 1
    trained = _trained(settings)
    every = [weight for part in settings.trained for weight in part.network.weights]
    resident = {
        "weights": sum(weight.bytes(each) for weight in every) // share,
        "optimizer states": sum(settings.optimizer.state_bytes(weight, each) for weight in trained) // share,
    }
    for kept in settings.kept:
        resident[kept.name] = 0 if kept.is_policy else sum(weight.bytes(each) for weight in kept.network.weights) // share
    if settings.cache_tokens:
        resident["key-value cache"] = cache_bytes(settings.trained[0].network, settings.cache_tokens, each)
    if settings.devices > 1:
        resident["communication"] = _gathered_bytes(settings) if settings.sharded else sum(weight.size for weight in trained) * each
    return resident


def _trained(settings: Settings) -> list[Weight]:
    return [weight for part in settings.trained for weight in part.network.weights if weight.trained]


def _gradient_bytes(settings: Settings) -> int:
    share = settings.devices if settings.sharded else 1
    return sum(weight.size for weight in _trained(settings)) * settings.precision.weight // share


def _gathered_bytes(settings: Settings) -> int:
    """Sharded, a block is put together before it is used, the next one meanwhile, and the tables for the loss."""
    network = settings.trained[0].network
    tables = max(weight.size for weight in network.weights if weight.role == "embedding")
    return (2 * _block_size(network, trained_only=False) + tables) * settings.precision.product


def cache_bytes(network: Blueprint, tokens: int, each: int) -> int:
    """Keys and values of so many tokens, in whole blocks, and the block that pads tables."""
    shape = network.shape
    slots = (-(-tokens // BLOCK_TOKENS) + 1) * BLOCK_TOKENS
    return 2 * shape.num_layers * slots * shape.kv_heads * shape.query_width * each


# the moments


def _at_loss(settings: Settings, carried: int) -> Moment:
    """When the logits of the first network are there, or, if that is more, when a second one has run after it."""
    share = settings.devices if settings.sharded else 1
    parts = [_loss_bytes(part, settings) for part in settings.trained]
    activations = [activation_bytes(part.network, settings.batch, settings.precision) for part in settings.trained]
    (logits, head_gradient, kept), *_ = parts
    if len(parts) > 1 and sum(activations[1:]) > logits:
        logits, activations = 0, [sum(activations)]
    looked_at = 0 if settings.cache_tokens else max((_forward_bytes(each.network, settings) for each in settings.kept), default=0)
    components = {
        "gradients": carried + head_gradient // share,
        "activations": activations[0] + kept,
        "weights in the products' type": sum(_copies(part.network, settings) for part in settings.trained),
        "logits": logits,
        "working memory": looked_at,  # of networks that are looked at within the step: not those that judge what was written
    }
    return Moment("at the loss", components)


def _in_backward(settings: Settings, carried: int) -> Moment:
    """The worst block of the network that comes first; another one's activations still wait."""
    first, *others = settings.trained
    network, batch, kind = first.network, settings.batch, settings.precision
    share = settings.devices if settings.sharded else 1
    waiting = sum(activation_bytes(part.network, batch, kind) for part in others)
    copies = sum(_copies(part.network, settings, is_backward=True) for part in settings.trained)
    of_block = _block_size(network) * kind.weight
    narrowing = sum(weight.size for weight in network.weights if weight.name == "blocks.0.feedforward.down.weight" and weight.trained)
    narrowing *= kind.weight  # the one gradient that a block has by the time it takes the most
    embedding = next(weight for weight in network.weights if weight.name == "embedding.weight")
    head = 0 if first.loss == "score" else embedding.size * kind.weight if _trains_head(network) else 0
    found: list[Moment] = []
    activations = waiting + outside_bytes(network, batch, kind)
    for layer in range(network.shape.num_layers):  # from the first, though the pass goes from the last
        blocks_done = network.shape.num_layers - 1 - layer
        block = block_bytes(network, batch, kind, layer)
        activations += batch.tokens * network.shape.width * kind.weight if network.checkpointing else block
        gradients = carried + (head + blocks_done * of_block + narrowing) // share
        working = _block_working_bytes(network, batch, kind) + (block if network.checkpointing else 0)
        found.append(_backward(gradients, activations, copies, working))
    if embedding.trained:  # its gradient is as large as the table; where that is the output matrix too, both wait, and become a third
        gradients = carried + (head + network.shape.num_layers * of_block) // share
        working = embedding.size * kind.weight // share * (2 if head and network.shape.tied_embeddings else 1)
        found.append(_backward(gradients, waiting + outside_bytes(network, batch, kind), 0, working))
    return max(found, key=lambda moment: moment.total)


def _backward(gradients: int, activations: int, copies: int, working: int) -> Moment:
    components = {
        "gradients": gradients,
        "activations": activations,
        "weights in the products' type": copies,
        "working memory": working,
    }
    return Moment("in the backward pass", components)


def _block_size(network: Blueprint, trained_only: bool = True) -> int:
    """Parameters of a block."""
    weights = [weight for weight in network.weights if weight.name.startswith("blocks.0.") and (weight.trained or not trained_only)]
    return sum(weight.size for weight in weights)


def _block_working_bytes(network: Blueprint, batch: MicroBatch, kind: Precision) -> int:
    """Gradients inside a block beside what waits in it: those around the activation, or those of attention."""
    shape = network.shape
    inner = (2 if shape.feedforward in (*GATED, "relu") else 1) * shape.inner_width
    heads = (2 * shape.num_heads + 3 * shape.kv_heads) * shape.query_width
    unfused = shape.attention_softcap is not None or (shape.dropout and batch.on_cpu)
    heads += 2 * shape.num_heads * batch.length if unfused else 0
    return batch.tokens * (max(inner, heads) * kind.product + shape.width * kind.weight)


def _forward_bytes(network: Blueprint, settings: Settings) -> int:
    """What a forward pass without gradients takes while it runs."""
    shape, batch = network.shape, settings.batch
    inner = (3 if shape.feedforward in GATED else 2) * shape.inner_width
    return batch.tokens * (2 * shape.width * settings.precision.weight + inner * settings.precision.product)


def _trains_head(network: Blueprint) -> bool:
    """Whether the output matrix gets a gradient."""
    name = "embedding.weight" if network.shape.tied_embeddings else "head.weight"
    return any(weight.name == name and weight.trained for weight in network.weights)


def _copies(network: Blueprint, settings: Settings, is_backward: bool = False) -> int:
    """Under mixed precision the matrices are there in the products' type too, from their first use until the backward pass is over them.

    Checkpointing lets go of them with the forward pass and makes a block's again; sharded ones are put together in that type anyway.
    """
    if not settings.precision.is_mixed or settings.sharded:
        return 0
    matrices = [weight for weight in network.weights if weight.role == "matrix"]
    if is_backward and network.checkpointing:
        matrices = [weight for weight in matrices if weight.name.startswith("blocks.0.")]
    return sum(weight.size for weight in matrices) * settings.precision.product


def _loss_bytes(part: Trained, settings: Settings) -> tuple[int, int, int]:
    """Logits of a chunk with what is computed from them; the output matrix's gradient; what waits for the backward pass."""
    network, batch, kind = part.network, settings.batch, settings.precision
    if part.loss == "score":
        return 0, 0, 0
    vocab_size, width, wide = network.vocab_size, network.shape.width, max(kind.weight, WIDE)
    table = vocab_size * width
    most = CHUNK_LOGITS_CPU if batch.on_cpu else CHUNK_LOGITS
    chunk = min(max(MIN_CHUNK_TOKENS, most // vocab_size), batch.tokens) * vocab_size
    cast = table * kind.product if kind.is_mixed else 0
    if part.loss == "log-probabilities":
        every = batch.asked * vocab_size
        chunk = min(chunk, every)
        return 3 * chunk * wide + cast, 0, (every * wide if every <= KEPT_LOGITS else 0) + batch.asked * width * kind.product
    logits = chunk * wide if wide == kind.product else chunk * (kind.product + wide)
    gradient = table * wide if _trains_head(network) else 0
    product = table * kind.product if kind.product < wide and gradient else 0  # of a chunk, before it is added
    return logits + cast + product, gradient, batch.tokens * width * kind.product
