"""Losses of policy-gradient methods, element by element: the recipe masks, sums and normalises.

All tensors of a call have one shape, whatever it is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

KLKind = Literal["k1", "k2", "k3"]


def clipped_policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A): PPO's surrogate (arXiv 1707.06347, eq. 7), its bounds apart as in DAPO.

    Args:
        log_probs: of the tokens drawn, under the policy being trained; nats.
        old_log_probs: under the policy that drew them.
        advantages: constants.
        clip_low: how far the ratio may fall under 1.
        clip_high: how far it may rise over 1.
    """
    ratio = (log_probs - old_log_probs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """max((v - R)^2, (clip(v, v_old - clip, v_old + clip) - R)^2) / 2, as in OpenAI's PPO."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, kind: KLKind) -> Tensor:
    """Schulman's estimators of KL(policy || reference) at drawn tokens ("Approximating KL divergence", 2020); log r = reference - policy.

    In a reward take k1 (or any: only the number counts). As a loss, k2's gradient is the KL's own; k1's is zero on average, and k3's
    is biased (arXiv 2510.01555): GRPO's authors use it, so it is offered.

    Args:
        log_probs: under the policy; nats.
        reference_log_probs: under the reference.
        kind: k1: -log r; k2: (log r)^2 / 2; k3: r - 1 - log r.
    """
    log_ratio = reference_log_probs - log_probs
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return 0.5 * log_ratio.square()
    return log_ratio.expm1() - log_ratio
