"""Rotary frequencies against what their papers say of the ends, and between them; transformers' numbers are in test_published.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from framework.networks.rotary import frequencies, kept_frequencies
from framework.networks.shape import RotaryScaling

WIDTH, THETA, TRAINED = 64, 10000.0, 1024


def made(scaling: RotaryScaling | None) -> tuple[Tensor, float]:
    return frequencies(WIDTH, THETA, scaling, torch.float64, torch.device("cpu"))


def turns() -> Tensor:
    """Of each pair in the trained context."""
    return TRAINED * made(None)[0] / (2 * math.pi)


def test_unscaled_frequencies_are_a_geometric_row() -> None:
    plain, factor = made(None)
    expected = [math.exp(-2 * i / WIDTH * math.log(THETA)) for i in range(WIDTH // 2)]
    assert factor == 1 and plain.tolist() == pytest.approx(expected, rel=1e-14)


def test_kept_ones_are_the_same_and_serve_training_too() -> None:
    kept_frequencies.cache_clear()
    arguments = (WIDTH, THETA, RotaryScaling("linear", 2.5), torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        kept, factor = kept_frequencies(*arguments)
    again, other = kept_frequencies(*arguments), kept_frequencies(WIDTH, 2 * THETA, *arguments[2:])
    assert not kept.is_inference() and again[0] is kept and again[1] == factor
    assert torch.equal(kept, frequencies(*arguments)[0]) and not torch.equal(kept, other[0])


def test_linear_slows_all_alike() -> None:
    slow, factor = made(RotaryScaling("linear", 2.5))
    assert factor == 1 and torch.allclose(slow * 2.5, made(None)[0], rtol=1e-15)


def test_llama3_keeps_short_waves_and_slows_long_ones() -> None:
    found, factor = made(RotaryScaling("llama3", 8.0, TRAINED, low_frequency_factor=1.0, high_frequency_factor=4.0))
    ratio = found / made(None)[0]
    assert factor == 1
    assert torch.equal(ratio[turns() > 4], torch.ones(int((turns() > 4).sum()), dtype=torch.float64))
    assert torch.allclose(ratio[turns() < 1], torch.tensor(1 / 8, dtype=torch.float64), rtol=1e-15)
    between = ratio[(turns() > 1) & (turns() < 4)]
    assert len(between) and ((between > 1 / 8) & (between < 1)).all() and (between.diff() < 0).all()


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_goes_along_a_ramp_of_pairs(truncate: bool) -> None:
    found, factor = made(RotaryScaling("yarn", 4.0, TRAINED, beta_fast=32.0, beta_slow=1.0, truncate=truncate))
    ratio = found / made(None)[0]
    assert factor == pytest.approx(0.1 * math.log(4) + 1)
    spare = 1.3 if truncate else 1.0  # whole pairs widen the ramp by up to one pair, a factor of 1.33 here
    assert torch.allclose(ratio[turns() > 32 * spare], torch.ones((), dtype=torch.float64), rtol=1e-15)
    assert torch.allclose(ratio[turns() < 1 / spare], torch.tensor(1 / 4, dtype=torch.float64), rtol=1e-15)
    steps = ratio[(turns() < 32) & (turns() > 1)].diff()
    assert len(steps) > 5 and torch.allclose(steps, steps[0], rtol=1e-9), "the share that is kept falls by as much from pair to pair"


def test_yarn_s_attention_factor_may_be_said() -> None:
    assert made(RotaryScaling("yarn", 4.0, TRAINED, attention_factor=0.7))[1] == 0.7
    assert made(RotaryScaling("yarn", 0.5, TRAINED))[1] == 1


def test_a_ramp_without_length_divides_by_nothing() -> None:
    found, _ = made(RotaryScaling("yarn", 4.0, 2, beta_fast=3.0, beta_slow=3.0))
    assert found.isfinite().all()
