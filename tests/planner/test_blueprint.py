"""A blueprint against the network itself, built without values: every parameter's name, size and role, and the cost of a token."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.errors import ConfigError
from framework.networks.actor_critic import ActorCritic
from framework.networks.lora import LoRA
from framework.networks.scalar_head import ScalarHead
from framework.networks.shape import NetworkShape, RotaryScaling
from framework.networks.transformer import Transformer
from framework.planner.blueprint import Adapter, Blueprint

LLAMA: dict[str, Any] = {"num_kv_heads": 2, "feedforward": "swiglu", "norm": "rms", "positions": "rotary"}
# what of a shape decides neither parameters nor operations
FREE = {
    *("norm_eps", "rotary_theta", "dropout", "rotary_scaling", "unrotated_layers", "local_rotary_theta", "scaled_embeddings"),
    *("attention_scale_width", "attention_softcap", "logit_softcap"),
}
FLAGS = ("qkv_bias", "out_bias", "feedforward_bias", "qk_norm", "tied_embeddings", "output_norms")
DRAWN = {
    *("num_layers", "width", "num_heads", "num_kv_heads", "head_width", "feedforward", "feedforward_width", "norm", "positions"),
    *("norm_bias", "sliding_window", "windowed_layers", *FLAGS),
}


@st.composite
def shapes(draw: st.DrawFn) -> NetworkShape:
    kv_heads, head_width, layers = draw(st.integers(1, 3)), 2 * draw(st.integers(1, 5)), draw(st.integers(1, 4))
    norm = draw(st.sampled_from(["layer", "rms", "rms_plus_one"]))
    window = draw(st.none() | st.integers(1, 40))
    return NetworkShape(
        num_layers=layers,
        width=draw(st.integers(2, 40)),
        num_heads=kv_heads * draw(st.integers(1, 3)),
        num_kv_heads=kv_heads,
        head_width=head_width,
        feedforward=draw(st.sampled_from(["gelu", "gelu_tanh", "relu", "relu2", "swiglu", "geglu", "geglu_tanh"])),
        feedforward_width=draw(st.none() | st.integers(1, 70)),
        norm=norm,
        norm_bias=norm == "layer" and draw(st.booleans()),
        positions=draw(st.sampled_from(["learned", "rotary"])),
        sliding_window=window,
        windowed_layers=None if window is None else draw(st.none() | st.sets(st.integers(0, layers - 1)).map(tuple)),
        **{name: draw(st.booleans()) for name in FLAGS},
    )


def test_every_field_of_a_shape_is_thought_of() -> None:
    """A new field costs parameters or operations, and is counted in blueprint.py and drawn here, or it does not, and stands in FREE."""
    assert {field.name for field in fields(NetworkShape)} == DRAWN | FREE


@settings(max_examples=40, deadline=None)
@given(shape=shapes(), vocab_size=st.integers(1, 90), context=st.integers(1, 50), multiple=st.sampled_from([1, 8, 64]))
def test_a_blueprint_is_the_network(shape: NetworkShape, vocab_size: int, context: int, multiple: int) -> None:
    with torch.device("meta"):
        network = Transformer(shape, vocab_size, context, multiple)
    blueprint = Blueprint(shape, vocab_size, context, multiple)
    assert {weight.name: weight.shape for weight in blueprint.weights} == {
        name: tuple(parameter.shape) for name, parameter in network.named_parameters()
    }
    assert {weight.name: weight.role for weight in blueprint.weights} == network.roles()
    assert blueprint.num_parameters == network.num_parameters() == blueprint.trained_parameters
    for length in (1, context):
        assert blueprint.flops_per_token(length) == network.flops_per_token(length)
        assert 3 * blueprint.forward_flops(length) == network.flops_per_token(length)


@pytest.mark.parametrize("targets", ["all-linear", ["qkv", "feedforward.down"]])
@pytest.mark.parametrize("tied", [True, False])
def test_lora(targets: Any, tied: bool) -> None:
    shape = NetworkShape(2, 16, 4, tied_embeddings=tied, qkv_bias=True, **LLAMA)
    base = Transformer(shape, 31, 24)
    network = LoRA(lambda **_: base, rank=3, targets=targets)
    blueprint = Blueprint(shape, 31, 24, adapter=Adapter(3, targets))
    assert blueprint.num_parameters == network.num_parameters()
    assert blueprint.trained_parameters == sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert blueprint.flops_per_token(24) == network.flops_per_token(24)


def test_a_target_that_no_layer_answers_to() -> None:
    with pytest.raises(ConfigError, match=r"'qvk' is the end of no linear layer's name; there are: blocks\.attention\.qkv, "):
        _ = Blueprint(NetworkShape(1, 16, 4), 31, 24, adapter=Adapter(3, ["qvk"])).weights


@pytest.mark.parametrize("tied", [True, False])
def test_a_scalar_head_leaves_the_output_matrix_out(tied: bool) -> None:
    shape = NetworkShape(2, 16, 4, tied_embeddings=tied, **LLAMA)
    network = ScalarHead(lambda **_: Transformer(shape, 31, 24))
    blueprint = Blueprint(shape, 31, 24, scalar_head=True)
    assert blueprint.num_parameters == network.num_parameters()
    assert blueprint.trained_parameters == sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    logits = 6 * 31 * 16
    assert blueprint.flops_per_token(24) == network.flops_per_token(24) - logits + 6 * 17  # the head's own products, which it leaves out


def test_a_shared_critic() -> None:
    shape = NetworkShape(2, 16, 4, **LLAMA)
    network = ActorCritic(Transformer(shape, 31, 24), None)
    blueprint = Blueprint(shape, 31, 24, value_head=True)
    assert sum(weight.size for weight in blueprint.weights) == sum(parameter.numel() for parameter in network.parameters())


def test_checkpointing_computes_the_blocks_again() -> None:
    shape = NetworkShape(3, 16, 4, tied_embeddings=False, **LLAMA)
    blueprint = Blueprint(shape, 31, 24, checkpointing=True)
    outside = 2 * 31 * 16 + 16  # both tables and the last norm
    assert blueprint.recomputed_flops(24) == 2 * (blueprint.num_parameters - outside) + 4 * 3 * 16 * 24
    assert blueprint.bare.recomputed_flops(24) and not Blueprint(shape, 31, 24).recomputed_flops(24)


def test_scaling_of_rotations_costs_nothing() -> None:
    plain = Blueprint(NetworkShape(2, 16, 4, **LLAMA), 31, 24)
    scaled = Blueprint(NetworkShape(2, 16, 4, rotary_scaling=RotaryScaling("linear", 2.0), **LLAMA), 31, 24)
    assert scaled.num_parameters == plain.num_parameters and scaled.flops_per_token(24) == plain.flops_per_token(24)
