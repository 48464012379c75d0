"""Samplers that look back: tokens that were there already become less likely.

Shape legend: B requests, V vocabulary, L longest token history. Logits and histories flow in, logits flow out.
Must not know the engine or text.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.samplers.base import History, Sampler


class RepetitionPenalty(Sampler):
    """Each token of the prompt and the reply, counted once, has its logit divided by the penalty, or multiplied if negative.

    The convention of CTRL (arXiv 1909.05858) as Hugging Face and vLLM have it.

    Args:
        penalty: over 1 discourages repetition, under 1 encourages it, 1 changes nothing.
    """

    def __init__(self, penalty: float) -> None:
        if not (math.isfinite(penalty) and penalty > 0.0):
            raise ValueError(f"repetition_penalty is {penalty} and must be a finite number over 0 (1 changes nothing)")
        self.penalty = penalty

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Penalised logits, [B, V]."""
        if self.penalty == 1.0:
            return logits_BV
        rows, columns = logits_BV.shape
        seen_BV = torch.zeros(rows, columns + 1, dtype=torch.bool, device=logits_BV.device)
        seen_BV = seen_BV.scatter(-1, history.tokens_BL + 1, True)[:, 1:]  # the padding, -1, falls into a column that is cut off
        penalised_BV = torch.where(logits_BV > 0, logits_BV / self.penalty, logits_BV * self.penalty)
        return torch.where(seen_BV, penalised_BV, logits_BV)
