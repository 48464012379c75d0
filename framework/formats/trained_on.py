"""What an adapter's base was made into before it was trained: its type, its context, its rotary positions. Tensors do not tell.

A network flows in, plain values flow out, and make another network the same. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from framework.networks.base import Network
from framework.networks.shape import RotaryScaling
from framework.networks.transformer import Transformer

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


def described(base: Network) -> dict[str, Any]:
    """Plain JSON values."""
    said: dict[str, Any] = {"dtype": str(base.head_weight_VD.dtype).removeprefix("torch."), "context_length": base.context_length}
    if isinstance(base, Transformer):
        scaling = base.shape.rotary_scaling
        said["rotary_scaling"] = None if scaling is None else asdict(scaling)
    return said


def restore(network: Network, said: Mapping[str, Any]) -> None:
    """Make a network what `described` says; without a word about something it stays."""
    if said.get("dtype") in DTYPES:
        network.to(DTYPES[said["dtype"]])
    if "rotary_scaling" in said and isinstance(network, Transformer):
        scaling = said["rotary_scaling"] and RotaryScaling(**said["rotary_scaling"])
        if scaling != network.shape.rotary_scaling:
            network.shape = replace(network.shape, rotary_scaling=scaling)
            network.context_length = said["context_length"]
