"""The loss of language modelling: the next token's negative log-likelihood.

Shape legend: B batch, T time, N = B T tokens, C tokens of a chunk, D model width, V vocabulary.
Hidden states and the output matrix flow in rather than logits, so that the logits of a whole batch are never kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from framework.kernels import calls
from framework.kernels.products import product

IGNORE = -100  # the target of a position that is not trained, as in torch.nn.functional.cross_entropy

MIN_CHUNK_TOKENS = 512  # with fewer, reading the output matrix and its gradient once a chunk costs more than 1/20 of the products
CHUNK_LOGITS = {"cpu": 2**21}  # 8 MiB in fp32, which stays in the last-level cache
CHUNK_LOGITS_ELSEWHERE = 2**27  # 512 MiB in fp32: few, large products


def next_token(
    hidden_BTD: Tensor, head_weight_VD: Tensor, targets_BT: Tensor, *, softcap: float | None = None, chunk_tokens: int | None = None
) -> Tensor:
    """Sum of -log p(target) over the positions whose target is not IGNORE: nats, a scalar in fp32 (float64 for float64 inputs).

    The gradients are made chunk by chunk during the forward pass, with the same products as the plain loss; the backward pass only
    scales them, in place, and so runs once. Products run in autocast's type where it is on, the softmax in fp32 or wider.

    Args:
        hidden_BTD: a network's hidden states.
        head_weight_VD: its output matrix.
        targets_BT: the token after each position; IGNORE where nothing is trained.
        softcap: the network's `logit_softcap`.
        chunk_tokens: tokens whose logits exist at one time; None: as many as suit the vocabulary and the device.
    """
    chunk_tokens = chunk_length(chunk_tokens, head_weight_VD)
    grad_enabled = torch.is_grad_enabled()  # a Function's forward sees it off
    rows_ND, targets_N = hidden_BTD.flatten(0, -2), targets_BT.flatten()
    loss: Tensor = _NextToken.apply(rows_ND, head_weight_VD, targets_N, softcap, chunk_tokens, grad_enabled)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_statistics(
    hidden_BTD: Tensor, head_weight_VD: Tensor, targets_BT: Tensor, *, softcap: float | None = None, chunk_tokens: int | None = None
) -> tuple[Tensor, Tensor]:
    """For evaluation: -log p(target) in nats, and whether the target is the likeliest token (bool); both [B, T], 0 at IGNORE."""
    hidden_ND, weight_VD = matmul_inputs(hidden_BTD.flatten(0, -2), head_weight_VD)
    targets_N = targets_BT.flatten()
    nats_N = torch.empty(targets_N.shape, dtype=wide_type(hidden_ND.dtype), device=hidden_ND.device)
    correct_N = torch.empty(targets_N.shape, dtype=torch.bool, device=hidden_ND.device)
    for chunk in _chunks(hidden_ND, weight_VD, softcap, chunk_length(chunk_tokens, head_weight_VD)):
        log_probs_CV, targets_C = chunk.log_probs(), targets_N[chunk.tokens]
        nats_N[chunk.tokens] = F.nll_loss(log_probs_CV, targets_C, ignore_index=IGNORE, reduction="none")
        correct_N[chunk.tokens] = log_probs_CV.argmax(-1) == targets_C
    return nats_N.view(targets_BT.shape), correct_N.view(targets_BT.shape)


class _NextToken(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_weight_VD: Tensor,
        targets_N: Tensor,
        softcap: float | None,
        chunk_tokens: int,
        grad_enabled: bool,
    ) -> Tensor:
        wanted = (grad_enabled and ctx.needs_input_grad[0], grad_enabled and ctx.needs_input_grad[1])
        loss, d_hidden_ND, d_weight_VD = _loss_and_gradients(hidden_ND, head_weight_VD, targets_N, softcap, chunk_tokens, wanted)
        ctx.gradients = (d_hidden_ND, d_weight_VD)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("next_token's gradients were handed out by an earlier backward(); compute the loss again")
        gradients, ctx.gradients = ctx.gradients, None  # they are scaled in place, and the optimizer's gradient may be this very memory
        d_hidden_ND, d_weight_VD = (None if gradient is None else gradient.mul_(d_loss) for gradient in gradients)
        return d_hidden_ND, d_weight_VD, None, None, None, None


def _loss_and_gradients(
    hidden_ND: Tensor, head_weight_VD: Tensor, targets_N: Tensor, softcap: float | None, chunk_tokens: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The loss and its gradients for hidden states and output matrix (None where not wanted)."""
    wants_hidden, wants_weight = wanted
    rows_ND, weight_VD = matmul_inputs(hidden_ND, head_weight_VD)
    ignored_N1 = (targets_N == IGNORE)[:, None]
    if not targets_N.is_cpu or ignored_N1.any():  # a GPU is not made to wait for the answer
        rows_ND = rows_ND.masked_fill(ignored_N1, 0.0)  # so that untrained rows add nothing to the matrix's gradient
    wide = wide_type(rows_ND.dtype)
    loss = torch.zeros((), dtype=wide, device=rows_ND.device)
    d_hidden_ND = torch.empty_like(rows_ND) if wants_hidden else None
    d_weight_VD = torch.empty_like(weight_VD, dtype=wide) if wants_weight else None
    for chunk in _chunks(rows_ND, weight_VD, softcap, chunk_tokens):
        nats, d_logits_CV = _differentiate(chunk, targets_N[chunk.tokens], wants_hidden or wants_weight)
        loss += nats
        if d_hidden_ND is not None:
            product(d_logits_CV, weight_VD, out=d_hidden_ND[chunk.tokens])
        if d_weight_VD is not None and wide == rows_ND.dtype:
            product(d_logits_CV.T, chunk.rows_CD, out=d_weight_VD, adds=chunk.tokens.start > 0)
        elif d_weight_VD is not None:
            product_VD = d_logits_CV.T @ chunk.rows_CD
            d_weight_VD = d_weight_VD.add_(product_VD) if chunk.tokens.start else d_weight_VD.copy_(product_VD)
    if d_hidden_ND is not None and rows_ND is not hidden_ND:  # masked or cast
        d_hidden_ND = d_hidden_ND.masked_fill_(ignored_N1, 0.0).to(hidden_ND.dtype)
    return loss, d_hidden_ND, None if d_weight_VD is None else d_weight_VD.to(head_weight_VD.dtype)


