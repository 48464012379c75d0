"""Losses and what they are made of: pure functions of tensors. They know no networks, batches or recipes."""

from framework.losses.advantages import generalised_advantages, group_advantages, whiten
from framework.losses.log_probs import log_probs
from framework.losses.next_token import IGNORE, next_token, token_statistics
from framework.losses.policy import clipped_policy_loss, clipped_value_loss, kl_estimate
from framework.losses.preference import dpo_loss, preference_loss

__all__ = [
    "IGNORE",
    "clipped_policy_loss",
    "clipped_value_loss",
    "dpo_loss",
    "generalised_advantages",
    "group_advantages",
    "kl_estimate",
    "log_probs",
    "next_token",
    "preference_loss",
    "token_statistics",
    "whiten",
]
