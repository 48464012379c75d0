"""Predicted bytes against those of the tensors of real training steps, tracked one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from framework.losses.log_probs import KEPT_LOGITS, log_probs
from framework.losses.next_token import next_token
from framework.networks.base import Network
from framework.networks.cache import BLOCK_TOKENS
from framework.networks.lora import LoRA
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.optimizers.adamw import AdamW
from framework.optimizers.groups import parameter_groups
from framework.optimizers.muon import Muon
from framework.planner import memory
from framework.planner.activations import MicroBatch, activation_bytes, precision
from framework.planner.blueprint import Adapter, Blueprint
from framework.planner.memory import Optimizer, Settings, Trained
from framework.planner.tracked import TrackedTensors, optimizer_bytes, storage_bytes

GPT2: dict[str, Any] = {"feedforward": "gelu_tanh", "qkv_bias": True, "out_bias": True, "feedforward_bias": True, "norm_bias": True}
LLAMA: dict[str, Any] = {"num_kv_heads": 2, "feedforward": "swiglu", "norm": "rms", "positions": "rotary"}
GEMMA: dict[str, Any] = {
    "num_kv_heads": 2,
    "feedforward": "geglu_tanh",
    "norm": "rms_plus_one",
    "positions": "rotary",
    "output_norms": True,
    "attention_softcap": 50.0,
    "sliding_window": 32,
    "windowed_layers": (0, 2),
}


class Case(NamedTuple):
    shape: NetworkShape
    vocab_size: int = 512
    rows: int = 4
    checkpointing: bool = False
    rank: int | None = None
    precision: str = "32-true"
    masked: bool = False
    optimizer: str = "AdamW"
    lora: dict[str, Any] = {}
    loss: memory.Loss = "tokens"


CASES = {
    "gpt2": Case(NetworkShape(4, 128, 4, **GPT2)),
    "llama": Case(NetworkShape(4, 128, 4, **LLAMA)),
    "llama-untied-checkpointed": Case(NetworkShape(6, 128, 4, tied_embeddings=False, **LLAMA), checkpointing=True),
    "gpt2-checkpointed": Case(NetworkShape(6, 128, 4, **GPT2), checkpointing=True),
    "small-batch": Case(NetworkShape(4, 128, 4, **GPT2), rows=1),
    "large-vocabulary": Case(NetworkShape(2, 64, 4, **LLAMA), vocab_size=8192),
    "masked": Case(NetworkShape(4, 128, 4, **LLAMA), masked=True),
    "window": Case(NetworkShape(4, 128, 4, sliding_window=16, **LLAMA)),
    "gemma": Case(NetworkShape(4, 128, 4, **GEMMA)),
    "qk-norm-relu2": Case(NetworkShape(4, 128, 4, feedforward="relu2", norm="rms", positions="rotary", qk_norm=True)),
    "dropout": Case(NetworkShape(4, 128, 4, dropout=0.1)),
    "llama-bf16-mixed": Case(NetworkShape(4, 128, 4, **LLAMA), precision="bf16-mixed"),
    "gpt2-bf16-true": Case(NetworkShape(4, 128, 4, **GPT2), precision="bf16-true"),
    "lora": Case(NetworkShape(4, 128, 4, **LLAMA), rank=4),
    "lora-dropout": Case(NetworkShape(4, 128, 4, **LLAMA), rank=4, lora={"dropout": 0.1}),
    "lora-of-attention": Case(NetworkShape(4, 128, 4, **GPT2), rank=4, lora={"targets": ["qkv", "attention.out"]}),
    "muon": Case(NetworkShape(4, 128, 4, **LLAMA), optimizer="Muon"),
    "log-probabilities": Case(NetworkShape(4, 128, 4, **LLAMA), loss="log-probabilities"),
}
LENGTH = 64


class Tracked(NamedTuple):
    weights: int
    states: int
    gradients: int
    activations: int
    loss: int
    backward: int
    step: int


def settings(case: Case) -> Settings:
    adapter = None if case.rank is None else Adapter(case.rank, case.lora.get("targets", "all-linear"), bool(case.lora.get("dropout")))
    blueprint = Blueprint(case.shape, case.vocab_size, LENGTH, checkpointing=case.checkpointing, adapter=adapter)
    batch = MicroBatch(case.rows, LENGTH, case.masked, on_cpu=True)
    return Settings((Trained(blueprint, case.loss),), batch, precision(case.precision), Optimizer(case.optimizer))


def tracked(case: Case) -> Tracked:
    """The second training step, as the recipes run one, with every tensor seen."""
    torch.manual_seed(0)
    base = Transformer(case.shape, case.vocab_size, LENGTH, activation_checkpointing=case.checkpointing)
    network: Network = base if case.rank is None else LoRA(lambda **_: base, rank=case.rank, **case.lora)
    network.train()
    if case.precision == "bf16-true":
        network.bfloat16()
    groups = parameter_groups(network.named_parameters(), network.roles())
    optimizer = AdamW(groups) if case.optimizer == "AdamW" else Muon(groups)
    take_step(case, network, optimizer, lambda name: None)
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    seen: dict[str, int] = {}
    tracker = TrackedTensors([*network.parameters(), *state])

    def look(name: str) -> None:
        """What the phase that ends here took at most; and what is there now."""
        seen[name], seen[f"{name} left"] = tracker.peak_bytes, tracker.bytes
        tracker.peak_bytes = tracker.bytes
        if name == "backward":
            seen["gradients"] = storage_bytes(parameter.grad for parameter in network.parameters() if parameter.grad is not None)

    with tracker:
        take_step(case, network, optimizer, look)
    parameters = list(network.parameters())
    return Tracked(
        weights=storage_bytes(parameters),
        states=optimizer_bytes(optimizer),
        gradients=seen["gradients"],
        activations=seen["forward left"] - storage_bytes(parameters) - optimizer_bytes(optimizer),
        loss=max(seen["forward"], seen["loss"]),
        backward=seen["backward"],
        step=seen["step"],
    )


def take_step(case: Case, network: Network, optimizer: torch.optim.Optimizer, look: Callable[[str], None]) -> None:
    ids_BT, targets_BT = (torch.randint(0, case.vocab_size, (case.rows, LENGTH)) for _ in range(2))
    documents_BT = torch.zeros_like(ids_BT) if case.masked else None
    positions_BT = torch.arange(LENGTH).repeat(case.rows, 1) if case.masked else None
    with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16-mixed"):
        hidden_BTD = network(ids_BT, positions_BT, documents_BT)
        look("forward")
        if case.loss == "tokens":
            loss = next_token(hidden_BTD, network.head_weight_VD, targets_BT)
        else:
            loss = -log_probs(hidden_BTD.flatten(0, 1), network.head_weight_VD, targets_BT.flatten()).log_probs_N.sum()
    del hidden_BTD
    look("loss")
    loss.backward()
    look("backward")
    optimizer.step()
    look("step")
    for parameter in network.parameters():
        parameter.grad = None


@pytest.mark.parametrize("name", CASES)
def test_predicted_bytes_are_those_of_a_real_step(name: str) -> None:
    case = CASES[name]
    found, asked = tracked(case), settings(case)
    at_loss, backward, step = memory.moments(asked)
    assert at_loss.components["weights"] == found.weights
    assert at_loss.components["optimizer states"] == found.states
    assert step.components["gradients"] == found.gradients
    copies = at_loss.components.get("weights in the products' type", 0)  # autograd keeps them with the activations
    activations = activation_bytes(asked.trained[0].network, asked.batch, asked.precision) + copies
    assert activations == pytest.approx(found.activations, rel=0.05)
    assert at_loss.total == pytest.approx(found.loss, rel=0.05)
    assert backward.total == pytest.approx(found.backward, rel=0.05)
    assert step.total == pytest.approx(found.step, rel=0.05)
    assert memory.peak(asked).total == pytest.approx(max(found.loss, found.backward, found.step), rel=0.05)


def test_the_losses_sizes_are_those_of_the_losses() -> None:
    from framework.losses.next_token import CHUNK_LOGITS, CHUNK_LOGITS_ELSEWHERE, MIN_CHUNK_TOKENS

    assert CHUNK_LOGITS["cpu"] == memory.CHUNK_LOGITS_CPU and memory.CHUNK_LOGITS == CHUNK_LOGITS_ELSEWHERE
    assert memory.MIN_CHUNK_TOKENS == MIN_CHUNK_TOKENS and memory.KEPT_LOGITS == KEPT_LOGITS
    assert memory.BLOCK_TOKENS == BLOCK_TOKENS


def test_the_cache_is_the_engine_s() -> None:
    shape = NetworkShape(2, 32, 4, **LLAMA)
    network = Transformer(shape, 50, 40)
    blocks = -(-(3 * 40) // BLOCK_TOKENS)
    cache = network.new_cache(blocks)
    assert memory.cache_bytes(Blueprint(shape, 50, 40), 3 * 40, 4) == storage_bytes([cache.keys_LSKQ, cache.values_LSKQ])


def test_the_largest_micro_batch_is_the_largest() -> None:
    asked = settings(CASES["llama"])
    room = 60e6
    rows = memory.largest_rows(asked, room)
    takes = [memory.peak(replace(asked, batch=replace(asked.batch, rows=count))).total for count in (rows, rows + 1)]
    assert takes[0] <= memory.HEADROOM * room < takes[1]
    assert memory.largest_rows(asked, 1e6) == 0


def test_sharding_divides_what_is_always_there() -> None:
    asked = replace(settings(CASES["llama"]), devices=4)
    copies, shared = memory.moments(asked)[2].components, memory.moments(replace(asked, sharded=True))[2].components
    for name in ("weights", "optimizer states", "gradients"):
        assert shared[name] == copies[name] // 4
    assert copies["communication"] == copies["gradients"]  # DDP's buckets


def test_earlier_micro_batches_leave_their_gradients() -> None:
    asked = settings(CASES["llama"])
    alone, carrying = memory.moments(asked)[0], memory.moments(replace(asked, accumulates=True))[0]
    assert carrying.total - alone.total == memory.moments(asked)[2].components["gradients"]


@pytest.mark.parametrize(("name", "states"), [("SGD", 0), ("Lion", 1), ("AdamW", 2), ("Unheard", 2)])
def test_states_by_optimizer(name: str, states: int) -> None:
    asked = replace(settings(CASES["llama"]), optimizer=Optimizer(name))
    weights = memory.moments(asked)[2].components["weights"]
    assert memory.moments(asked)[2].components.get("optimizer states", 0) == pytest.approx(states * weights, rel=1e-3)
