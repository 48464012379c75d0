"""Figures with their 95% intervals: pure functions of what was counted. Numbers flow in, estimates flow out; knows no model.

The interval says how far the figure would move with other documents or questions of the same kind; the model stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Z = 1.959963984540054  # of the normal distribution, 95% lies between -Z and Z


@dataclass(frozen=True)
class Estimate:
    """A figure and how sure it is.

    Attributes:
        value: the figure.
        low, high: its 95% interval; None where one cannot be told (a mean of one value, or of equal ones).
        n: what it was estimated from: rows, documents.
        interval: how the interval was made.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    interval: str

    def through(self, rising: Callable[[float], float]) -> Estimate:
        """The estimate of a rising function of the figure; its interval goes through the same function."""
        low, high = (None if bound is None else rising(bound) for bound in (self.low, self.high))
        return Estimate(rising(self.value), low, high, self.n, self.interval)


def proportion(successes: int, n: int) -> Estimate:
    """A share of n, with Wilson's score interval (1927): it stays within [0, 1] and is not empty at 0 or n successes."""
    assert 0 <= successes <= n and n > 0
    share = successes / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # the bounds at 0 and n are exact, which rounding would hide
    return Estimate(share, max(0.0, centre - reach) if successes else 0.0, min(1.0, centre + reach) if successes < n else 1.0, n, "Wilson")


def mean(values: Sequence[float]) -> Estimate:
    """A mean, with the normal interval from the unbiased variance."""
    return ratio(values, [1.0] * len(values))


def ratio(numerators: Sequence[float], denominators: Sequence[float], unit: str = "") -> Estimate:
    """A sum over a sum (nats over tokens of documents), with the normal interval from its linearised variance.

    Source: the ratio estimator, Cochran, Sampling Techniques (1977), section 6.3, from an infinite population.

    Args:
        numerators, denominators: of each unit; the denominators' sum is not 0.
        unit: what was drawn ("documents"), for the estimate's `interval`.
    """
    n, total = len(numerators), math.fsum(denominators)
    value = math.fsum(numerators) / total
    name = f"normal over {unit}" if unit else "normal"
    squares = math.fsum((above - value * below) ** 2 for above, below in zip(numerators, denominators, strict=True))
    if n < 2 or not squares:
        return Estimate(value, None, None, n, name)
    reach = Z * math.sqrt(n / (n - 1) * squares) / abs(total)
    return Estimate(value, value - reach, value + reach, n, name)
