"""What the next token may be: logits of the whole vocabulary, or of the few candidates that are left of it.

Shape legend: B requests, V vocabulary, C columns (V of them, or one a candidate), N best tokens.
Logits flow in, the best of them flow out. Must not know samplers, the engine or text.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

GROUP_SIZE = 32  # of tokens whose maximum is looked at before they are; near the optimum, sqrt(V / N), for V = 49,152 and N = 50


class Distribution(NamedTuple):
    """Unnormalised log-probabilities of the next token; -inf excludes one, and what has no column is excluded.

    `ids_BC` names the columns in ascending order; None: column i is token i. An id that occurs twice in a row is padding
    but for one of its columns, with the logit -inf.
    """

    logits_BC: Tensor
    ids_BC: Tensor | None
    vocab_size: int

    def dense(self) -> Tensor:
        """Logits of the whole vocabulary, [B, V]."""
        if self.ids_BC is None:
            return self.logits_BC
        excluded_BV = self.logits_BC.new_full((len(self.logits_BC), self.vocab_size), -math.inf)
        return excluded_BV.scatter_reduce_(-1, self.ids_BC, self.logits_BC, "amax")


def best_first(scores_BV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best scores of each row and their ids, both [B, N]: the best first, of equals the lowest id first.

    Which ids stand for the last value is open when tokens beyond the N have it too.
    """
    values_BN, ids_BN = _best(scores_BV, count)
    ids_BN, by_id_BN = ids_BN.sort(dim=-1)
    values_BN, by_value_BN = values_BN.gather(-1, by_id_BN).sort(dim=-1, descending=True, stable=True)
    return values_BN, ids_BN.gather(-1, by_value_BN)


def _best(scores_BV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best and their ids, found in the `count` groups with the best maxima: less than half of what `topk` reads twice."""
    rows, vocab_size = scores_BV.shape
    num_groups = vocab_size // GROUP_SIZE
    if 4 * count > num_groups:
        return tuple(scores_BV.topk(count, dim=-1))  # type: ignore[return-value]
    # group j is j, j + num_groups, j + 2 num_groups, ...: maxima of neighbours are taken side by side
    grouped = scores_BV[:, : num_groups * GROUP_SIZE].unflatten(-1, (GROUP_SIZE, num_groups))
    groups_BN = grouped.amax(dim=1).topk(count, dim=-1, sorted=False).indices
    members = groups_BN[:, None, :] + num_groups * torch.arange(GROUP_SIZE, device=scores_BV.device)[:, None]
    rest = torch.arange(num_groups * GROUP_SIZE, vocab_size, device=scores_BV.device).expand(rows, -1)
    ids = torch.cat([members.flatten(1), rest], dim=-1)
    values_BN, places_BN = scores_BV.gather(-1, ids).topk(count, dim=-1, sorted=False)
    return values_BN, ids.gather(-1, places_BN)
