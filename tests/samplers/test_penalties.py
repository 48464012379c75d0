"""The repetition penalty: both signs, once a token, prompt and reply, no padding."""

from __future__ import annotations

import pytest
import torch

from framework.samplers.base import History
from framework.samplers.penalties import RepetitionPenalty
from framework.testing.samplers import CHECKS


def test_divides_positive_and_multiplies_negative_logits_once_a_token() -> None:
    logits_BV = torch.tensor([[0.1, -0.1, 0.4, -0.4, 0.0]])
    history = History(torch.tensor([[0, 0, 1, 0]]), torch.tensor([2]))
    assert RepetitionPenalty(2.0)(logits_BV, history)[0].tolist() == pytest.approx([0.05, -0.2, 0.4, -0.4, 0.0])


def test_padding_is_no_token() -> None:
    """-1 must neither hit the last token, as an index would, nor the first."""
    logits_BV = torch.ones(2, 4)
    history = History(torch.tensor([[2, -1, -1], [1, 3, 1]]), torch.tensor([1, 1]))
    assert RepetitionPenalty(2.0)(logits_BV, history).tolist() == [[1.0, 1.0, 0.5, 1.0], [1.0, 0.5, 1.0, 0.5]]


@pytest.mark.parametrize("penalty", [1.3, 0.5])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(penalty: float, check) -> None:  # type: ignore[no-untyped-def]
    check(RepetitionPenalty(penalty))
