"""Bytes of the tensors that are alive while something runs: the probe's measure of memory. The one module of the planner that imports torch.

Every operation's outputs are seen as they are made, and their storages' ends as they come; what was alive before is given to begin with.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TrackedTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which tensors' storages are counted.

    Args:
        alive: tensors to begin with.

    Attributes:
        bytes: of the storages alive now.
        peak_bytes: the most there were.
    """

    def __init__(self, alive: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak_bytes = 0
        self._sizes: dict[int, int] = {}
        for tensor in alive:
            self._see(tensor)

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: Tensor) -> None:
        if tensor.is_meta:
            return
        storage, key = tensor.untyped_storage(), storage_key(tensor)
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(storage, self._end, key)

    def _end(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)


def alive() -> list[Tensor]:
    """Every tensor that Python knows of."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor) and not thing.is_meta]


def storage_key(tensor: Tensor) -> int:
    """The same for tensors that share memory; another's may have it later."""
    return tensor.untyped_storage()._cdata


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Of the storages that tensors share."""
    storages = {storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Of everything an optimizer keeps."""
    return storage_bytes(value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
