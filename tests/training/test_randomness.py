"""Generators are a function of a seed and a number."""

from __future__ import annotations

import torch

from framework.training.randomness import seed_generators


def test_seed_generators_mixes_both_numbers() -> None:
    drawn = set()
    for seed in range(5):
        for number in range(5):
            seed_generators(seed, number)
            drawn.add(torch.rand(1).item())
    assert len(drawn) == 25
