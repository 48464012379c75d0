"""Advantages: how much better than expected what was done turned out. Constants of the policy loss, without a graph.

Shape legend: B replies, T tokens of a reply (padded on the right), P prompts, G replies to each.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP_EPSILON = 1e-4  # TRL's; keeps groups of almost equal rewards from being blown up


@torch.no_grad()
def generalised_advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, discount: float, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438): advantages and returns, [B, T], 0 at padding.

    A_t is the sum over l of (discount smoothing)^l delta_(t+l), delta_t = r_t + discount V_(t+1) - V_t; nothing follows a reply's last
    token. Returns are advantages plus values, before any whitening.

    Args:
        rewards_BT: a token's reward.
        values_BT: the critic's estimate before each token.
        mask_BT: true for a reply's tokens, which stand at its beginning.
        discount: gamma.
        smoothing: lambda; 1: Monte Carlo, 0: temporal difference.
    """
    rewards_BT, values_BT = rewards_BT * mask_BT, values_BT * mask_BT
    advantages_BT = torch.zeros_like(values_BT)
    following_B = next_value_B = torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        delta_B = rewards_BT[:, t] + discount * next_value_B - values_BT[:, t]
        following_B = (delta_B + discount * smoothing * following_B) * mask_BT[:, t]
        advantages_BT[:, t] = following_B
        next_value_B = values_BT[:, t]
    return advantages_BT, advantages_BT + values_BT


@torch.no_grad()
def whiten(values_BT: Tensor, mask_BT: Tensor, shift_mean: bool = True, moments: Tensor | None = None) -> Tensor:
    """Values scaled to variance 1 (unbiased, as TRL's) and, with `shift_mean`, mean 0, over the masked places; 0 elsewhere.

    Args:
        values_BT: what to scale.
        mask_BT: true where there is something.
        shift_mean: false: the mean stays as it is.
        moments: `moments_of` summed over several processes; None: of these values alone.
    """
    count, total, squares = (moments_of(values_BT, mask_BT) if moments is None else moments).unbind()
    mean = total / count
    variance = (squares - count * mean.square()).clamp(min=0) / (count - 1).clamp(min=1)
    whitened_BT = (values_BT.double() - mean) * torch.rsqrt(variance + 1e-8)
    return ((whitened_BT if shift_mean else whitened_BT + mean) * mask_BT).to(values_BT.dtype)


def moments_of(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Count, sum and sum of squares of the masked values, [3] in float64: additive over processes."""
    kept_BT = values_BT.double() * mask_BT
    return torch.stack([mask_BT.double().sum(), kept_BT.sum(), kept_BT.square().sum()])


@torch.no_grad()
def group_advantages(rewards_PG: Tensor, scale: bool = True) -> Tensor:
    """Each reply's reward less the mean of its group (arXiv 2402.03300), [P, G]; all 0 where a group's rewards are equal.

    Args:
        rewards_PG: NaN where a reply was not judged: it counts in no mean and gets 0.
        scale: divide by the group's unbiased standard deviation plus 1e-4, as TRL; false: Dr. GRPO (arXiv 2503.20783).
    """
    if rewards_PG.shape[1] < 2:
        raise ValueError("a group of one reply has no spread: give at least two replies a prompt")
    judged_PG = ~rewards_PG.isnan()
    count_P1 = judged_PG.sum(1, keepdim=True)
    mean_P1 = rewards_PG.nan_to_num(0.0).sum(1, keepdim=True) / count_P1.clamp(min=1)
    centred_PG = torch.where(judged_PG, rewards_PG - mean_P1, 0.0)
    if not scale:
        return centred_PG
    deviation_P1 = (centred_PG.square().sum(1, keepdim=True) / (count_P1 - 1).clamp(min=1)).sqrt()
    return centred_PG / (deviation_P1 + GROUP_EPSILON)
