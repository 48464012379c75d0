"""Attention against sums written out, and the mask against its definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from framework.networks.attention import Attention, attention_mask, rotate, rotation
from framework.networks.shape import NetworkShape

CPU = torch.device("cpu")


def allowed(query: int, key: int, documents: list[int] | None, window: int | None) -> bool:
    near = window is None or query - key < window
    together = documents is None or documents[query] == documents[key]
    return key <= query and near and together


@pytest.mark.parametrize("window", [None, 1, 3, 6, 99])
@pytest.mark.parametrize("documents", [None, [0, 0, 1, 1, 1, 2]])
def test_mask_is_its_definition(documents: list[int] | None, window: int | None) -> None:
    mask = attention_mask(6, None if documents is None else torch.tensor([documents]), window, CPU)
    expected = torch.tensor([[allowed(query, key, documents, window) for key in range(6)] for query in range(6)])
    if mask is None:  # SDPA's own mode
        mask = torch.ones(6, 6, dtype=torch.bool).tril()
    assert torch.equal(mask.reshape(6, 6), expected)


def test_sdpa_counts_causality_from_the_first_key() -> None:
    """TRAP-36, and why tokens behind a cache get a mask of their own: one query over five keys would see the first key only."""
    value = torch.eye(5)[None, None]
    seen = F.scaled_dot_product_attention(torch.zeros(1, 1, 1, 5), torch.zeros(1, 1, 5, 5), value, is_causal=True)
    assert seen.flatten().tolist() == [1, 0, 0, 0, 0]


def test_no_row_of_a_mask_is_empty() -> None:
    """TRAP-37: a row that sees nothing would be NaN; every token sees at least itself."""
    documents_BT = torch.tensor([[-1, -1, 4, 4, 0]])
    mask = attention_mask(5, documents_BT, 1, CPU)
    assert mask is not None
    assert bool(mask.any(-1).all())


def written_out(attention: Attention, hidden_TD: Tensor, theta: float, window: int | None) -> Tensor:
    heads, kv_heads, width = attention.num_heads, attention.num_kv_heads, attention.head_width
    query, key, value = (hidden_TD @ attention.qkv.weight.T).split([heads * width, kv_heads * width, kv_heads * width], dim=-1)  # type: ignore[no-untyped-call]
    outputs = []
    for head in range(heads):
        shared = head // (heads // kv_heads)
        columns, shared_columns = slice(head * width, (head + 1) * width), slice(shared * width, (shared + 1) * width)
        rows = []
        for t in range(len(hidden_TD)):
            scores = []
            for s in range(t + 1):
                turned_q, turned_k = turn(query[t, columns], t, theta), turn(key[s, shared_columns], s, theta)
                scores.append(turned_q @ turned_k / math.sqrt(width) if allowed(t, s, None, window) else torch.tensor(-math.inf).double())
            rows.append(torch.softmax(torch.stack(scores), 0) @ value[: t + 1, shared_columns])
        outputs.append(torch.stack(rows))
    return torch.cat(outputs, -1) @ attention.out.weight.T


def turn(vector: Tensor, position: int, theta: float) -> Tensor:
    half = len(vector) // 2
    turned = vector.clone()
    for i in range(half):
        angle = position * theta ** (-i / half)
        turned[i] = vector[i] * math.cos(angle) - vector[i + half] * math.sin(angle)
        turned[i + half] = vector[i + half] * math.cos(angle) + vector[i] * math.sin(angle)
    return turned


@pytest.mark.parametrize(("kv_heads", "window"), itertools.product([4, 2, 1], [None, 3]))
def test_attention_is_the_sum_written_out(kv_heads: int, window: int | None) -> None:
    torch.manual_seed(0)
    attention = Attention(NetworkShape(1, 16, 4, num_kv_heads=kv_heads, head_width=6, positions="rotary")).double()
    hidden_BTD = torch.randn(1, 7, 16, dtype=torch.float64)
    by = rotation(torch.arange(7)[None], 6, 100.0, torch.float64)
    found = attention(hidden_BTD, by, attention_mask(7, None, window, CPU), None, 0)
    torch.testing.assert_close(found[0], written_out(attention, hidden_BTD[0], 100.0, window), rtol=0, atol=1e-12)


def test_rotation_is_exact_in_bf16_networks_and_depends_on_distance_only() -> None:
    heads = torch.randn(1, 1, 1, 8, dtype=torch.float64).expand(1, 50, 1, 8)
    by = rotation(torch.arange(50)[None], 8, 10000.0, torch.float64)
    turned = rotate(heads, by)[0, :, 0]
    scores = turned @ turned.T
    torch.testing.assert_close(scores[10, 7], scores[45, 42], rtol=0, atol=1e-12)
    cos, _ = rotation(torch.arange(50)[None], 8, 10000.0, torch.bfloat16)
    assert cos.dtype == torch.float32  # a bf16 angle of 49 would be off by 0.1
    assert rotate(heads.bfloat16(), (cos, cos)).dtype == torch.bfloat16
