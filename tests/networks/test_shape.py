from __future__ import annotations

from typing import Any

import pytest

from framework.networks.shape import NetworkShape

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
    ],
)
def test_a_shape_that_cannot_be_names_what_is_wrong(change: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        NetworkShape(**(GOOD | change))
    assert all(name in str(caught.value) for name in names)


def test_defaults_follow_from_the_sizes() -> None:
    shape = NetworkShape(**GOOD)
    assert (shape.kv_heads, shape.query_width, shape.inner_width) == (4, 16, 256)
    assert NetworkShape(2, 4096, 32, feedforward="swiglu").inner_width == 10944  # 8/3 of 4096 is 10922.7
    assert NetworkShape(2, 48, 16, feedforward="geglu").inner_width == 128  # 8/3 of 48 is exactly 128


def test_heads_need_not_divide_the_width_when_their_width_is_given() -> None:
    assert NetworkShape(2, 64, 5, head_width=16).query_width == 16
