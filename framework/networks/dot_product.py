"""What queries read from keys and values: our kernel's or torch's fused attention, and the plain formula where scores are capped.

Shape legend: B batch, T queries, S keys, H query heads, K key-value heads, G = H / K, Q head width.
Must not know positions, windows or caches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from framework.kernels import causal


def soft_capped(x: Tensor, cap: float | None) -> Tensor:
    """cap tanh(x / cap) (Gemma 2): nearly x where it is small, never beyond the cap; None leaves x as it is."""
    return x if cap is None else torch.tanh(x / cap) * cap


def attend(
    query_BHTQ: Tensor, key_BKSQ: Tensor, value_BKSQ: Tensor, mask: Tensor | None, softcap: float | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k / sqrt(Q)) v, [B, H, T, Q]; each key-value head serves H / K neighbouring query heads.

    Args:
        query_BHTQ, key_BKSQ, value_BKSQ: heads before tokens.
        mask: which keys each query sees, bool [B or 1, 1, T, S]; None: those up to its own place.
        softcap: of the scores.
        dropout: probability, of the weights.
    """
    if softcap is None and mask is None and not dropout:
        heads = query_BHTQ.transpose(1, 2), key_BKSQ.transpose(1, 2), value_BKSQ.transpose(1, 2)
        if causal.serves(*heads):
            return causal.attend(*heads).transpose(1, 2)
    if softcap is None:
        return F.scaled_dot_product_attention(
            query_BHTQ,
            key_BKSQ,
            value_BKSQ,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            enable_gqa=query_BHTQ.shape[1] != key_BKSQ.shape[1],
        )
    num_queries, num_keys = query_BHTQ.shape[2], key_BKSQ.shape[2]
    if mask is None:
        mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=query_BHTQ.device).tril()[None, None]
    query_BKGTQ = query_BHTQ.reshape(len(query_BHTQ), key_BKSQ.shape[1], -1, *query_BHTQ.shape[2:])
    scores_BKGTS = query_BKGTQ @ key_BKSQ[:, :, None].transpose(-1, -2) * query_BHTQ.shape[-1] ** -0.5
    scores_BKGTS = soft_capped(scores_BKGTS, softcap).masked_fill(~mask[:, :, None], -torch.inf)
    wide = torch.promote_types(scores_BKGTS.dtype, torch.float32)
    weights_BKGTS = torch.softmax(scores_BKGTS, -1, dtype=wide).to(query_BHTQ.dtype)
    return (F.dropout(weights_BKGTS, dropout) @ value_BKSQ[:, :, None]).flatten(1, 2)
