"""What must hold before reinforcement learning spends anything: checked on the first rollout, before the first step.

A recipe and its first experience flow in; nothing flows out but an error. Shape legend: S replies, R tokens of a reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from framework.errors import UserError
from framework.losses import generalised_advantages
from framework.recipes.experience import Experience

if TYPE_CHECKING:
    from framework.recipes.policy import PolicyRecipe
    from framework.recipes.rollout_log import Written

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}  # nats; elsewhere (16-bit products) 5e-2


class SelfTestFailed(UserError):
    """Something that must hold before or during reinforcement learning does not: nothing was trained on it."""

    exit_code = 1


def check(recipe: PolicyRecipe, experience: Experience, written: Written) -> None:
    """Raise SelfTestFailed unless ratio and KL are what an untrained policy has, and every reply's score arrives at its last token."""
    bound = TOLERANCE.get(next(recipe.policy.parameters()).dtype, 5e-2)
    first = experience.select(range(min(len(experience.starts_S), recipe.prompts.batch_size)))
    with recipe.precision():
        if torch.is_autocast_enabled(recipe.device.type):
            bound = 5e-2
        again_N = recipe.token_log_probs(recipe.policy, first).log_probs_N
    log_ratio = float((again_N - first.log_probs_SR[first.mask_SR]).abs().max()) if len(again_N) else 0.0
    if not log_ratio <= bound:
        raise SelfTestFailed(
            f"before the first step the policy's probability ratio must be 1, and its logarithm is up to {log_ratio:.2g}: two passes over the same "
            "replies differ (is something of the network random, or in training mode?)."
        )
    if recipe.uses_reference:
        kl = float(((experience.log_probs_SR - experience.reference_log_probs_SR) * experience.mask_SR).abs().max())
        if not kl <= bound:
            raise SelfTestFailed(
                f"before the first step policy and reference must agree, and their log-probabilities differ by up to {kl:.2g}."
            )
    placed_S, expected_S = recipe.placed_scores(experience, written)
    off = float((placed_S - expected_S).abs().max()) if len(placed_S) else 0.0
    if not off <= 1e-3 * max(1.0, float(expected_S.abs().max()) if len(expected_S) else 1.0):
        raise SelfTestFailed(
            f"a reply's rewards must add up to its score less the KL, and one is off by {off:.2g}: a score was lost or moved."
        )


def check_gap(gap: float, bound: float) -> None:
    """Raise SelfTestFailed where engine and trainer differ in the log-probabilities of the same replies by more than `bound`, nats a token."""
    if gap > bound:
        raise SelfTestFailed(
            f"the engine's log-probabilities of its replies differ from the trainer's by {gap:.4f} nats a token, more than "
            f"model.max_logprob_gap {bound:g}: compute both in one precision, or set model.importance_cap and allow more."
        )


def undiscounted_returns(experience: Experience, rewards_SR: torch.Tensor) -> torch.Tensor:
    """Each reply's return at its first token with discount 1 and no critic, [S]: the sum of its rewards."""
    _, returns_SR = generalised_advantages(rewards_SR, torch.zeros_like(rewards_SR), experience.mask_SR, 1.0, 1.0)
    return returns_SR[:, 0]
