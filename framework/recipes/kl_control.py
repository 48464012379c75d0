"""How much a nat of KL to the reference costs, rollout by rollout. A number flows in, a number flows out.

Source: Ziegler et al. 2019 ("Fine-tuning language models from human preferences", section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

MOST = 0.2  # by which a relative error counts at most


@dataclass
class KLControl:
    """The coefficient of the KL penalty: fixed, or drawn towards a target.

    Args:
        coefficient: now, in reward a nat.
        target: nats a reply that the policy should be from the reference; None: the coefficient is fixed.
        horizon: replies over which the coefficient follows an error.
    """

    coefficient: float
    target: float | None
    horizon: int

    def update(self, kl: float, replies: int) -> None:
        """Follow a rollout: of its mean summed KL (nats a reply), and its number of replies."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -MOST), MOST)
            self.coefficient *= 1 + error * replies / self.horizon
