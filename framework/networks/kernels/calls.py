"""The kernels as functions of tensors. Callers ask `available` first; what is given must be contiguous and on the CPU.

Shape legend: N tokens (rows), I inputs, O outputs, S slots of a cache, H query heads, K key-value heads, Q head width,
R sequences, M blocks of a sequence. Must not know networks or requests.
"""

from __future__ import annotations

import ctypes
from typing import Literal

import torch
from torch import Tensor

from framework.networks.kernels.library import load


def available() -> bool:
    """Whether the kernels can be called; compiles them the first time (seconds)."""
    return load() is not None


def _library() -> ctypes.CDLL:
    library = load()
    assert library is not None, "ask available() first"
    return library


def linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x W^T + b in fp32, [N, O]: fp32 rows, weights in fp32 or bf16 (the bias alike).

    The weights are read once for up to six rows at a time. A row's result is the same bits whatever rows are beside it.
    """
    rows, inputs = x_NI.shape
    outputs = weight_OI.shape[0]
    out_NO = x_NI.new_empty(rows, outputs)
    library = _library()
    function = library.linear_float32 if weight_OI.dtype == torch.float32 else library.linear_bfloat16
    bias = None if bias_O is None else bias_O.data_ptr()
    function(x_NI.data_ptr(), weight_OI.data_ptr(), bias, out_NO.data_ptr(), rows, inputs, outputs, torch.get_num_threads())
    return out_NO


def quantized_linear(bits: Literal[8, 4], x_NI: Tensor, packed: Tensor, scales: Tensor, bias_O: Tensor | None, outputs: int) -> Tensor:
    """x W^T + b in fp32, [N, O], with weights as `networks/quantized.py` packs them; x is rounded to 8 bits by row and group.

    A row's result is the same bits whatever rows are beside it.
    """
    rows, inputs = x_NI.shape
    out_NO = x_NI.new_empty(rows, outputs)
    library = _library()
    function = library.linear_int8 if bits == 8 else library.linear_int4
    bias = None if bias_O is None else bias_O.data_ptr()
    function(
        x_NI.data_ptr(), packed.data_ptr(), scales.data_ptr(), bias, out_NO.data_ptr(), rows, inputs, outputs, torch.get_num_threads()
    )
    return out_NO


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
        query_NHQ: fp32; not yet scaled: scores are multiplied by 1 / sqrt(Q).
        keys_SKQ: fp32 or bf16; each key-value head serves H / K neighbouring query heads.
        values_SKQ: like the keys.
        tables_RM: int32; a sequence's blocks in order. Entries past its last position are not read.
        rows_N: int32.
        positions_N: int32.
        block_tokens: slots a block.
        window: None for all earlier positions.
    """
    num_tokens, num_heads, width = query_NHQ.shape
    out_NHQ = torch.empty_like(query_NHQ)
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
        tables_RM.shape[1],
        block_tokens,
        window or 0,
        torch.get_num_threads(),
    )
    return out_NHQ
