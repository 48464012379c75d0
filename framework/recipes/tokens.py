"""What recipes of next-token prediction share: the loss over the trained tokens of a TokenBatch, and how it is judged.

Token batches flow in; loss, perplexity, bits per byte and accuracy flow out.
Shape legend: B rows, T tokens, N trained ones, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.batches.base import Batches
from framework.batches.types import IGNORE, TokenBatch
from framework.errors import ConfigError
from framework.losses import next_token, token_statistics
from framework.networks.base import Network
from framework.networks.scalar_head import ScalarHead
from framework.recipes.metrics import TokenMetrics
from framework.recipes.recipe import Objective, Recipe


class TokenPrediction(Recipe):
    """Next-token prediction; the loss is the mean over all trained tokens of an optimizer step, micro-batches and ranks together."""

    _byte_lengths_V: Tensor | None = None

    def build_network(self, data: Batches) -> Network:
        """The network, which must write: a reward model is none."""
        network = super().build_network(data)
        if isinstance(network, ScalarHead):
            raise ConfigError(
                f"{type(self).__name__} trains a network that writes, and this one gives scores: start from the model it was made of."
            )
        return network

    def objective(self, batch: TokenBatch) -> Objective:
        """Summed negative log-likelihood of the targets, nats, and the number of targets."""
        hidden, targets = self._trained(batch)
        loss = next_token(hidden, self.network.head_weight_VD, targets, softcap=self.network.logit_softcap)
        return Objective(loss, (batch.targets_BT != IGNORE).sum())

    def new_metric(self) -> Metric:
        """`val/loss`, `val/perplexity`, `val/bits_per_byte`, `val/accuracy`."""
        return TokenMetrics()

    def evaluate(self, batch: TokenBatch) -> None:
        """Add a validation batch."""
        hidden, targets = self._trained(batch)
        weight_VD, softcap = self.network.head_weight_VD, self.network.logit_softcap
        nats, correct = token_statistics(hidden, weight_VD, targets, softcap=softcap)
        trained = targets != IGNORE
        if self._byte_lengths_V is None:
            self._byte_lengths_V = torch.from_numpy(self.data.tokenizer.byte_lengths()).to(nats.device)
        self.metric.update(nats, correct, trained, self._byte_lengths_V[targets[trained]].sum())

    def _trained(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Hidden states and what comes after them: [B, T, D] and [B, T], or [N, D] and [N] where the batch says which are trained."""
        if batch.places_2N is None:
            return self.network(batch.ids_BT, batch.positions_BT, batch.documents_BT), batch.targets_BT
        places = (batch.places_2N[0], batch.places_2N[1])
        return self.network.hidden_at(places, batch.ids_BT, batch.positions_BT, batch.documents_BT), batch.targets_BT[places]
