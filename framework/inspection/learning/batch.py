"""What a micro-batch asked of the network and what it answered, with the loss that the recipe made of it.

A recipe and a micro-batch flow in, plain values flow out. Must not know how they are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from framework.batches.types import PairBatch, TokenBatch
from framework.errors import ConfigError
from framework.inspection.learning.replies import Pair, PolicyReply, pair, policy_reply
from framework.inspection.learning.tokens import TokenRow, token_rows
from framework.recipes.experience import Experience
from framework.recipes.policy import PolicyRecipe
from framework.recipes.recipe import Recipe


@dataclass(frozen=True)
class BatchTable:
    """What a micro-batch asked; one of the lists is filled.

    Attributes:
        kind: tokens, pairs or replies.
        shown, of: rows here and in the micro-batch.
        row_losses: summed loss of every row, shown or not; their sum is the micro-batch's.
        total, num_items: the recipe's own loss of the whole micro-batch, and what it is a mean over.
    """

    kind: str
    shown: int
    of: int
    row_losses: list[float]
    total: float
    num_items: float
    rows: list[TokenRow] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    replies: list[PolicyReply] = field(default_factory=list)


def batch_table(recipe: Recipe, batch: Any, rows: int, repeat: Callable[[], None]) -> BatchTable:
    """What the recipe's network makes of a micro-batch. Raises ConfigError for a kind of batch that cannot be shown.

    Args:
        recipe: with the network as it was.
        batch: a micro-batch.
        rows: so many of its rows are shown.
        repeat: sets the generators as they were, so that dropout leaves out the same.
    """
    repeat()
    with recipe.precision():
        whole = recipe.objective(batch)
    total, num_items = whole.total.item(), whole.num_items.item()
    if isinstance(batch, TokenBatch):
        shown, losses = token_rows(recipe, batch, rows, repeat)
        return BatchTable("tokens", len(shown), len(losses), losses, total, num_items, rows=shown)
    if isinstance(batch, PairBatch):
        counted = [row for row in range(len(batch.weights_B)) if batch.weights_B[row]]
        pairs = [pair(recipe, batch, row, repeat) for row in counted]
        return BatchTable("pairs", min(rows, len(pairs)), len(pairs), [one.loss for one in pairs], total, num_items, pairs=pairs[:rows])
    if isinstance(batch, Experience) and isinstance(recipe, PolicyRecipe):
        replies = [policy_reply(recipe, batch.select([row]), repeat) for row in range(len(batch.starts_S))]
        losses = [one.loss for one in replies]
        return BatchTable("replies", min(rows, len(replies)), len(replies), losses, total, num_items, replies=replies[:rows])
    raise ConfigError(
        f"{type(recipe).__name__} trains on {type(batch).__name__}, of which there is no table; a step is shown of recipes that train on "
        "TokenBatch (Pretrain, SFT), PairBatch (DPO, RewardModel) or Experience (PPO, GRPO)."
    )
