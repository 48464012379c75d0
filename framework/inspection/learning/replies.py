"""Whole replies as a network learns from them: pairs of them, and those that a policy wrote, each by the recipe's own loss.

A recipe and one pair or reply flow in, plain values flow out. Must not know how they are shown.

Shape legend: S replies, R tokens of a reply, N trained tokens; of pairs R rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from framework.batches.types import IGNORE, PairBatch
from framework.inspection.learning.tokens import text_of
from framework.inspection.tokens import token_text
from framework.recipes.experience import Experience
from framework.recipes.policy import PolicyRecipe
from framework.recipes.ppo import PPO
from framework.recipes.recipe import Objective, Recipe
from framework.training.measures import Measures


@dataclass(frozen=True)
class Pair:
    """Two replies to a prompt.

    Attributes:
        prompt, chosen, rejected: as text.
        loss: of the pair, by the recipe.
        figures: what the recipe measures of it: its margin, say.
    """

    prompt: str
    chosen: str
    rejected: str
    loss: float
    figures: dict[str, float]


@dataclass(frozen=True)
class ReplyToken:
    """A token that the policy wrote and is now trained on.

    Attributes:
        token: its text.
        log_prob: under the policy at this step, nats.
        old_log_prob: under the policy that wrote it.
        ratio: the first's probability over the second's, which the loss clips.
        advantage: how much better than expected it was.
        further: of the recipes that have them: reference_log_prob, value, return.
    """

    token: str
    log_prob: float
    old_log_prob: float
    ratio: float
    advantage: float
    further: dict[str, float]


@dataclass(frozen=True)
class PolicyReply:
    """A reply with its prompt; `loss` and `figures` as of Pair."""

    prompt: str
    tokens: list[ReplyToken]
    loss: float
    figures: dict[str, float]


def _alone(recipe: Recipe, batch: Any, repeat: Callable[[], None]) -> tuple[Objective, dict[str, float]]:
    """The recipe's loss of a batch of one, and what it measures of it."""
    recipe.measures = Measures()
    repeat()
    with recipe.precision(), torch.no_grad():
        objective = recipe.objective(batch)
    figures = {name.rpartition("/")[2]: (total / count).item() for name, (total, count) in recipe.measures.take().items()}
    return objective, figures


def pair(recipe: Recipe, batch: PairBatch, row: int, repeat: Callable[[], None]) -> Pair:
    """A pair of a batch; `repeat` as of `batch_table`."""
    num_pairs, tokenizer = len(batch.weights_B), recipe.data.tokenizer
    both = torch.tensor([row, num_pairs + row], device=batch.ids_RT.device)
    one = PairBatch(*(field[both] for field in batch[:3]), *(field[row : row + 1] for field in batch[3:]))
    objective, figures = _alone(recipe, one, repeat)
    texts = []
    for ids, targets, length in zip(one.ids_RT.tolist(), one.targets_RT.tolist(), one.lengths_R.tolist()):
        start = 1 + next(place for place, target in enumerate(targets) if target != IGNORE)
        texts.append((text_of(tokenizer, ids[:start]), text_of(tokenizer, ids[start:length])))
    return Pair(texts[0][0], texts[0][1], texts[1][1], objective.total.item(), figures)


def policy_reply(recipe: PolicyRecipe, one: Experience, repeat: Callable[[], None]) -> PolicyReply:
    """A reply that stands alone in its batch; `repeat` as of `batch_table`."""
    tokenizer, mask_SR = recipe.data.tokenizer, one.mask_SR
    prompt = text_of(tokenizer, one.ids_ST[0, : int(one.starts_S[0])].tolist())
    if not mask_SR.any():
        return PolicyReply(prompt, [], 0.0, {})
    objective, figures = _alone(recipe, one, repeat)
    repeat()
    with recipe.precision(), torch.no_grad():
        now_N = recipe.token_log_probs(recipe.policy, one).log_probs_N
    there = {"reference_log_prob": one.reference_log_probs_SR} if recipe.uses_reference else {}
    if isinstance(recipe, PPO):
        there |= {"value": one.values_SR, "return": one.returns_SR}
    old_N = one.log_probs_SR[mask_SR]
    advantages_N = one.advantages_SR[mask_SR]
    tokens = [
        ReplyToken(
            token=token_text(tokenizer, token),
            log_prob=now_N[place].item(),
            old_log_prob=old_N[place].item(),
            ratio=(now_N[place] - old_N[place]).exp().item(),
            advantage=advantages_N[place].item(),
            further={name: values_SR[mask_SR][place].item() for name, values_SR in there.items()},
        )
        for place, token in enumerate(one.targets_N.tolist())
    ]
    return PolicyReply(prompt, tokens, objective.total.item(), figures)
