"""Frequencies of rotary positions, as trained or slowed down for longer contexts.

Shape legend: Q head width. Must not know heads, layers or sequences.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from framework.networks.shape import RotaryScaling


def frequencies(
    head_width: int, theta: float, scaling: RotaryScaling | None, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, float]:
    """Radians a position for each pair of a head, [Q / 2], and the factor of cosines and sines.

    theta^(-2 i / Q) (RoFormer, Su et al. 2021), then slowed down as `RotaryScaling` says.
    """
    exponents = torch.arange(0, head_width, 2, device=device, dtype=dtype) / head_width
    plain = theta**-exponents
    if scaling is None:
        return plain, 1.0
    slow = plain / scaling.factor
    if scaling.kind == "linear":
        return slow, 1.0
    assert scaling.original_context_length is not None
    if scaling.kind == "llama3":
        turns = scaling.original_context_length * plain / (2 * math.pi)  # in the trained context
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return kept * plain + (1 - kept) * slow, 1.0
    first, last = _ramp(head_width, theta, scaling)
    pairs = torch.arange(head_width // 2, device=device, dtype=dtype)
    kept = 1 - ((pairs - first) / (last - first)).clamp(0, 1)
    factor = scaling.attention_factor
    return kept * plain + (1 - kept) * slow, yarn_attention_factor(scaling.factor) if factor is None else factor


@cache
def kept_frequencies(
    head_width: int, theta: float, scaling: RotaryScaling | None, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, float]:
    """`frequencies`, made once: seven small operations, which a decoding step of 10 ms notices."""
    with torch.inference_mode(False):  # training takes them too
        return frequencies(head_width, theta, scaling, dtype, device)


def yarn_attention_factor(factor: float, scale: float = 1.0) -> float:
    """0.1 scale ln(factor) + 1 (Peng et al. 2023, 3.4), 1 where nothing is stretched."""
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def _ramp(head_width: int, theta: float, scaling: RotaryScaling) -> tuple[float, float]:
    """The pairs between which YaRN goes from untouched to fully slowed."""
    assert scaling.original_context_length is not None
    first, last = (
        head_width * math.log(scaling.original_context_length / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_width - 1)
    return first, last + 0.001 if first == last else last  # no division by zero
