"""Logit bias: additions by id, rows of different lengths, and ids that are not in the vocabulary."""

from __future__ import annotations

import math

import pytest
import torch

from framework.errors import RequestError
from framework.samplers.base import History, Sampler
from framework.samplers.bias import LogitBias
from framework.testing.samplers import CHECKS

HISTORY = History(torch.empty(3, 0, dtype=torch.long), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("sampler", [LogitBias({3: 5.0, 17: -100.0}), LogitBias({})], ids=["biases", "none"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(sampler: Sampler, check) -> None:  # type: ignore[no-untyped-def]
    check(sampler)


def test_adds_to_the_listed_tokens() -> None:
    logits_BV = torch.tensor([[1.0, 2.0, -math.inf, 4.0]])
    assert LogitBias({0: -1.5, 2: 100.0, 3: 0.25})(logits_BV, HISTORY).tolist() == [[-0.5, 2.0, -math.inf, 4.25]]


def test_rows_with_other_biases_are_each_as_alone_to_the_bit() -> None:
    """-0.0 and token 0, which stands for the missing ones of shorter lists, included."""
    logits_BV = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    logits_BV[:, 0] = -0.0
    samplers = [LogitBias({}), LogitBias({0: 3.0}), LogitBias({5: 0.1, 0: -0.7, 9: 100.0})]
    together = LogitBias.together(samplers)(logits_BV, HISTORY)
    for row, sampler in enumerate(samplers):
        alone = sampler(logits_BV[row : row + 1], HISTORY)[0]
        assert torch.equal(alone.view(torch.int32), together[row].view(torch.int32))


@pytest.mark.parametrize("biases", [{-1: 1.0}, {1: 100.5}, {1: -101.0}, {1: math.nan}])
def test_refuses_values_outside_their_range(biases: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        LogitBias(biases)


def test_an_id_outside_the_vocabulary_is_an_error_before_and_in_the_call() -> None:
    LogitBias({49: 1.0}).check(50)
    LogitBias({}).check(1)
    with pytest.raises(RequestError, match=r"token 50 .* under the vocabulary's size, 50"):
        LogitBias({3: 1.0, 50: 1.0}).check(50)
    with pytest.raises(RequestError, match="token 50"):
        LogitBias({50: 1.0})(torch.zeros(1, 50), HISTORY)
