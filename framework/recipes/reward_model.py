"""The reward model: learns from preference pairs to score replies.

Pairs flow in, a network with a scalar head flows out that gives the preferred replies the higher scores.
Shape legend: B pairs, R = 2B rows, T tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from framework.batches.preferences import Preferences
from framework.batches.types import IGNORE, PairBatch
from framework.errors import ConfigError
from framework.losses import preference_loss
from framework.networks.base import Network
from framework.networks.scalar_head import ScalarHead
from framework.recipes.metrics import PairMetrics
from framework.recipes.recipe import Objective, Recipe
from framework.schedulers.base import Scheduler

REFERENCE_PAIRS = 1024  # of the training part, whose replies' scores get mean 0 and deviation 1 at the end


class RewardModel(Recipe):
    """Bradley and Terry's model of preferences: -log sigmoid(score of the chosen - score of the rejected - margin).

    The usual settings are one epoch, a rate that falls to 0, no dropout (arXiv 2203.02155, 2307.09288).

    Args:
        network: a ScalarHead; a model directory with --init_from is its base.
        optimizer: default AdamW.
        scheduler: factor of the learning rate at each update; default Constant.
        center_rewards_coefficient: weight of (score of the chosen + score of the rejected)^2, which keeps scores near 0
            (arXiv 2312.09244); 0: off; 0.01 is usual.
        seed: decides the head's first weights and dropout.
        non_finite: what a step with a non-finite loss or gradient does; it never changes anything: `skip` goes on, `stop` ends the run.
        max_non_finite_steps: with `skip`, the run ends after this many such steps in a row.
    """

    item = "pairs"
    network: ScalarHead

    def __init__(
        self,
        network: Callable[[], Network],
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        scheduler: Scheduler | None = None,
        center_rewards_coefficient: float = 0.0,
        seed: int = 0,
        non_finite: Literal["skip", "stop"] = "skip",
        max_non_finite_steps: int = 10,
    ) -> None:
        super().__init__(network, optimizer, scheduler, seed, non_finite, max_non_finite_steps)
        self.center_rewards_coefficient = center_rewards_coefficient

    def build_network(self, data: Any) -> Network:
        """The network, which must give scores."""
        network = super().build_network(data)
        if not isinstance(network, ScalarHead):
            raise ConfigError(
                f"RewardModel trains a network that gives a score, and model.network is a {type(network).__name__}: wrap it with "
                "--model.network ScalarHead (and --init_from for its base)."
            )
        return network

    def _values(self, batch: PairBatch) -> Tensor:
        """The head's numbers, [R]; a reply starts after the first place whose target is trained."""
        starts_R = (batch.targets_RT != IGNORE).int().argmax(1) + 1
        return self.network.pooled_values(batch.ids_RT, batch.lengths_R, starts_R)

    def objective(self, batch: PairBatch) -> Objective:
        """Summed loss of the pairs, nats, and their number."""
        chosen_B, rejected_B = self._values(batch).chunk(2)
        loss_B = preference_loss(chosen_B, rejected_B, batch.margins_B)
        if self.center_rewards_coefficient:
            loss_B = loss_B + self.center_rewards_coefficient * (chosen_B + rejected_B).square()
        count = batch.weights_B.sum()
        self.measures.add("train/accuracy", (chosen_B > rejected_B).sum(), count)
        self.measures.add("train/margin", (chosen_B - rejected_B).sum(), count)
        return Objective((loss_B * batch.weights_B).sum(), count)

    def new_metric(self) -> Metric:
        """`val/loss`, `val/accuracy`, `val/margin`, `val/calibration_error`."""
        return PairMetrics()

    def evaluate(self, batch: PairBatch) -> None:
        """Add a validation batch."""
        chosen_B, rejected_B = self._values(batch).chunk(2)
        self.metric.update(preference_loss(chosen_B, rejected_B), chosen_B - rejected_B, batch.weights_B)

    def flops_per_item(self) -> float | None:
        """Of a pair, both sides at the length of the context: an upper bound, so none."""
        return None

    def save_model(self, directory: Path) -> None:
        """Normalise the scores over training replies, then write the model directory."""
        mean, deviation = self.reference_scores()
        self.network.normalise(mean, deviation)
        print(f"scores of training replies had mean {mean:.3f} and deviation {deviation:.3f}: normalised in the model", file=sys.stderr)
        super().save_model(directory)

    @torch.no_grad()
    def reference_scores(self) -> tuple[float, float]:
        """Mean and deviation of the head's numbers for both replies of the first pairs of the training part."""
        data = self.data
        assert isinstance(data, Preferences)
        self.network.eval()
        values: list[Tensor] = []
        for start in range(0, min(len(data.train), REFERENCE_PAIRS), data.batch_size):
            pairs = data.train[start : start + data.batch_size]
            batch = data.collate(range(start, start + len(pairs)), pairs, len(pairs))
            batch = data.transfer_batch_to_device(batch, self.device, 0)
            values.append(self._values(batch).double())
        every = torch.cat(values)
        return every.mean().item(), every.std().item() or 1.0
