"""Estimates and their intervals: published values, other people's formulas, coverage."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from framework.tasks.estimates import Z, mean, proportion, ratio


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_wilson_s_interval(successes: int, n: int, low: float, high: float) -> None:
    found = proportion(successes, n)
    assert (found.value, found.n, found.interval) == (successes / n, n, "Wilson")
    assert found.low == pytest.approx(low, abs=5e-5) and found.high == pytest.approx(high, abs=5e-5)
    assert found.low <= found.value <= found.high  # type: ignore[operator]


def test_z_is_the_normal_quantile() -> None:
    assert statistics.NormalDist().inv_cdf(0.975) == pytest.approx(Z, abs=1e-12)


def test_the_interval_of_a_mean() -> None:
    values = [0.2, 1.0, 0.0, 0.7, 0.4]
    found = mean(values)
    reach = 1.959963984540054 * statistics.stdev(values) / math.sqrt(5)
    assert found.value == pytest.approx(statistics.mean(values))
    assert (found.low, found.high, found.n) == (pytest.approx(0.46 - reach), pytest.approx(0.46 + reach), 5)


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0, 0.0]])
def test_what_cannot_be_told_is_not_told(values: list[float]) -> None:
    assert (mean(values).low, mean(values).high) == (None, None)


def test_a_ratio_s_interval_covers_it() -> None:
    """1,000 draws of 60 documents from a known population: about 95% of the intervals hold the truth; those of a mean of ratios do not."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(10, 400, size=(1000, 60)).astype(float)
    nats = tokens * 2.5 + tokens * draw.normal(0, 0.6, size=tokens.shape) - 30.0 + 6000 / tokens
    all_tokens = draw.integers(10, 400, size=2_000_000).astype(float)
    truth = (2.5 * all_tokens - 30.0 + 6000 / all_tokens).sum() / all_tokens.sum()
    found = [ratio(above.tolist(), below.tolist(), "documents") for above, below in zip(nats, tokens)]
    held = sum(each.low <= truth <= each.high for each in found)  # type: ignore[operator]
    assert 925 <= held <= 975
    assert found[0].value == pytest.approx(nats[0].sum() / tokens[0].sum()) and found[0].interval == "normal over documents"


def test_an_interval_goes_through_a_function() -> None:
    found = ratio([2.0, 5.0, 3.0], [1.0, 2.0, 1.0]).through(math.exp)
    plain = ratio([2.0, 5.0, 3.0], [1.0, 2.0, 1.0])
    assert found.value == math.exp(2.5) and found.low == math.exp(plain.low) and found.high == math.exp(plain.high)  # type: ignore[arg-type]
    assert mean([1.0]).through(math.exp).low is None
