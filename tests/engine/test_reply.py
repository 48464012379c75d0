"""Drawing: the inverse of the cumulative distribution, its edges, and what cannot be drawn."""

from __future__ import annotations

import math

import pytest
import torch

from framework.engine.reply import Reply, pick
from framework.engine.request import Request
from framework.errors import RequestError


def test_pick_inverts_the_cumulative_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1.0 - 2**-53], dtype=torch.float64)
    assert pick(probabilities, uniform).tolist() == [1, 1, 3, 3, 4, 4]


def test_pick_never_takes_a_token_of_probability_0() -> None:
    """Whatever the sum: that of a float32 softmax need not be exactly 1."""
    edges = torch.tensor([0.0, 5e-324, 0.5, 1 - 2**-52, 1 - 2**-53], dtype=torch.float64)
    for scale in (1.0, 0.9999999, 1.0000001, 1 / 3, *(1 + number / 977 for number in range(1, 977, 9))):
        probabilities = torch.zeros(1000, dtype=torch.float32)
        probabilities[10:20] = 0.1 * scale
        picked = pick(probabilities, edges)
        assert set(picked.tolist()) <= set(range(10, 20)), scale


def _reply(**settings: object) -> Reply:
    return Reply(0, Request(**{"prompt_ids": [1], "max_new_tokens": 8, "seed": 0, **settings}), 8, torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("logit", [math.nan, -math.inf, math.inf])
def test_logits_without_a_distribution_are_an_error(logit: float) -> None:
    with pytest.raises(RequestError, match="no token can be drawn"):
        _reply().draw(torch.full((1, 5), logit))


def test_a_draw_takes_one_number_whatever_the_samplers() -> None:
    reply = _reply(samplers=[lambda logits_BV, history: logits_BV.masked_fill(torch.arange(5) != 2, -math.inf)])
    expected = torch.Generator().manual_seed(0)
    for _ in range(3):
        assert reply.draw(torch.zeros(1, 5)).token_id == 2
        torch.rand((), dtype=torch.float64, generator=expected)
    assert torch.equal(reply.generator.get_state(), expected.get_state())


def test_half_precision_logits_are_raised_first() -> None:
    logits_BV = torch.linspace(-3, 3, 5, dtype=torch.bfloat16)[None]
    event = _reply().draw(logits_BV)
    assert event.logprob == pytest.approx(logits_BV.float().log_softmax(dim=-1)[0, event.token_id].item(), abs=1e-6)
