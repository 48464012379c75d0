"""Decoding compiled: rounds in which every reply goes on by one token, at shapes rounded up so that few compilations serve all.

Shape legend: R rows rounded up to a power of two, S slots of the longest sequence rounded up to a multiple of 256, D model width.
Rows flow in as the runner has them, hidden states flow out. On a GPU the whole step is one CUDA graph. Must not know requests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from framework.networks.base import Network
from framework.networks.cache import Cache, Group, View

SLOTS_MULTIPLE = 256


class FixedView(View):
    """A view made of tensors alone, whose shapes are all that a compilation depends on: one new token a sequence."""

    def __init__(self, cache: Cache, positions_R: Tensor, slots_R: Tensor, slots_RS: Tensor) -> None:
        self.cache, self.end, self.positions_BT, self.slots_T = cache, 0, positions_R[None], slots_R
        self._parts = [Group(positions_R, slots_RS, positions_R[:, None])]


class CompiledDecode:
    """The network's step for one new token of each row.

    Args:
        network: with a cache.
        cache: the engine's, whose memory keeps its place.
    """

    def __init__(self, network: Network, cache: Cache) -> None:
        self.network, self.cache = network, cache
        on_gpu = cache.device.type == "cuda"
        for memory in (cache.keys_LSKQ, cache.values_LSKQ):
            torch._dynamo.mark_static_address(memory)  # written in place: a CUDA graph must not copy it
        options: dict[str, Any] = {"mode": "reduce-overhead"} if on_gpu else {}
        self._step = torch.compile(self._forward, dynamic=False, **options)

    def __call__(self, ids: list[int], view: View) -> Tensor:
        """Hidden states of the rows' new tokens, [T, D]."""
        group = view.group(1)
        rows, slots = group.slots_RS.shape
        more_rows, more_slots = (1 << (rows - 1).bit_length()) - rows, -slots % SLOTS_MULTIPLE
        # what is added writes to slot 0 and reads it, which belongs to nobody
        ids_R, positions_R, slots_R = (
            F.pad(numbers, (0, more_rows)) for numbers in (torch.tensor(ids, device=self.cache.device), view.positions_BT[0], view.slots_T)
        )
        hidden_BTD = self._step(ids_R[None], positions_R, slots_R, F.pad(group.slots_RS, (0, more_slots, 0, more_rows)))
        return hidden_BTD[0, :rows].clone()  # the next replay of a CUDA graph overwrites it

    def _forward(self, ids_1R: Tensor, positions_R: Tensor, slots_R: Tensor, slots_RS: Tensor) -> Tensor:
        hidden_BTD: Tensor = self.network(ids_1R, cache=FixedView(self.cache, positions_R, slots_R, slots_RS))
        return hidden_BTD
