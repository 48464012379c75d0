"""The kernels as functions of tensors. Callers ask `serve` first.

Shape legend: N tokens (rows), I inputs, O outputs, S slots of a cache, H query heads, K key-value heads, Q head width,
R sequences, M blocks of a sequence. Must not know networks or requests.

These run hundreds of times for each token, and a microsecond in each is a twentieth of an int8 step of a small network: that is why
arguments are not checked again, and why a row of dimensions in front is left as it is.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from framework.kernels.library import load

DTYPES = (torch.float32, torch.bfloat16)
PLAIN = (Tensor, nn.Parameter)  # not fake, distributed or otherwise wrapped


def available() -> bool:
    """Whether there are kernels here; compiles them the first time (seconds)."""
    return load() is not None


def serve(x: Tensor) -> bool:
    """Whether the kernels may take what is computed from x: nothing is trained, and they can be had for it."""
    return not torch.is_grad_enabled() and take(x)


def take(x: Tensor) -> bool:
    """Whether the kernels can be had for x: fp32 or bf16, on a CPU, uncompiled, where there are kernels. Gradients are the caller's care."""
    return x.is_cpu and not torch.compiler.is_compiling() and type(x) in PLAIN and x.dtype in DTYPES and available()


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None, "ask serve() first"
    return library


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x W^T + b over the last dimension, in fp32: x fp32 and contiguous, weights fp32 or bf16 and contiguous, the bias alike.

    The weights are read from memory once. A row's result is the same bits whatever rows are beside it.
    """
    outputs, inputs = weight_OI.shape
    out = x.new_empty(*x.shape[:-1], outputs)
    library = _library()
    function = library.linear_float32 if weight_OI.dtype == torch.float32 else library.linear_bfloat16
    bias = None if bias_O is None else bias_O.data_ptr()
    rows = x.numel() // inputs
    function(x.data_ptr(), weight_OI.data_ptr(), bias, out.data_ptr(), rows, inputs, outputs, torch.get_num_threads())
    return out


def product(a_NI: Tensor, b_IO: Tensor, start_O: Tensor | None, out_NO: Tensor, adds: bool) -> None:
    """out = start + A B, or out + A B: fp32 matrices of any strides, those of `out` contiguous rows.

    A number is summed in the same order whatever the number of rows, columns and threads.
    """
    numbers = (
        a_NI.data_ptr(),
        *a_NI.stride(),
        b_IO.data_ptr(),
        *b_IO.stride(),
        0 if start_O is None else start_O.data_ptr(),
        out_NO.data_ptr(),
        out_NO.stride(0),
        *out_NO.shape,
        a_NI.shape[1],
        adds,
    )
    given = array("q", numbers)
    if _library().product_float32(given.buffer_info()[0], torch.get_num_threads()):
        raise MemoryError(f"no memory for a product of {tuple(a_NI.shape)} by {tuple(b_IO.shape)}")


def next_token(logits_CV: Tensor, targets_C: Tensor, ignored: int) -> Tensor:
    """-log p(target) of each row in nats, [C]; the logits, fp32, become its gradient. Both are 0 where the target is `ignored`.

    Raises:
        IndexError: another target is no column.
    """
    losses_C = logits_CV.new_empty(len(logits_CV))
    pointers = logits_CV.data_ptr(), targets_C.data_ptr(), losses_C.data_ptr()
    if _library().next_token_float32(*pointers, *logits_CV.shape, ignored, torch.get_num_threads()):
        raise IndexError(f"a target is not among the {logits_CV.shape[1]} tokens: they go from {targets_C.min()} to {targets_C.max()}")
    return losses_C


def causal(heads_BTHQ: Sequence[Tensor], log_sums_BHT: Tensor, gradients_BTHQ: Sequence[Tensor] = ()) -> None:
    """Causal attention of whole sequences: fp32, a head's numbers side by side, a multiple of 4.

    Args:
        heads_BTHQ: query, key, value (of H / g heads) and out, which is written without gradients and read with them.
        log_sums_BHT: contiguous, likewise.
        gradients_BTHQ: those of query, key and value, which are written, and of out.
    """
    numbers: list[int] = []
    for part in (*heads_BTHQ, None, *gradients_BTHQ):
        numbers += [log_sums_BHT.data_ptr()] if part is None else [part.data_ptr(), *part.stride()[:3]]
    numbers += [0] * (33 - len(numbers))
    query, key = heads_BTHQ[:2]
    given = array("q", [*numbers, query.shape[0], query.shape[1], query.shape[2], key.shape[2], query.shape[3]])
    if _library().causal_float32(given.buffer_info()[0], torch.get_num_threads()):
        raise MemoryError(f"no memory for attention over {query.shape[1]} tokens")


def quantized_linear(bits: Literal[8, 4], x: Tensor, packed: Tensor, scales: Tensor, bias_O: Tensor | None, outputs: int) -> Tensor:
    """x W^T + b over the last dimension, in fp32: x and bias fp32 and contiguous, weights as `networks/quantized.py` packs them.

    x is rounded to 8 bits by row and group. A row's result is the same bits whatever rows are beside it.
    """
    inputs = x.shape[-1]
    out = x.new_empty(*x.shape[:-1], outputs)
    library = _library()
    function = library.linear_int8 if bits == 8 else library.linear_int4
    bias = None if bias_O is None else bias_O.data_ptr()
    rows, threads = x.numel() // inputs, torch.get_num_threads()
    function(x.data_ptr(), packed.data_ptr(), scales.data_ptr(), bias, out.data_ptr(), rows, inputs, outputs, threads)
    return out


def best(numbers_BC: Tensor) -> Tensor:
    """As `argmax` of each row, of equals the first, [B]: fp32; rows may lie apart, a row is contiguous and not empty."""
    rows, columns = numbers_BC.shape
    places_B = torch.empty(rows, dtype=torch.int64)
    _library().best_float32(numbers_BC.data_ptr(), places_B.data_ptr(), rows, columns, numbers_BC.stride(0), torch.get_num_threads())
    return places_B


def draw(logits_BV: Tensor, uniforms_B: Tensor, divisor_B1: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As `engine/draw.py`: tokens_B, int64, and valid_B, bool, of logits / divisor; both fp32 and contiguous, uniforms float64."""
    rows, columns = logits_BV.shape
    tokens_B, valid_B = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.bool)
    divisors = None if divisor_B1 is None else divisor_B1.data_ptr()
    pointers = (logits_BV.data_ptr(), divisors, uniforms_B.data_ptr(), tokens_B.data_ptr(), valid_B.data_ptr())
    _library().draw_float32(*pointers, rows, columns, torch.get_num_threads())
    return tokens_B, valid_B


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean of x^2 + eps) * weight over the last dimension: both fp32 and contiguous."""
    out = torch.empty_like(x)
    width = len(weight)
    _library().rms_norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.numel() // width, width, eps)
    return out


def rotate_(heads_NHQ: Tensor, cosines: Tensor, sines: Tensor) -> None:
    """Turn each head's pairs (i, i + Q / 2) in place, as `networks/attention.py` does: fp32.

    Args:
        heads_NHQ: its rows may lie apart (some of a row's heads); each head is contiguous, beside the one before.
        cosines, sines: Q / 2 for each row, contiguous.
    """
    rows, heads, width = heads_NHQ.shape
    _library().rotate(heads_NHQ.data_ptr(), cosines.data_ptr(), sines.data_ptr(), rows, heads, width, heads_NHQ.stride(0))


class Layers(NamedTuple):
    """A network's blocks as kernels/blocks.cpp has them.

    Attributes:
        layers, shape: the numbers and addresses of its structures Block and Shape, int64.
        floats: that it needs for itself, a token.
        eps: of the norms.
        tensors: what the addresses point into.
    """

    layers: array[int]
    shape: array[int]
    floats: int
    eps: float
    tensors: list[Tensor]


def blocks(hidden: Tensor, layers: Layers, tokens: list[int]) -> Tensor:
    """All blocks of a network for a few tokens, as kernels/blocks.cpp says; fp32, a new tensor.

    Args:
        hidden: fp32, one row a token.
        layers: the blocks.
        tokens: the numbers and addresses of the structure Tokens.
    """
    out, scratch = hidden.clone(memory_format=torch.contiguous_format), hidden.new_empty(tokens[0] * layers.floats)
    numbers = [layers.layers, layers.shape, array("q", tokens)]
    places = [part.buffer_info()[0] for part in numbers]
    _library().blocks(out.data_ptr(), *places, scratch.data_ptr(), layers.eps, torch.get_num_threads())
    return out


def attend(
    query_NHQ: Tensor,
    keys_SKQ: Tensor,
    values_SKQ: Tensor,
    tables_RM: Tensor,
    rows_N: Tensor,
    positions_N: Tensor,
    block_tokens: int,
    window: int | None = None,
) -> Tensor:
    """Attention of single tokens to a paged cache, fp32 [N, H, Q]; a token's result is the same bits whatever tokens are beside it.

    Token n belongs to sequence rows_N[n] and stands at p = positions_N[n]; it sees positions p - window + 1 (or 0) to p, which the
    cache must hold already. Position t of sequence r is in slot tables_RM[r, t // block_tokens] * block_tokens + t % block_tokens.

    Args:
        query_NHQ: fp32; not yet scaled: scores are multiplied by 1 / sqrt(Q). Rows may lie apart, a row is contiguous.
        keys_SKQ: fp32 or bf16; each key-value head serves H / K neighbouring query heads.
        values_SKQ: like the keys.
        tables_RM: int32; a sequence's blocks in order. Entries past its last position are not read.
        rows_N: int32.
        positions_N: int32.
        block_tokens: slots a block.
        window: None for all earlier positions.
    """
    num_tokens, num_heads, width = query_NHQ.shape
    out_NHQ = query_NHQ.new_empty(num_tokens, num_heads, width)
    library = _library()
    function = library.attend_float32 if keys_SKQ.dtype == torch.float32 else library.attend_bfloat16
    function(
        query_NHQ.data_ptr(),
        keys_SKQ.data_ptr(),
        values_SKQ.data_ptr(),
        tables_RM.data_ptr(),
        rows_N.data_ptr(),
        positions_N.data_ptr(),
        out_NHQ.data_ptr(),
        num_tokens,
        num_heads,
        keys_SKQ.shape[1],
        width,
        query_NHQ.stride(0),
        tables_RM.shape[1],
        block_tokens,
        window or 0,
        torch.get_num_threads(),
    )
    return out_NHQ
