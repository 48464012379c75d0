"""Warnings of what goes wrong in reinforcement learning: KL that runs away, or rewards that grow with nothing but length.

Figures of each rollout flow in, warnings flow out. Must not know where the figures come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

PATIENCE = 3  # rollouts in a row before a suspicion is said
NEGATIVE_KL = -0.05  # nats a reply: sampling noise stays above it
LENGTH_CORRELATION = 0.6
LENGTH_GROWTH = 1.5


@dataclass
class Alarms:
    """Looks at one rollout after the other; says each thing when it begins.

    Args:
        max_kl: nats a reply that the policy may be from the reference.
    """

    max_kl: float
    first_length: float = 0.0
    negative: int = 0
    above: int = 0
    by_length: int = 0

    def look(self, kl: float, score_length_correlation: float, length: float) -> list[str]:
        """What is to be said after a rollout.

        Args:
            kl: mean over replies of the summed KL to the reference, nats.
            score_length_correlation: of the replies' scores and lengths, -1 to 1.
            length: mean tokens of a reply.
        """
        self.first_length = self.first_length or length
        self.negative = self.negative + 1 if kl < NEGATIVE_KL else 0
        self.above = self.above + 1 if kl > self.max_kl else 0
        grown = length > LENGTH_GROWTH * self.first_length and score_length_correlation > LENGTH_CORRELATION
        self.by_length = self.by_length + 1 if grown else 0
        said: list[str] = []
        if self.negative == PATIENCE:
            said.append(
                f"the KL to the reference has been negative ({kl:.3f}) for {PATIENCE} rollouts: replies and log-probabilities do not belong together"
            )
        if self.above == 1:
            said.append(
                f"the KL to the reference is {kl:.2f} nats a reply, over {self.max_kl:g}: raise kl_coef, or lower the learning rate"
            )
        if self.by_length == PATIENCE:
            said.append(
                f"replies are {length / self.first_length:.1f} times as long as at first, and the longer, the better judged "
                f"(correlation {score_length_correlation:.2f}): the reward may be hacked by length"
            )
        return said

    def state_dict(self) -> dict[str, float]:
        """The counters, for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take them from a checkpoint; the bound stays what the configuration says."""
        for name, value in state.items():
            if name != "max_kl":
                setattr(self, name, value)


def correlation(first_S: Sequence[float] | Tensor, second_S: Sequence[float] | Tensor) -> float:
    """Pearson's, over the places where both are finite; 0 where one does not vary."""
    pair = torch.stack([torch.as_tensor(each, dtype=torch.float64) for each in (first_S, second_S)])
    pair = pair[:, pair.isfinite().all(0)]
    if pair.shape[1] < 2:
        return 0.0
    centred = pair - pair.mean(1, keepdim=True)
    norms = centred.norm(dim=1)
    return float((centred[0] * centred[1]).sum() / norms.prod()) if norms.min() > 0 else 0.0
