"""The blocks of a Llama-shaped Transformer in one call of our kernels, for the few new tokens of a decoding step on a CPU.

Shape legend: N new tokens, D model width. Hidden states flow in and out; keys and values go into the cache. The modules keep the
weights and say what is computed: where anything is otherwise than the kernel has it (another kind of norm, a hook, a wrapped layer,
gradients), `run` declines and the modules run themselves. Must not know requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from framework.kernels import calls
from framework.networks.cache import View
from framework.networks.linear import MOST_ROWS, Linear
from framework.networks.shape import NetworkShape

Numbers = list[int]


def run(blocks: Sequence[nn.Module], shape: NetworkShape, hidden_BTD: Tensor, turn: Any, cache: View) -> Tensor | None:
    """Hidden states after all blocks, [1, N, D]; None where the modules have to run themselves."""
    num_tokens = hidden_BTD.shape[1]
    if not calls.serve(hidden_BTD) or hidden_BTD.dtype != torch.float32 or num_tokens > MOST_ROWS or turn is None or not _is_llama(shape):
        return None
    few = cache.few
    if few is None or len(few.tokens_N) < num_tokens or cache.cache.keys_LSKQ.dtype != torch.float32:
        return None
    layers: Numbers = []
    for block in blocks:
        numbers = _block(block)
        if numbers is None:
            return None
        layers += numbers
    cosines, sines = turn
    if len(cosines) != 1 or cosines.shape[1] != num_tokens:
        return None
    keys, values = cache.cache.keys_LSKQ, cache.cache.values_LSKQ
    sizes = [len(blocks), shape.width, shape.num_heads, shape.kv_heads, shape.query_width, shape.inner_width, shape.sliding_window or 0]
    pointers = [cosines.contiguous(), sines.contiguous(), keys, values, cache.slots_T, few.tables_RM, few.rows_N, few.positions_N]
    cos, sin, key, value, slots, tables, rows, positions = (tensor.data_ptr() for tensor in pointers)
    tokens = [
        num_tokens,
        cos,
        sin,
        key,
        value,
        keys.stride(0),
        slots,
        tables,
        rows,
        positions,
        few.tables_RM.shape[1],
        few.block_tokens,
    ]
    widths = 2 * shape.width + 2 * shape.num_heads * shape.query_width + 2 * shape.kv_heads * shape.query_width + 2 * shape.inner_width
    return calls.blocks(hidden_BTD, layers, sizes, tokens, num_tokens * widths, shape.norm_eps)


def _is_llama(shape: NetworkShape) -> bool:
    """Whether the kernel computes the whole of this shape, with one rotation and one window for all layers."""
    return (
        shape.norm == "rms"
        and shape.positions == "rotary"
        and shape.feedforward == "swiglu"
        and not shape.output_norms
        and shape.windowed_layers is None
        and shape.unrotated_layers is None
        and shape.attention_scale_width is None
        and shape.attention_softcap is None
    )


def _block(block: nn.Module) -> Numbers | None:
    """A block as kernels/blocks.cpp reads it; None if it is not what the kernel computes."""
    attention, feedforward = block._modules["attention"], block._modules["feedforward"]
    norms = [block._modules["attention_norm"], block._modules["feedforward_norm"]]
    assert attention is not None and feedforward is not None
    norms += [attention._modules.get("query_norm"), attention._modules.get("key_norm")]
    matrices = [attention._modules["qkv"], attention._modules["out"], *(feedforward._modules[name] for name in ("gate", "up", "down"))]
    if any(_is_hooked(module) for module in (block, attention, feedforward)):
        return None
    numbers: Numbers = []
    for norm in norms:
        weight = None if norm is None else norm._parameters["weight"]
        if norm is not None and (weight is None or _is_hooked(norm) or weight.dtype != torch.float32):
            return None
        numbers.append(0 if weight is None else weight.data_ptr())
    for module in matrices:
        found = None if module is None or _is_hooked(module) else _matrix(module)
        if found is None:
            return None
        numbers += found
    return numbers


def _matrix(module: nn.Module) -> Numbers | None:
    bias = module._parameters.get("bias")
    if bias is not None and bias.dtype != torch.float32:
        return None
    shift = 0 if bias is None else bias.data_ptr()
    if type(module) is Linear:
        weight = module._parameters["weight"]
        assert weight is not None
        if weight.dtype != torch.float32 or not weight.is_contiguous() or type(weight) not in calls.PLAIN:
            return None
        return [32, weight.data_ptr(), 0, shift]
    kernel = getattr(module, "for_kernel", None)  # a quantised layer, or one with an adapter
    numbers = None if kernel is None else kernel()
    return None if numbers is None else [*numbers, shift]


def _is_hooked(module: nn.Module) -> bool:
    """Whether something wants to see this module run."""
    own = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(own or hooks._global_forward_hooks or hooks._global_forward_pre_hooks) or "forward" in module.__dict__
