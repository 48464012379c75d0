"""How a recipe is judged on held-out data, as torchmetrics: summed over batches and ranks, then divided once.

Shape legend: B rows (or pairs), T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric


class Sums(Metric):
    """A metric whose states are sums in float64, in whatever precision the network is: a float32 count stops at 16,777,216."""

    full_state_update = False

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = "") -> nn.Module:
        moved: nn.Module = super()._apply(fn, exclude_state)
        for name, default in self._defaults.items():
            assert isinstance(default, Tensor)
            self._defaults[name] = default.double()
            setattr(self, name, getattr(self, name).double())
        return moved


class TokenMetrics(Sums):
    """Loss, perplexity, bits per byte and accuracy of next-token prediction, each token counted once."""

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


class PairMetrics(Sums):
    """Loss, accuracy, margin and calibration of preferences, each pair counted once.

    The calibration error is the expected one over ten bins of confidence (Guo et al. 2017): how far sigmoid(margin), the probability
    that the model gives to its own judgement, is from how often that is right.
    """

    BINS = 10
    loss: Tensor
    pairs: Tensor
    correct: Tensor
    margin: Tensor
    confidence_K: Tensor
    right_K: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("loss", "pairs", "correct", "margin"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("confidence_K", "right_K"):
            self.add_state(name, torch.zeros(self.BINS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss_B: Tensor, margin_B: Tensor, weights_B: Tensor) -> None:
        """Add a batch.

        Args:
            loss_B: of each pair.
            margin_B: by how much the chosen reply scores higher, in nats of preference.
            weights_B: 1 where a pair counts, 0 where it fills a batch; a tie is half right.
        """
        weights_B = weights_B.double()
        right_B = ((margin_B > 0).double() + 0.5 * (margin_B == 0).double()) * weights_B
        confidence_B = margin_B.double().abs().sigmoid()
        place_B = ((confidence_B - 0.5) * 2 * self.BINS).long().clamp(0, self.BINS - 1)
        self.loss += (loss_B.double() * weights_B).sum()
        self.pairs += weights_B.sum()
        self.correct += right_B.sum()
        self.margin += (margin_B.double() * weights_B).sum()
        self.confidence_K.index_add_(0, place_B, confidence_B * weights_B)
        self.right_K.index_add_(0, place_B, right_B)

    def compute(self) -> dict[str, Tensor]:
        """`val/loss`, `val/accuracy`, `val/margin`, `val/calibration_error`."""
        return {
            "val/loss": self.loss / self.pairs,
            "val/accuracy": self.correct / self.pairs,
            "val/margin": self.margin / self.pairs,
            "val/calibration_error": (self.confidence_K - self.right_K).abs().sum() / self.pairs,
        }


class RewardMetrics(Sums):
    """Mean reward, length and share of finished replies over held-out prompts, each counted once."""

    score: Tensor
    judged: Tensor
    replies: Tensor
    length: Tensor
    finished: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("score", "judged", "replies", "length", "finished"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores_B: Tensor, lengths_B: Tensor, finished_B: Tensor) -> None:
        """Add replies.

        Args:
            scores_B: NaN for one that could not be judged: it counts in the share of those only.
            lengths_B: tokens of each.
            finished_B: 1 for one that ended by itself.
        """
        self.score += scores_B.nan_to_num(0.0).double().sum()
        self.judged += scores_B.isfinite().sum()
        self.replies += len(scores_B)
        self.length += lengths_B.double().sum()
        self.finished += finished_B.double().sum()

    def compute(self) -> dict[str, Tensor]:
        """`val/reward`, `val/length` (tokens), `val/finished`, `val/not_judged` (shares)."""
        return {
            "val/reward": self.score / self.judged,
            "val/length": self.length / self.replies,
            "val/finished": self.finished / self.replies,
            "val/not_judged": 1 - self.judged / self.replies,
        }
