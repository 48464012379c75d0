"""Causal attention of whole sequences, for training and long prompts: our kernel where it is faster, else torch's.

Shape legend: B batch, T tokens, H query heads, K key-value heads, Q head width. Must not know networks or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.kernels import calls
from framework.kernels.products import outruns_torch

FEWEST_TOKENS = 32


def serves(query_BTHQ: Tensor, key_BTKQ: Tensor, value_BTKQ: Tensor) -> bool:
    """Whether `attend` takes these, and is faster than torch."""
    return key_BTKQ.shape[1] == query_BTHQ.shape[1] and _suits(query_BTHQ) and outruns_torch(query_BTHQ, key_BTKQ, value_BTKQ)


def _suits(heads_BTHQ: Tensor) -> bool:
    return heads_BTHQ.shape[1] >= FEWEST_TOKENS and heads_BTHQ.shape[-1] % 4 == 0


def attend(query_BTHQ: Tensor, key_BTKQ: Tensor, value_BTKQ: Tensor) -> Tensor:
    """softmax(q k / sqrt(Q)) v over the tokens up to each one's own, [B, T, H, Q]; each key-value head serves H / K neighbouring query heads."""
    result: Tensor = _Causal.apply(query_BTHQ, key_BTKQ, value_BTKQ)  # type: ignore[no-untyped-call]
    return result


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_BTHQ: Tensor, key_BTKQ: Tensor, value_BTKQ: Tensor) -> Tensor:
        heads = [_side_by_side(part) for part in (query_BTHQ, key_BTKQ, value_BTKQ)]
        batch, tokens, num_heads, _ = query_BTHQ.shape
        out_BTHQ = query_BTHQ.new_empty(query_BTHQ.shape)
        log_sums_BHT = query_BTHQ.new_empty(batch, num_heads, tokens)
        calls.causal([*heads, out_BTHQ], log_sums_BHT)
        ctx.save_for_backward(*heads, out_BTHQ, log_sums_BHT)
        return out_BTHQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_BTHQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, out, log_sums_BHT = ctx.saved_tensors
        sizes = [query.shape[2], key.shape[2], value.shape[2]]
        d_all = query.new_empty(*query.shape[:2], sum(sizes), query.shape[3])  # side by side, as they usually come
        d_query, d_key, d_value = d_all.split(sizes, dim=2)
        calls.causal([query, key, value, out], log_sums_BHT, [d_query, d_key, d_value, _side_by_side(d_out_BTHQ)])
        return d_query, d_key, d_value


def split(heads_BTHQ: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """`torch.split` by heads. Its gradient is not copied where `attend` made those of the parts in one piece."""
    if not torch.compiler.is_compiling() and heads_BTHQ.requires_grad and _suits(heads_BTHQ) and outruns_torch(heads_BTHQ):
        parts: tuple[Tensor, ...] = _Split.apply(heads_BTHQ, sizes)  # type: ignore[no-untyped-call]
        return parts
    return torch.split(heads_BTHQ, list(sizes), dim=2)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads_BTHQ: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        return torch.split(heads_BTHQ, list(sizes), dim=2)

    @staticmethod
    def backward(ctx: Any, *d_parts: Tensor) -> tuple[Tensor, None]:
        first, end = d_parts[0], d_parts[0].storage_offset()
        for part in d_parts:
            if (
                part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
                or part.stride() != first.stride()
                or part.storage_offset() != end
            ):
                return torch.cat(d_parts, dim=2), None
            end += part.shape[2] * part.stride(2)
        batch, tokens, _, width = first.shape
        return first.as_strided((batch, tokens, sum(part.shape[2] for part in d_parts), width), first.stride()), None


def _side_by_side(heads: Tensor) -> Tensor:
    return heads if heads.stride(-1) == 1 else heads.contiguous()
