"""Samplers that sharpen the distribution or cut off its tail: greedy, temperature, top-k, top-p, min-p and typical-p.

Shape legend: B requests, V vocabulary, C candidates that stay, N tokens looked at. Logits flow in, logits flow out; the history is
not looked at. Must not know the engine or text. Where tokens tie, the lowest id wins, so that temperature 0, top_k 1 and a tiny
top_p are all greedy.

Sums over a row run in the order of the ids with a double as the accumulator (torch's cumsum), in which tokens of no probability
make no difference: a row's result is the same to the bit over the whole vocabulary and over the candidates left of it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from framework.samplers.base import History, Sampler
from framework.samplers.distribution import Distribution, best, best_first, merge
from framework.samplers.rowwise import Rowwise, Together

GREEDY_TEMPERATURE = 1e-5  # below it the division would overflow; what it would leave is the best token anyway
FIRST_LOOK = 64  # so many of the best tokens are ranked first, for the rows that need more 8 times as many, ...
TIES = 8  # so many tokens are ranked beyond the k best, since several may tie for the last place
ROUNDING = 1e-6  # the probability by which a mass may miss p: an fp32 sum of .5 and .3 need not reach .8


Count = Callable[[Tensor, Tensor, Tensor], Tensor]  # rows [B], their ranked scores and ids [B, N] -> how many of them stay, [B, 1]


def select(sampler: Sampler, logits_BV: Tensor) -> Distribution | None:
    """The few candidates that a sampler leaves of each row; None if it is none that selects, or leaves some row as it is."""
    if not (isinstance(sampler, Together) and issubclass(sampler.kind, Selection)):
        return None
    if sampler.kind.is_idle(sampler.setting_B1, logits_BV.shape[-1]).any():
        return None
    return sampler.kind.select(logits_BV, sampler.setting_B1)


class Greedy(Sampler):
    """Only the best token stays; the lowest id where several tie."""

    looks_back = False
    is_greedy = True

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Logits with -inf for every token but the best, [B, V]."""
        best_B1 = best(logits_BV)
        return torch.full_like(logits_BV, -math.inf).scatter(-1, best_B1, logits_BV.gather(-1, best_B1))


class Temperature(Rowwise):
    """Logits divided by the temperature.

    Args:
        temperature: under 1 sharpens, over 1 flattens, 1 changes nothing, 0 (in fact, below 0.00001) is greedy.
    """

    looks_back = False

    def __init__(self, temperature: float) -> None:
        if not (math.isfinite(temperature) and temperature >= 0.0):
            raise ValueError(f"temperature is {temperature} and must be a finite number of at least 0 (0 is greedy)")
        super().__init__(float(temperature))
        self.temperature = temperature
        self.changes_nothing, self.is_greedy = temperature == 1.0, temperature < GREEDY_TEMPERATURE

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Scaled logits, [B, V]."""
        greedy_B1 = setting_B1 < GREEDY_TEMPERATURE
        scaled_BV = logits_BV / setting_B1.masked_fill(greedy_B1, 1.0).to(logits_BV)
        if not greedy_B1.any():
            return scaled_BV
        return torch.where(greedy_B1.to(logits_BV.device), Greedy()(logits_BV, history), scaled_BV)


class Selection(Rowwise):
    """Ranks the tokens by a score and keeps the first so many of them."""

    looks_back = False

    @staticmethod
    @abstractmethod
    def select(logits_BV: Tensor, setting_B1: Tensor) -> Distribution:
        """What stays; no setting may be one that changes nothing (that would rank the whole vocabulary)."""

    @staticmethod
    @abstractmethod
    def is_idle(setting_B1: Tensor, vocab_size: int) -> Tensor:
        """Which rows' settings change nothing, bool [B, 1]."""

    @classmethod
    def _apply(cls, logits_BV: Tensor, setting_B1: Tensor, other: float) -> Tensor:
        """`select` on the rows that are not idle, which get the cheap setting `other` meanwhile; [B, V]."""
        idle_B1 = cls.is_idle(setting_B1, logits_BV.shape[-1])
        if idle_B1.all():
            return logits_BV
        kept_BV = cls.select(logits_BV, setting_B1.masked_fill(idle_B1, other)).dense()
        return torch.where(idle_B1.to(logits_BV.device), logits_BV, kept_BV) if idle_B1.any() else kept_BV


