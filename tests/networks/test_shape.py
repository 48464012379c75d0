from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from framework.networks.shape import NetworkShape, RotaryScaling

GOOD: dict[str, Any] = {"num_layers": 2, "width": 64, "num_heads": 4}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"num_heads": 5}, ["width 64", "num_heads 5", "head_width"]),
        ({"num_kv_heads": 3}, ["num_heads 4", "num_kv_heads 3"]),
        ({"num_layers": 0}, ["num_layers is 0"]),
        ({"num_kv_heads": 0}, ["num_kv_heads is 0"]),
        ({"head_width": 7, "positions": "rotary"}, ["head width 7", "even"]),
        ({"norm": "rms", "norm_bias": True}, ["norm_bias"]),
        ({"dropout": 1.0}, ["dropout is 1.0"]),
        ({"sliding_window": 0}, ["sliding_window is 0"]),
        ({"norm_eps": 0.0}, ["norm_eps"]),
        ({"norm": "rms_plus_one", "norm_bias": True}, ["norm_bias"]),
        ({"attention_scale_width": 0}, ["attention_scale_width is 0"]),
        ({"logit_softcap": 0.0}, ["logit_softcap is 0.0", "null"]),
        ({"attention_softcap": -1.0}, ["attention_softcap is -1.0"]),
        ({"windowed_layers": (0,)}, ["windowed_layers", "sliding_window"]),
        ({"windowed_layers": (2,), "sliding_window": 4}, ["windowed_layers", "[2]", "0 to 1"]),
        ({"unrotated_layers": (1, 1), "positions": "rotary"}, ["unrotated_layers", "once"]),
        ({"unrotated_layers": (1,)}, ["unrotated_layers", "learned"]),
        ({"rotary_scaling": RotaryScaling("linear", 2.0)}, ["rotary_scaling", "learned"]),
        ({"local_rotary_theta": 1e4, "positions": "rotary"}, ["local_rotary_theta", "sliding_window"]),
        ({"local_rotary_theta": 0.0, "positions": "rotary", "sliding_window": 4}, ["local_rotary_theta is 0.0"]),
    ],
)
def test_a_shape_that_cannot_be_names_what_is_wrong(change: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        NetworkShape(**(GOOD | change))
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"kind": "dynamic", "factor": 2.0}, ["dynamic", "yarn"]),
        ({"kind": "linear", "factor": 0.0}, ["factor", "0.0"]),
        ({"kind": "yarn", "factor": 2.0}, ["yarn", "original_context_length"]),
        ({"kind": "llama3", "factor": 2.0, "original_context_length": 8, "low_frequency_factor": 4.0}, ["low_frequency_factor"]),
        ({"kind": "yarn", "factor": 2.0, "original_context_length": 8, "beta_slow": 40.0}, ["beta_slow (40.0)"]),
    ],
)
def test_a_scaling_that_cannot_be_names_what_is_wrong(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        RotaryScaling(**arguments)
    assert all(name in str(caught.value) for name in names)


def test_a_shape_comes_back_from_json() -> None:
    scaling = RotaryScaling("llama3", 8.0, original_context_length=32)
    layers = {"sliding_window": 4, "windowed_layers": (1,), "unrotated_layers": (0,)}
    shape = NetworkShape(**GOOD, positions="rotary", rotary_scaling=scaling, **layers)
    assert NetworkShape(**json.loads(json.dumps(asdict(shape)))) == shape


def test_layers_of_several_kinds() -> None:
    scaling = RotaryScaling("linear", 8.0)
    rotary: dict[str, Any] = {**GOOD, "num_layers": 4, "positions": "rotary"}
    mixed = NetworkShape(
        **rotary, sliding_window=9, windowed_layers=(0, 3), unrotated_layers=(2, 3), local_rotary_theta=5.0, rotary_scaling=scaling
    )
    assert [mixed.layer_kind(layer) for layer in range(4)] == [(9, (5.0, None)), (None, (1e4, scaling)), (None, None), (9, None)]
    assert NetworkShape(**GOOD, sliding_window=9).layer_kind(1) == (9, None)
    assert NetworkShape(**rotary, sliding_window=9, rotary_scaling=scaling).layer_kind(1) == (9, (1e4, scaling))


def test_defaults_follow_from_the_sizes() -> None:
    shape = NetworkShape(**GOOD)
    assert (shape.kv_heads, shape.query_width, shape.inner_width) == (4, 16, 256)
    assert NetworkShape(2, 4096, 32, feedforward="swiglu").inner_width == 10944  # 8/3 of 4096 is 10922.7
    assert NetworkShape(2, 48, 16, feedforward="geglu").inner_width == 128  # 8/3 of 48 is exactly 128


def test_heads_need_not_divide_the_width_when_their_width_is_given() -> None:
    assert NetworkShape(2, 64, 5, head_width=16).query_width == 16
