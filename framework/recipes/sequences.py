"""Log-probabilities of whole replies under a network, which DPO compares.

Shape legend: R rows, T tokens a row, N trained tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framework.batches.types import IGNORE
from framework.losses import log_probs
from framework.networks.base import Network


class SequenceLogProbs(NamedTuple):
    """Of each row's trained tokens: their log-probabilities summed, nats, and their number."""

    sums_R: Tensor
    counts_R: Tensor

    @property
    def means_R(self) -> Tensor:
        """Log-probability a token."""
        return self.sums_R / self.counts_R.clamp(min=1)


def sequence_log_probs(network: Network, ids_RT: Tensor, targets_RT: Tensor) -> SequenceLogProbs:
    """Log-probabilities of the targets that are not IGNORE; padding on the right changes nothing."""
    trained_RT = targets_RT != IGNORE
    rows_N, columns_N = trained_RT.nonzero(as_tuple=True)
    hidden_ND = network.hidden_at((rows_N, columns_N), ids_RT)
    kept_N, _ = log_probs(hidden_ND, network.head_weight_VD, targets_RT[rows_N, columns_N], softcap=network.logit_softcap)
    sums_R = torch.zeros(len(ids_RT), dtype=kept_N.dtype, device=kept_N.device).index_add(0, rows_N, kept_N)
    return SequenceLogProbs(sums_R, trained_RT.sum(1))