class _Chunk(NamedTuple):
    """Logits of some tokens, in memory that the next chunk uses again.

    Attributes:
        tokens: which.
        rows_CD: their hidden states.
        products_CV: the logits before the cap; the caller may overwrite them.
        logits_CV: the logits: the very same tensor where nothing is capped.
        slope_CV: of the cap at the products; None where nothing is capped.
        wide_CV: memory for log-probabilities; that of the products where both have one type.
    """

    tokens: slice
    rows_CD: Tensor
    products_CV: Tensor
    logits_CV: Tensor
    slope_CV: Tensor | None
    wide_CV: Tensor

    def log_probs(self) -> Tensor:
        """Log-probabilities, [C, V], in `wide_CV`: the kernels read a row before they write it."""
        return torch.log_softmax(self.logits_CV, -1, dtype=self.wide_CV.dtype, out=self.wide_CV)


def _differentiate(chunk: _Chunk, targets_C: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """The sum of a chunk's losses and, if wanted, its gradient by `products_CV`, in their type."""
    if with_gradient and chunk.slope_CV is None and chunk.products_CV.dtype == torch.float32 and calls.take(chunk.products_CV):
        return calls.next_token(chunk.products_CV, targets_C.contiguous(), IGNORE).sum(), chunk.products_CV
    log_probs_CV = chunk.log_probs()
    nats = F.nll_loss(log_probs_CV, targets_C, ignore_index=IGNORE, reduction="sum")
    if not with_gradient:
        return nats, log_probs_CV
    d_logits_CV = log_probs_CV.exp_()
    d_logits_CV.scatter_add_(1, targets_C.clamp(min=0)[:, None], d_logits_CV.new_full((len(targets_C), 1), -1.0))
    if chunk.slope_CV is not None:
        d_logits_CV = d_logits_CV.mul_(chunk.slope_CV)
    return nats, d_logits_CV if d_logits_CV.dtype == chunk.products_CV.dtype else chunk.products_CV.copy_(d_logits_CV)


def _chunks(rows_ND: Tensor, weight_VD: Tensor, softcap: float | None, chunk_tokens: int) -> Iterator[_Chunk]:
    num_tokens, vocab_size = rows_ND.shape[0], weight_VD.shape[0]
    length, wide = min(chunk_tokens, num_tokens), wide_type(rows_ND.dtype)
    if wide == rows_ND.dtype:
        products_CV = wide_CV = rows_ND.new_empty(length, vocab_size)
    else:  # 16-bit products are fast when rows begin aligned, which so costs the vocabulary no padding
        products_CV = rows_ND.new_empty(length, -(-vocab_size // 64) * 64)[:, :vocab_size]
        wide_CV = rows_ND.new_empty(length, vocab_size, dtype=wide)
    for start in range(0, max(num_tokens, 1), chunk_tokens):
        tokens = slice(start, min(start + chunk_tokens, num_tokens))
        rows_CD = rows_ND[tokens]
        products = product(rows_CD, weight_VD.T, out=products_CV[: len(rows_CD)])
        logits, slope = (products, None) if softcap is None else capped_with_slope(products, softcap)
        yield _Chunk(tokens, rows_CD, products, logits, slope, wide_CV[: len(rows_CD)])


def capped_with_slope(logits: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """cap tanh(logits / cap) (Gemma 2) and its slope, 1 - tanh^2, in fp32 or wider."""
    share = torch.tanh(logits.to(wide_type(logits.dtype)) / cap)
    return share * cap, 1 - share.square()


def matmul_inputs(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type that a product of them runs in: autocast's, where it is on and they are not float64."""
    kind = hidden_ND.device.type
    dtype = torch.promote_types(hidden_ND.dtype, weight_VD.dtype)
    if dtype != torch.float64 and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return hidden_ND.to(dtype), weight_VD.to(dtype)


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """The type that a softmax runs in: fp32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def chunk_length(given: int | None, weight_VD: Tensor) -> int:
    """Tokens whose logits exist at one time: as given, else as suits the vocabulary and the device. Raises ValueError under 1."""
    if given is None:
        return max(MIN_CHUNK_TOKENS, CHUNK_LOGITS.get(weight_VD.device.type, CHUNK_LOGITS_ELSEWHERE) // weight_VD.shape[0])
    if given < 1:
        raise ValueError(f"chunk_tokens is {given}; it must be at least 1")
    return given