class TopK(Selection):
    """Only the k best tokens stay: exactly k, the lowest ids where several tie for the last place.

    Args:
        k: how many; 0, -1 or the whole vocabulary changes nothing.
    """

    def __init__(self, k: int) -> None:
        if k < -1:
            raise ValueError(f"top_k is {k} and must be at least 1, or 0 or -1 for all tokens")
        super().__init__(int(k))
        self.k = k
        self.changes_nothing, self.is_greedy = k <= 0, k == 1

    @staticmethod
    def is_idle(setting_B1: Tensor, vocab_size: int) -> Tensor:
        """0, -1 and the whole vocabulary."""
        return (setting_B1 <= 0) | (setting_B1 >= vocab_size)

    @staticmethod
    def select(logits_BV: Tensor, setting_B1: Tensor) -> Distribution:
        """The k best."""
        count_B1 = setting_B1.expand(len(logits_BV), 1).to(logits_BV.device)
        return _keep_first(logits_BV, logits_BV, int(setting_B1.max()) + TIES, lambda rows_B, values_BN, ids_BN: count_B1[rows_B])

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Logits with -inf for every other token, [B, V]."""
        return TopK._apply(logits_BV, setting_B1, other=1)


class TopP(Selection):
    """Only the fewest best tokens stay that together have at least probability p (nucleus sampling, arXiv 1904.09751).

    Args:
        p: over 0, at most 1; 1 changes nothing. At least one token stays.
    """

    def __init__(self, p: float) -> None:
        if not 0.0 < p <= 1.0:
            raise ValueError(f"top_p is {p} and must be over 0 and at most 1 (1 keeps every token)")
        super().__init__(float(p))
        self.p = p
        self.changes_nothing, self.is_greedy = p == 1.0, p <= ROUNDING

    @staticmethod
    def is_idle(setting_B1: Tensor, vocab_size: int) -> Tensor:
        """1."""
        return setting_B1 == 1.0

    @staticmethod
    def select(logits_BV: Tensor, setting_B1: Tensor) -> Distribution:
        """The nucleus."""
        best_B1 = logits_BV.amax(dim=-1, keepdim=True)
        total_B1 = _row_sums(logits_BV.sub(best_B1).exp_())
        needed_B1 = (setting_B1 - ROUNDING).to(total_B1) * total_B1

        def counted(rows_B: Tensor, values_BN: Tensor, ids_BN: Tensor) -> Tensor:
            return _count((values_BN - best_B1[rows_B]).exp(), needed_B1[rows_B])

        return _keep_first(logits_BV, logits_BV, FIRST_LOOK, counted)

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Logits with -inf for every other token, [B, V]."""
        return TopP._apply(logits_BV, setting_B1, other=ROUNDING)


