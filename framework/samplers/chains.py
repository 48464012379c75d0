"""The samplers of all requests of a batch as few tensor operations, whatever their settings.

Shape legend: B requests, V vocabulary, C columns. Chains of samplers flow in once, then logits flow in and distributions flow out at
each step. Must not know the engine, text, or how a token is drawn.

    rows of equal classes in equal order     one group; a position is one sampler with a column of settings (`Sampler.together`)
    positions that change nothing            left out
    greedy rows                              a group of their own, which ends with the best token and needs no probabilities
    rows that select (top-k, top-p, ...)     what follows sees the few candidates that are left

Every row gets what its own samplers would have made of it, called one after the other; to the bit, whatever its neighbours are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from framework.samplers.base import History, Sampler
from framework.samplers.distribution import Distribution, best, merge, wide
from framework.samplers.selection import MinP, Selection, Temperature, TopK, TopP, select

Look = Callable[[], History]


class Chains:
    """The chains of a batch's rows; made once for a batch, called at each of its steps.

        chains = Chains([request.samplers for request in batch])
        tokens_B, valid_B = draw(chains(logits_BV, history), uniforms_B)

    Args:
        chains: for each row, its samplers in their order; an empty chain leaves the logits as they are.

    Attributes:
        looks_back: whether a call needs a history.
        is_greedy: whether every row's draw is its best token.
    """

    def __init__(self, chains: Sequence[Sequence[Sampler]]) -> None:
        rows_of: dict[Hashable, list[int]] = {}
        for row, chain in enumerate(chains):
            rows_of.setdefault(_structure(chain), []).append(row)
        self._num_rows = len(chains)
        self._rows = [torch.tensor(rows) for rows in rows_of.values()]
        self._groups = [_Group([chains[row] for row in rows]) for rows in rows_of.values()]
        self.looks_back = any(group.looks_back for group in self._groups)
        self.is_greedy = all(group.is_greedy for group in self._groups)

    def __call__(self, logits_BV: Tensor, history: Look | None = None) -> Distribution:
        """What each row's next token may be.

        Args:
            logits_BV: the network's, or what a constraint left of them; not modified. Half precision is raised to float32.
            history: makes the rows' history; called at most once, and only if `looks_back`, when it must be given.
        """
        logits_BV = wide(logits_BV)
        past = _look(history) if self.looks_back else None
        if len(self._groups) == 1:
            return self._groups[0](logits_BV, past)
        parts = []
        for rows, group in zip(self._rows, self._groups):
            rows = rows.to(logits_BV.device)
            group_past = History(past.tokens_BL[rows], past.prompt_lengths_B[rows]) if past and group.looks_back else None
            parts.append(group(logits_BV[rows], group_past))
        return merge(parts, self._rows, self._num_rows)


class _Step(NamedTuple):
    sampler: Sampler
    needs_vocabulary: bool


class _Group:
    """Rows whose chains have the same structure."""

    def __init__(self, chains: Sequence[Sequence[Sampler]]) -> None:
        positions = list(zip(*chains))
        decided = next((place for place, samplers in enumerate(positions) if samplers[0].is_greedy), None)
        self.is_greedy = decided is not None
        positions = [samplers for samplers in positions[:decided] if not all(sampler.changes_nothing for sampler in samplers)]
        while self.is_greedy and positions and isinstance(positions[-1][0], TopK | TopP | MinP):
            positions.pop()  # it would keep the best token and its logit
        self.looks_back = any(sampler.looks_back for samplers in positions for sampler in samplers)
        self._divisor_B1: Tensor | None = None
        if not self.is_greedy and positions and type(positions[-1][0]) is Temperature:
            self._divisor_B1 = torch.cat([sampler.setting_B1 for sampler in positions.pop()])
        self._steps = [_step(samplers) for samplers in positions]
        self._no_history = History(torch.empty(len(chains), 0, dtype=torch.int64), torch.zeros(len(chains), dtype=torch.int64))

    def __call__(self, logits_BV: Tensor, past: History | None) -> Distribution:
        distribution = Distribution(logits_BV, None, logits_BV.shape[-1])
        for sampler, needs_vocabulary in self._steps:
            if needs_vocabulary and distribution.ids_BC is not None:
                distribution = Distribution(distribution.dense(), None, distribution.vocab_size)
            selected = select(sampler, distribution.logits_BC) if distribution.ids_BC is None else None
            distribution = selected or distribution._replace(logits_BC=sampler(distribution.logits_BC, past or self._no_history))
        if self.is_greedy:
            return _best(distribution)
        if self._divisor_B1 is None:
            return distribution
        distribution = distribution._replace(divisor_B1=self._divisor_B1.to(distribution.logits_BC))
        return distribution if distribution.ids_BC is None else distribution.divided()


class _Each(Sampler):
    """Samplers that know no way to run together, each called for its row."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self.samplers = samplers

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        rows = [
            sampler(logits_BV[row : row + 1], History(history.tokens_BL[row : row + 1], history.prompt_lengths_B[row : row + 1]))
            for row, sampler in enumerate(self.samplers)
        ]
        return torch.cat(rows)


def _structure(chain: Sequence[Sampler]) -> Hashable:
    """What rows that run together have in common: the classes, and where they become greedy or first select."""
    greedy = next((place for place, sampler in enumerate(chain) if sampler.is_greedy), None)
    selects = next((place for place, sampler in enumerate(chain) if isinstance(sampler, Selection) and not sampler.changes_nothing), None)
    return tuple(type(sampler) for sampler in chain), greedy, selects if greedy is None else None


def _step(samplers: Sequence[Sampler]) -> _Step:
    together = type(samplers[0]).together(samplers) or _Each(samplers)
    return _Step(together, any(sampler.looks_back or sampler.needs_vocabulary for sampler in samplers))


def _look(history: Look | None) -> History:
    assert history is not None, "a sampler looks back and no history was given"
    return history()


def _best(distribution: Distribution) -> Distribution:
    logits_BC, ids_BC, vocab_size, _ = distribution
    places_B1 = best(logits_BC)
    return Distribution(logits_BC.gather(-1, places_B1), places_B1 if ids_BC is None else ids_BC.gather(-1, places_B1), vocab_size)
