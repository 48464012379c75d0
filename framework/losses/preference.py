"""Losses of pairs: how much better the chosen of two replies is than the rejected one. One number a pair; the recipe averages.

Shape legend: B pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

DPOKind = Literal["sigmoid", "ipo", "hinge", "robust"]


def preference_loss(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | None = None) -> Tensor:
    """-log sigmoid(chosen - rejected - margin), [B]: Bradley and Terry's model; margins as in Llama 2 (arXiv 2307.09288, eq. 2).

    Args:
        chosen_B: scores of the better replies.
        rejected_B: scores of the worse ones.
        margin_B: by how much the scores should differ at least; None: 0.
    """
    difference_B = chosen_B - rejected_B
    return -F.logsigmoid(difference_B if margin_B is None else difference_B - margin_B)


def dpo_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    beta: float,
    kind: DPOKind = "sigmoid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss of direct preference optimisation, [B], from log-probabilities of whole replies (nats).

    Args:
        chosen_B: of the better replies under the policy: summed over their tokens; for `ipo` averaged (as its authors' code does).
        rejected_B: of the worse ones.
        reference_chosen_B: the same under the reference.
        reference_rejected_B: the same.
        beta: how much a nat counts; the larger, the closer the policy stays to the reference.
        kind: sigmoid: DPO (arXiv 2305.18290), with label_smoothing conservative DPO; robust: its unbiased form for noisy labels
            (arXiv 2403.00409); hinge: SLiC's max(0, 1 - margin) (arXiv 2305.10425); ipo: (margin - 1 / (2 beta))^2 (arXiv 2310.12036).
        label_smoothing: share of pairs that are labelled the wrong way round; of `sigmoid` and `robust` (under 0.5) only.
    """
    margin_B = (chosen_B - rejected_B) - (reference_chosen_B - reference_rejected_B)
    if kind == "sigmoid":
        return -F.logsigmoid(beta * margin_B) * (1 - label_smoothing) - F.logsigmoid(-beta * margin_B) * label_smoothing
    if kind == "robust":
        right_B, wrong_B = -F.logsigmoid(beta * margin_B), -F.logsigmoid(-beta * margin_B)
        return ((1 - label_smoothing) * right_B - label_smoothing * wrong_B) / (1 - 2 * label_smoothing)
    if kind == "hinge":
        return torch.relu(1 - beta * margin_B)
    return (margin_B - 1 / (2 * beta)).square()