class TypicalP(Selection):
    """Only the tokens stay whose surprise is nearest to the expected one, as few as together have at least probability p.

    Locally typical sampling (arXiv 2202.00666). Surprise is -log probability, the expected one the entropy; the best token may go.

    Args:
        p: over 0, at most 1; 1 changes nothing. At least one token stays.
    """

    def __init__(self, p: float) -> None:
        if not 0.0 < p <= 1.0:
            raise ValueError(f"typical_p is {p} and must be over 0 and at most 1 (1 keeps every token)")
        super().__init__(float(p))
        self.p = p
        self.changes_nothing = p == 1.0

    @staticmethod
    def is_idle(setting_B1: Tensor, vocab_size: int) -> Tensor:
        """1."""
        return setting_B1 == 1.0

    @staticmethod
    def select(logits_BV: Tensor, setting_B1: Tensor) -> Distribution:
        """The typical set."""
        shifted_BV = logits_BV - logits_BV.amax(dim=-1, keepdim=True)
        weights_BV = shifted_BV.exp()
        total_B1 = _row_sums(weights_BV)
        # the entropy less the logarithm of the total, which the surprises lack as well
        entropy_B1 = -_row_sums((weights_BV * shifted_BV).masked_fill_(weights_BV == 0, 0.0)) / total_B1
        scores_BV = shifted_BV.add_(entropy_B1).abs_().neg_()
        needed_B1 = (setting_B1 - ROUNDING).to(total_B1) * total_B1

        def counted(rows_B: Tensor, values_BN: Tensor, ids_BN: Tensor) -> Tensor:
            return _count(weights_BV[rows_B[:, None], ids_BN], needed_B1[rows_B])

        return _keep_first(logits_BV, scores_BV, FIRST_LOOK, counted)

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Logits with -inf for every other token, [B, V]."""
        return TypicalP._apply(logits_BV, setting_B1, other=ROUNDING)


class MinP(Rowwise):
    """Only tokens stay whose probability is at least p times that of the best one (arXiv 2407.01082).

    Args:
        p: between 0 and 1; 0 changes nothing.
    """

    looks_back = False

    def __init__(self, p: float) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"min_p is {p} and must be between 0 and 1 (0 keeps every token)")
        super().__init__(float(p))
        self.p = p
        self.changes_nothing = p == 0.0

    @staticmethod
    def apply(logits_BV: Tensor, history: History, setting_B1: Tensor) -> Tensor:
        """Logits with -inf for every other token, [B, V]."""
        floor_B1 = logits_BV.amax(dim=-1, keepdim=True) + setting_B1.log().to(logits_BV)
        return torch.where(logits_BV < floor_B1, -math.inf, logits_BV)


def _row_sums(values_BV: Tensor) -> Tensor:
    return values_BV.cumsum(dim=-1)[:, -1:]


def _count(weights_BN: Tensor, needed_B1: Tensor) -> Tensor:
    """How many of the weights it takes to have the needed one together, [B, 1]; one more than there are if they do not suffice."""
    return (weights_BN.cumsum(dim=-1) < needed_B1).sum(dim=-1, keepdim=True) + 1


def _keep_first(logits_BV: Tensor, scores_BV: Tensor, num_ranked: int, counted: Count) -> Distribution:
    """The tokens with the best scores, of equals those with the lowest ids, as many of each row as `counted` says."""
    num_rows, vocab_size = logits_BV.shape
    rows_B, parts, places = torch.arange(num_rows, device=logits_BV.device), [], []
    while len(rows_B):  # ranking the whole vocabulary is slow and hardly ever needed
        num_ranked = num_ranked if 8 * num_ranked <= vocab_size else vocab_size
        values_BN, ids_BN = best_first(scores_BV if len(rows_B) == num_rows else scores_BV[rows_B], num_ranked)
        count_B1 = counted(rows_B, values_BN, ids_BN)
        last_B1 = values_BN.gather(-1, (count_B1 - 1).clamp(max=num_ranked - 1))
        # of the tokens that tie with the last ranked one some may be missing; the order of excluded ones and of NaNs is no matter
        settled_B1 = (last_B1 > values_BN[:, -1:]) | (last_B1 == -math.inf) | last_B1.isnan()
        done_B = settled_B1[:, 0] if num_ranked < vocab_size else torch.ones_like(settled_B1[:, 0])
        parts.append(_candidates(logits_BV, rows_B[done_B], ids_BN[done_B], count_B1[done_B]))
        places.append(rows_B[done_B])
        rows_B, num_ranked = rows_B[~done_B], 8 * num_ranked
    return parts[0] if len(parts) == 1 else merge(parts, places, num_rows)


def _candidates(logits_BV: Tensor, rows_B: Tensor, ids_BN: Tensor, count_B1: Tensor) -> Distribution:
    """The first `count` of these ids, in their order."""
    ids_BC, by_id_BC = ids_BN[:, : max([1, *count_B1.flatten().tolist()])].sort(dim=-1)
    logits_BC = logits_BV[rows_B[:, None], ids_BC].masked_fill_(by_id_BC >= count_B1, -math.inf)
    return Distribution(logits_BC, ids_BC, logits_BV.shape[-1])
