"""How a recipe is judged on held-out data, as torchmetrics: summed over batches and ranks, then divided once.

Shape legend: B rows, T tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenMetrics(Metric):
    """Loss, perplexity, bits per byte and accuracy of next-token prediction, each token counted once.

    Sums are float64: a float32 count stops at 16,777,216.
    """

    full_state_update = False
    nats: Tensor
    tokens: Tensor
    correct: Tensor
    num_bytes: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("nats", "tokens", "correct", "num_bytes"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nats_BT: Tensor, correct_BT: Tensor, trained_BT: Tensor, num_bytes: Tensor) -> None:
        """Add a batch.

        Args:
            nats_BT: negative log-likelihood of each target, 0 where nothing is trained.
            correct_BT: whether the target was the likeliest token.
            trained_BT: which positions count.
            num_bytes: bytes of text the counted targets stand for.
        """
        self.nats += nats_BT.double().sum()
        self.tokens += trained_BT.sum()
        self.correct += (correct_BT & trained_BT).sum()
        self.num_bytes += num_bytes

    def compute(self) -> dict[str, Tensor]:
        """`val/loss` (nats per token), `val/perplexity`, `val/bits_per_byte`, `val/accuracy`."""
        loss = self.nats / self.tokens
        return {
            "val/loss": loss,
            "val/perplexity": loss.exp(),
            "val/bits_per_byte": self.nats / (math.log(2) * self.num_bytes),
            "val/accuracy": self.correct / self.tokens,
        }
