"""What hands a DataModule's batches to Lightning, one process a rank and any number of workers.

Batches flow through. Must not know what is in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

ENDLESS = 2**50  # micro-batches: no run reaches it, and the sum over a million ranks still fits 64 bits


class Loader:
    """A DataLoader that says how long it is, but is none to Lightning, which would put its own sampler into it or warn.

    Args:
        batches: gives batches; each worker's share of them in turn.
        length: number of batches; a known one keeps Lightning from reading one ahead.
        num_workers: processes that read ahead; the order does not depend on it.
    """

    def __init__(self, batches: IterableDataset[Any], length: int, num_workers: int) -> None:
        self._length = length
        self._direct = batches if not num_workers and not torch.cuda.is_available() else None  # nothing for a DataLoader to do
        self._loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=num_workers,
            generator=torch.Generator(),  # its own, so that reading never draws from the run's random numbers
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader if self._direct is None else self._direct)

    def state_dict(self) -> dict[str, int]:
        """Nothing, which tells Lightning that the position is taken care of: it is the recipe's, and comes back as `first_batch`."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing either."""


def share(numbers: range) -> range:
    """This worker's numbers: DataLoader asks its workers in turn, which restores the order."""
    worker = get_worker_info()
    return numbers if worker is None else numbers[worker.id :: worker.num_workers]
