"""The sampler top-n-sigma. Logits flow in, logits flow out.

Shape legend: B requests, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.samplers.base import History
from framework.samplers.rowwise import Rowwise

__all__ = ["TopNSigma"]


class TopNSigma(Rowwise):
    """Only tokens stay whose logit is within n standard deviations of the best one (Tang et al. 2024, arXiv 2411.07641).

    The standard deviation is that of the row's logits, population form; tokens that were excluded before do not count. Which tokens
    stay does not depend on the temperature, whether it comes before or after.

    Args:
        n: standard deviations; the paper uses 1. Over 0.

    Raises:
        ValueError: n is not a finite number over 0.
    """

    looks_back = False

    def __init__(self, n: float = 1.0) -> None:
        if not (math.isfinite(n) and n > 0.0):
            raise ValueError(f"n is {n} and must be a finite number over 0")
        super().__init__(float(n))

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Logits with -inf for every other token, [B, V]."""
        counted_BV = logits_BV.isfinite()
        count_B1 = counted_BV.sum(dim=-1, keepdim=True)
        mean_B1 = _sum(logits_BV.where(counted_BV, 0.0)) / count_B1
        sigma_B1 = _sum((logits_BV - mean_B1).where(counted_BV, 0.0).square()).div(count_B1).sqrt()
        floor_B1 = logits_BV.amax(dim=-1, keepdim=True) - setting_B1.to(sigma_B1) * sigma_B1
        return torch.where(logits_BV < floor_B1, -math.inf, logits_BV)


def _sum(values_BV: Tensor) -> Tensor:
    """In float64, so that the order of the sum, which depends on the batch, does not show."""
    return values_BV.sum(dim=-1, keepdim=True, dtype=torch.float64).to(values_BV.dtype)
