"""Attention with capped scores against sums written out; without a cap it is torch's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from framework.networks.dot_product import attend, soft_capped


def heads() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64),
        torch.randn(2, 2, 5, 6, generator=generator, dtype=torch.float64),
        torch.randn(2, 2, 5, 6, generator=generator, dtype=torch.float64),
    )


def written_out(mask_BTS: Tensor, cap: float) -> Tensor:
    query, key, value = heads()
    out = torch.zeros_like(query)
    for b in range(2):
        for h in range(4):
            for t in range(5):
                seen = [s for s in range(5) if mask_BTS[b, t, s]]
                scores = [float(query[b, h, t] @ key[b, h // 2, s]) / math.sqrt(6) for s in seen]
                weights = [math.exp(cap * math.tanh(score / cap)) for score in scores]
                for s, weight in zip(seen, weights):
                    out[b, h, t] += weight / sum(weights) * value[b, h // 2, s]
    return out


@pytest.mark.parametrize("masked", [False, True])
def test_capped_scores(masked: bool) -> None:
    mask = torch.ones(2, 5, 5, dtype=torch.bool).tril()
    if masked:
        mask[1] = torch.eye(5, dtype=torch.bool)
    found = attend(*heads(), mask[:, None] if masked else None, softcap=0.4)
    torch.testing.assert_close(found, written_out(mask, 0.4), rtol=0, atol=1e-12)


def test_a_high_cap_is_none() -> None:
    torch.testing.assert_close(attend(*heads(), None, softcap=1e5), attend(*heads(), None), rtol=0, atol=1e-8)


def test_dropout_leaves_weights_out() -> None:
    torch.manual_seed(0)
    found = attend(*heads(), torch.eye(5, dtype=torch.bool)[None, None], softcap=1.0, dropout=0.5)
    value = heads()[2].repeat_interleave(2, dim=1)
    assert {round(float(ratio), 6) for ratio in (found / value).flatten()} == {0.0, 2.0}


def test_16_bit_scores_have_a_softmax_of_32() -> None:
    query, key, value = (part.bfloat16() for part in heads())
    found = attend(query, key, value, None, softcap=0.4)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), attend(*heads(), None, softcap=0.4), rtol=0, atol=0.03)


def test_the_cap_is_never_passed() -> None:
    x = torch.tensor([-1e9, -1.0, 0.0, 1e-3, 1e9])
    capped = soft_capped(x, 5.0)
    assert capped.abs().max() <= 5 and capped[3] == pytest.approx(1e-3, rel=1e-6) and soft_capped(x, None) is x
