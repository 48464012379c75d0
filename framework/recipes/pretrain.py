"""Pretraining: predict the next token of running text."""

from __future__ import annotations

from framework.recipes.tokens import TokenPrediction


class Pretrain(TokenPrediction):
    """Next-token prediction; the loss is the mean over all trained tokens of an optimizer step, micro-batches and ranks together."""
