"""ORPO: fine-tuning on the chosen replies, and odds that favour them over the rejected ones, in one loss without a reference.

Pairs flow in, a network flows out. Shape legend: B pairs, R = 2B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import Metric

from framework.batches.types import PairBatch
from framework.networks.base import Network
from framework.recipes.metrics import PairMetrics
from framework.recipes.recipe import Objective, Recipe
from framework.recipes.sequences import sequence_log_probs
from framework.schedulers.base import Scheduler


class ORPO(Recipe):
    """Odds-ratio preference optimisation (arXiv 2403.07691, eq. 6).

    Args:
        network: a pretrained one (--init_from); it need not be fine-tuned before.
        optimizer: default AdamW.
        scheduler: factor of the learning rate at each update; default Constant.
        beta: weight of the odds-ratio loss beside the likelihood of the chosen replies.
        seed: decides dropout.
    """

    item = "pairs"

    def __init__(
        self,
        network: Callable[[], Network],
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        scheduler: Scheduler | None = None,
        beta: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(network, optimizer, scheduler, seed)
        if beta <= 0:
            raise ValueError(f"beta is {beta} and must be over 0")
        self.beta = beta

    def objective(self, batch: PairBatch) -> Objective:
        """Summed loss of the pairs and their number."""
        loss_B, log_odds_B = self._losses(batch)
        count = batch.weights_B.sum()
        self.measures.add("train/accuracy", (log_odds_B > 0).sum(), count)
        self.measures.add("train/log_odds_ratio", log_odds_B.sum(), count)
        return Objective((loss_B * batch.weights_B).sum(), count)

    def _losses(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """The loss of each pair, and the logarithm of the ratio of the odds of its two replies, [B] each."""
        chosen_B, rejected_B = sequence_log_probs(self.network, batch.ids_RT, batch.targets_RT).means_R.chunk(2)
        log_odds_B = log_odds(chosen_B) - log_odds(rejected_B)
        return -chosen_B - self.beta * F.logsigmoid(log_odds_B), log_odds_B

    def new_metric(self) -> Metric:
        """`val/loss`, `val/accuracy`, `val/margin` (of log-odds), `val/calibration_error`."""
        return PairMetrics()

    def evaluate(self, batch: PairBatch) -> None:
        """Add a validation batch."""
        loss_B, log_odds_B = self._losses(batch)
        self.metric.update(loss_B, log_odds_B.detach(), batch.weights_B)

    def flops_per_item(self) -> float | None:
        """Pairs differ in length."""
        return None


def log_odds(log_probs: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p, exact near p = 1."""
    return log_probs - torch.log(-torch.expm1(log_probs.clamp(max=-1e-7)))
