"""Supervised fine-tuning: predict the replies of demonstrations, token by token."""

from __future__ import annotations

from framework.recipes.tokens import TokenPrediction


class SFT(TokenPrediction):
    """Next-token prediction on replies only; the loss is the mean over all trained tokens of an optimizer step, micro-batches and ranks together."""
