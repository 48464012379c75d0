"""Log-probabilities of given tokens, and entropies, with gradients and without ever keeping full logits.

Shape legend: N tokens, C tokens of a chunk, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.kernels.products import product
from framework.losses.next_token import capped_with_slope, chunk_length, matmul_inputs, wide_type

KEPT_LOGITS = 2**26  # 256 MiB in fp32


class TokenLogProbs(NamedTuple):
    """Of each token.

    Attributes:
        log_probs_N: natural logarithm of its probability, in fp32 or wider, with a graph.
        entropies_N: entropy of the distribution it was drawn from, nats, with a graph.
    """

    log_probs_N: Tensor
    entropies_N: Tensor


def log_probs(
    hidden_ND: Tensor,
    head_weight_VD: Tensor,
    targets_N: Tensor,
    temperature: float = 1.0,
    *,
    softcap: float | None = None,
    chunk_tokens: int | None = None,
) -> TokenLogProbs:
    """Log-probabilities of the targets and entropies under softmax(logits / temperature), the logits being hidden W^T, capped or not.

    Up to 2^26 of them the log-probabilities wait for the backward pass; where there were more, or capped ones, it makes each chunk's
    again, so that memory grows with the chunk and not with N.

    Args:
        hidden_ND: a network's hidden states at the places before the targets.
        head_weight_VD: its output matrix.
        targets_N: the tokens.
        temperature: divides the logits.
        softcap: the network's `logit_softcap`.
        chunk_tokens: tokens whose logits exist at one time; None: as many as suit the vocabulary and the device.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature} and must be over 0: a certain choice has no log-probabilities to train")
    length = chunk_length(chunk_tokens, head_weight_VD)
    return TokenLogProbs(*_LogProbs.apply(hidden_ND, head_weight_VD, targets_N, temperature, softcap, length))  # type: ignore[no-untyped-call]


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_weight_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        softcap: float | None,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        rows_ND, weight_VD = matmul_inputs(hidden_ND, head_weight_VD)
        kept_N, entropies_N = (rows_ND.new_empty(len(rows_ND), dtype=wide_type(rows_ND.dtype)) for _ in range(2))
        wanted = any(ctx.needs_input_grad[:2]) and len(rows_ND) * len(weight_VD) <= KEPT_LOGITS and softcap is None
        waiting: list[Tensor] = []
        for chunk in _chunks(len(rows_ND), chunk_tokens):
            log_probs_CV, _ = _log_softmax(rows_ND[chunk], weight_VD, temperature, softcap)
            kept_N[chunk] = log_probs_CV.gather(1, targets_N[chunk, None])[:, 0]
            entropies_N[chunk] = _entropy(log_probs_CV, log_probs_CV.exp())
            if wanted:
                waiting.append(log_probs_CV)
        ctx.save_for_backward(rows_ND, weight_VD, targets_N, *waiting)
        ctx.temperature, ctx.softcap, ctx.chunk_tokens = temperature, softcap, chunk_tokens
        ctx.types = hidden_ND.dtype, head_weight_VD.dtype
        return kept_N, entropies_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_kept_N: Tensor, d_entropies_N: Tensor) -> tuple[Tensor | None, ...]:
        rows_ND, weight_VD, targets_N, *waiting = ctx.saved_tensors
        d_hidden_ND = torch.empty_like(rows_ND) if ctx.needs_input_grad[0] else None
        wide = wide_type(weight_VD.dtype)
        d_weight_VD = torch.empty_like(weight_VD, dtype=wide) if ctx.needs_input_grad[1] else None
        if d_weight_VD is not None and not len(rows_ND):
            d_weight_VD.zero_()
        with_entropy = bool(d_entropies_N.count_nonzero()) if d_entropies_N.is_cpu else True  # a GPU is not made to wait
        for number, chunk in enumerate(_chunks(len(rows_ND), ctx.chunk_tokens)):
            if waiting:
                log_probs_CV, slope_CV = waiting[number], None
            else:
                log_probs_CV, slope_CV = _log_softmax(rows_ND[chunk], weight_VD, ctx.temperature, ctx.softcap)
            d_logits_CV = _logits_gradient(log_probs_CV, targets_N[chunk], d_kept_N[chunk], d_entropies_N[chunk] if with_entropy else None)
            d_logits_CV = (d_logits_CV if slope_CV is None else d_logits_CV.mul_(slope_CV)).div_(ctx.temperature).to(rows_ND.dtype)
            if d_hidden_ND is not None:
                product(d_logits_CV, weight_VD, out=d_hidden_ND[chunk])
            if d_weight_VD is not None and wide == rows_ND.dtype:
                product(d_logits_CV.T, rows_ND[chunk], out=d_weight_VD, adds=chunk.start > 0)
            elif d_weight_VD is not None:
                product_VD = d_logits_CV.T @ rows_ND[chunk]
                d_weight_VD = d_weight_VD.add_(product_VD) if chunk.start else d_weight_VD.copy_(product_VD)
        hidden_type, weight_type = ctx.types
        return (
            None if d_hidden_ND is None else d_hidden_ND.to(hidden_type),
            None if d_weight_VD is None else d_weight_VD.to(weight_type),
            None,
            None,
            None,
            None,
        )


def _logits_gradient(log_probs_CV: Tensor, targets_C: Tensor, d_kept_C: Tensor, d_entropies_C: Tensor | None) -> Tensor:
    """(one at the target - p) d_kept, and of the entropy H, with dH / dz = -p (log p + H); [C, V]."""
    probs_CV = log_probs_CV.exp()
    if d_entropies_C is None:
        d_logits_CV = probs_CV.mul_(-d_kept_C[:, None])
    else:
        slope_CV = (log_probs_CV + _entropy(log_probs_CV, probs_CV)[:, None]).mul_(probs_CV)
        d_logits_CV = probs_CV.mul_(-d_kept_C[:, None]).addcmul_(slope_CV, d_entropies_C[:, None], value=-1.0)
    return d_logits_CV.scatter_add_(1, targets_C[:, None], d_kept_C[:, None])


def _chunks(num_tokens: int, chunk_tokens: int) -> list[slice]:
    return [slice(start, min(start + chunk_tokens, num_tokens)) for start in range(0, num_tokens, chunk_tokens)]


def _log_softmax(rows_CD: Tensor, weight_VD: Tensor, temperature: float, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities, and the slope of the cap; None where nothing is capped."""
    logits_CV, slope_CV = product(rows_CD, weight_VD.T), None
    if softcap is not None:
        logits_CV, slope_CV = capped_with_slope(logits_CV, softcap)
    if temperature != 1.0:
        logits_CV = logits_CV.to(wide_type(logits_CV.dtype)) / temperature
    return torch.log_softmax(logits_CV, -1, dtype=wide_type(logits_CV.dtype)), slope_CV


def _entropy(log_probs_CV: Tensor, probs_CV: Tensor) -> Tensor:
    return -(probs_CV * log_probs_CV).sum(-1)
