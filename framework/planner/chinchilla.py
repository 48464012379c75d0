"""How large a network and how many tokens make the most of a budget, by the three approaches of Hoffmann et al. 2022 (arXiv 2203.15556).

A budget in FLOPs flows in, sizes flow out. All of it was fitted on web text with that paper's tokenizer and recipe, from 70M parameters
up: on other data the ratios carry over roughly, the losses do not.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

TOKENS_A_PARAMETER = 20.0  # the rule of thumb: Chinchilla's 1.4T tokens for 70B parameters

# (parameters, FLOPs): where the paper's frontiers lie, tables 3 (approach 1) and A3 (approach 2)
APPROACH_1 = (
    (400e6, 1.92e19),
    (1e9, 1.21e20),
    (10e9, 1.23e22),
    (67e9, 5.76e23),
    (175e9, 3.85e24),
    (280e9, 9.90e24),
    (520e9, 3.43e25),
    (1e12, 1.27e26),
    (10e12, 1.30e28),
)
APPROACH_2 = (
    (400e6, 1.84e19),
    (1e9, 1.20e20),
    (10e9, 1.32e22),
    (67e9, 6.88e23),
    (175e9, 4.54e24),
    (280e9, 1.18e25),
    (520e9, 4.19e25),
    (1e12, 1.59e26),
    (10e12, 1.75e28),
)


@dataclass(frozen=True)
class Loss:
    """A fitted loss in nats a token, E + A / N^alpha + B / D^beta, for N parameters and D tokens."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def __call__(self, parameters: float, tokens: float) -> float:
        """The loss of a network of a size after so many tokens, each seen once."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def optimal_parameters(self, flops: float) -> float:
        """The size with the least loss under 6 N D = flops (the paper's equation 4)."""
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return scale * (flops / 6) ** (self.beta / (self.alpha + self.beta))


APPROACH_3 = Loss(1.69, 406.4, 0.34, 410.7, 0.28)  # as printed: the rounding of the exponents alone moves its optimum by a lot
REFIT = Loss(1.8172, 482.01, 0.3478, 2085.43, 0.3658)  # Besiroglu et al. 2024 (arXiv 2404.10102): its optimizer had not converged


@dataclass(frozen=True)
class Optimum:
    """What one approach makes of a budget."""

    approach: str
    parameters: float
    tokens: float

    @property
    def tokens_a_parameter(self) -> float:
        """Its ratio."""
        return self.tokens / self.parameters


def optima(flops: float) -> list[Optimum]:
    """The rule of thumb, the three approaches and the refit of the third, for a budget in FLOPs; 6 N D = flops in all of them."""
    sizes = {
        "20 tokens a parameter": math.sqrt(flops / (6 * TOKENS_A_PARAMETER)),
        "approach 1: minima over training curves": _on_frontier(APPROACH_1, flops),
        "approach 2: IsoFLOP profiles": _on_frontier(APPROACH_2, flops),
        "approach 3: fitted loss, as printed": APPROACH_3.optimal_parameters(flops),
        "approach 3, refitted (Besiroglu et al. 2024)": REFIT.optimal_parameters(flops),
    }
    return [Optimum(name, size, flops / (6 * size)) for name, size in sizes.items()]


def _on_frontier(rows: Sequence[tuple[float, float]], flops: float) -> float:
    """Parameters at a budget: a straight line in logarithms between two of the paper's rows, and on from its ends."""
    place = min(max(bisect([row[1] for row in rows], flops), 1), len(rows) - 1)
    (low, low_flops), (high, high_flops) = rows[place - 1], rows[place]
    slope = math.log(high / low) / math.log(high_flops / low_flops)
    return low * (flops / low_flops) ** slope
