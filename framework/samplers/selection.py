"""Samplers that sharpen the distribution or cut off its tail: greedy, temperature, top-k, top-p and min-p.

Shape legend: B requests, V vocabulary, N candidates looked at. Logits flow in, logits flow out; the history is not looked at.
Must not know the engine or text. Where tokens tie, the lowest id wins, so that temperature 0, top_k 1 and a tiny top_p are all greedy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.samplers.base import History, Sampler

GREEDY_TEMPERATURE = 1e-5  # below it the division would overflow; what it would leave is the best token anyway
FIRST_CANDIDATES = 64  # top-p looks at this many of the best tokens first, then at 8 times as many, ...
ROUNDING = 1e-6  # the probability by which top-p's mass may miss p: an fp32 sum of .5 and .3 need not reach .8


class Greedy(Sampler):
    """Only the best token stays; the lowest id where several tie."""

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Logits with -inf for every token but the best, [B, V]."""
        best_B1 = logits_BV.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits_BV, -math.inf).scatter(-1, best_B1, logits_BV.gather(-1, best_B1))


class Temperature(Sampler):
    """Logits divided by the temperature.

    Args:
        temperature: under 1 sharpens, over 1 flattens, 1 changes nothing, 0 (in fact, below 0.00001) is greedy.
    """

    def __init__(self, temperature: float) -> None:
        if not (math.isfinite(temperature) and temperature >= 0.0):
            raise ValueError(f"temperature is {temperature} and must be a finite number of at least 0 (0 is greedy)")
        self.temperature = temperature

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Scaled logits, [B, V]."""
        if self.temperature == 1.0:
            return logits_BV
        if self.temperature < GREEDY_TEMPERATURE:
            return Greedy()(logits_BV, history)
        return logits_BV / self.temperature


class TopK(Sampler):
    """Only the k best tokens stay: exactly k, the lowest ids where several tie for the last place.

    Args:
        k: how many; 0, -1 or the whole vocabulary changes nothing.
    """

    def __init__(self, k: int) -> None:
        if k < -1:
            raise ValueError(f"top_k is {k} and must be at least 1, or 0 or -1 for all tokens")
        self.k = k

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Logits with -inf for every other token, [B, V]."""
        if self.k <= 0 or self.k >= logits_BV.shape[-1]:
            return logits_BV
        last_B1 = logits_BV.topk(self.k, dim=-1).values[:, -1:]
        return _keep_best(logits_BV, last_B1, torch.full_like(last_B1, self.k, dtype=torch.long))


class TopP(Sampler):
    """Only the fewest best tokens stay that together have at least probability p (nucleus sampling, arXiv 1904.09751).

    Args:
        p: over 0, at most 1; 1 changes nothing. At least one token stays.
    """

    def __init__(self, p: float) -> None:
        if not 0.0 < p <= 1.0:
            raise ValueError(f"top_p is {p} and must be over 0 and at most 1 (1 keeps every token)")
        self.p = p

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Logits with -inf for every other token, [B, V]."""
        if self.p == 1.0:
            return logits_BV
        log_total_B1 = logits_BV.logsumexp(dim=-1, keepdim=True)
        num_candidates, vocab_size = FIRST_CANDIDATES, logits_BV.shape[-1]
        while True:  # sorting the whole vocabulary is slow and hardly ever needed
            best_BN = logits_BV.topk(min(num_candidates, vocab_size), dim=-1).values
            mass_BN = (best_BN - log_total_B1).exp().cumsum(dim=-1)
            enough_BN = mass_BN >= self.p - ROUNDING
            if num_candidates >= vocab_size or bool(enough_BN[:, -1].all()):
                break
            num_candidates *= 8
        count_B1 = (~enough_BN).sum(dim=-1, keepdim=True).add(1).clamp(max=best_BN.shape[-1])
        return _keep_best(logits_BV, best_BN.gather(-1, count_B1 - 1), count_B1)


class MinP(Sampler):
    """Only tokens stay whose probability is at least p times that of the best one (arXiv 2407.01082).

    Args:
        p: between 0 and 1; 0 changes nothing.
    """

    def __init__(self, p: float) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"min_p is {p} and must be between 0 and 1 (0 keeps every token)")
        self.p = p

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Logits with -inf for every other token, [B, V]."""
        if self.p == 0.0:
            return logits_BV
        floor_B1 = logits_BV.amax(dim=-1, keepdim=True) + math.log(self.p)
        return logits_BV.masked_fill(logits_BV < floor_B1, -math.inf)


def _keep_best(logits_BV: Tensor, last_B1: Tensor, count_B1: Tensor) -> Tensor:
    """The `count` best tokens of each row, whose last one has the logit `last`; of the tokens that tie with it, the lowest ids."""
    better_BV = logits_BV > last_B1
    tied_BV = logits_BV == last_B1
    places_B1 = count_B1 - better_BV.sum(dim=-1, keepdim=True)
    keep_BV = better_BV | (tied_BV & (tied_BV.cumsum(dim=-1) <= places_B1))
    return logits_BV.masked_fill(~keep_BV, -math.inf)
