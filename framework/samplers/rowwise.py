"""Samplers with a single number as their setting: written once for a column of settings, one a row, used alone and in batches.

Shape legend: B requests, V vocabulary. Logits, histories and settings flow in, logits flow out. Must not know the engine or text.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from framework.samplers.base import History, Sampler


class Rowwise(Sampler):
    """A sampler of one number; a lone one is a batch of one setting, so it cannot differ from the same in a batch.

    Args:
        setting: float or int; on the CPU whatever the logits' device, so that reading it never waits for a device.
    """

    def __init__(self, setting: float) -> None:
        self.setting_B1 = torch.tensor([[setting]], dtype=torch.int64 if isinstance(setting, int) else torch.float64)

    @staticmethod
    @abstractmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Processed logits, [B, V], by the settings of the rows, [B, 1] or [1, 1]; rows whose setting changes nothing stay as they are."""

    @classmethod
    def together(cls, samplers: Sequence[Self]) -> Together:
        """Rows with different settings as one sampler."""
        return Together(samplers)

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Processed logits, [B, V]."""
        return logits_BV if self.changes_nothing else self.apply(logits_BV, history, self.setting_B1)


class Together(Sampler):
    """Samplers of one class, one a row, as a few tensor operations.

    Attributes:
        kind: the class.
        setting_B1: the rows' settings, on the CPU.
    """

    def __init__(self, samplers: Sequence[Rowwise]) -> None:
        self.kind = type(samplers[0])
        self.setting_B1 = torch.cat([sampler.setting_B1 for sampler in samplers])
        self.looks_back = any(sampler.looks_back for sampler in samplers)
        self.needs_vocabulary = any(sampler.needs_vocabulary for sampler in samplers)
        self.changes_nothing = all(sampler.changes_nothing for sampler in samplers)
        self.is_greedy = all(sampler.is_greedy for sampler in samplers)

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Processed logits, [B, V]."""
        return logits_BV if self.changes_nothing else self.kind.apply(logits_BV, history, self.setting_B1)
