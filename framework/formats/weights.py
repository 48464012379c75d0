"""What a network's weights are read from, whatever file they lie in: named tensors, one at a time.

    safetensors files (tensor_files.py) and GGUF files (gguf/) -> Weights -> a network, or another file

Names are those of the published architecture. Must not know what a tensor is to a network (formats.convert does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Weights(Protocol):
    """Named tensors of a file or several; sizes are known before anything is read."""

    @property
    def names(self) -> Sequence[str]:
        """Every tensor's name."""

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type, once read."""

    def tensor(self, name: str) -> Tensor:
        """A tensor; nothing of it is kept here. Raises CheckpointError naming the file when it is damaged."""


class InMemory:
    """Weights that are in memory already, with the part of `Weights`.

    Args:
        tensors: by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.names = list(tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type."""
        return self._tensors[name].dtype

    def tensor(self, name: str) -> Tensor:
        """A tensor."""
        return self._tensors[name]


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


def widest(weights: Weights, names: Sequence[str]) -> torch.dtype:
    """The narrowest type that holds every one of these tensors exactly."""
    dtypes = {weights.dtype(name) for name in names}
    found = dtypes.pop()
    for dtype in dtypes:
        found = torch.promote_types(found, dtype)
    return found
