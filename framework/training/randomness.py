"""Every generator's state as a function of a seed and a number (decision 0002)."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_generators(seed: int, number: int) -> None:
    """Seed Python's, numpy's and torch's generators (all devices) from a pair, well mixed (SplitMix64, Steele et al. 2014, twice)."""
    mixed = split_mix(split_mix(seed % 2**64) ^ number)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.default_generator.manual_seed(mixed % 2**63)  # torch.manual_seed asks every backend first: 0.3 ms
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(mixed % 2**63)
    if torch.backends.mps.is_built():
        torch.mps.manual_seed(mixed % 2**63)


def split_mix(state: int) -> int:
    """One step of SplitMix64: a permutation of the 64-bit integers in which every bit depends on every other."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)
