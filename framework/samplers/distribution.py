"""What the next token may be: logits of the whole vocabulary, or of the few candidates that are left of it.

Shape legend: B requests, V vocabulary, C columns (V of them, or one a candidate), N best tokens.
Logits flow in, the best of them flow out. Must not know samplers, the engine or text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from framework.kernels import calls

CHUNK_SIZE = 128  # neighbours whose maximum is taken first
GROUP_SIZE = 16  # tokens whose maximum is looked at before they are: of 8 to 64 the quickest for the best 50 to 300 of 49,152


class Distribution(NamedTuple):
    """Unnormalised log-probabilities of the next token; -inf excludes one, and what has no column is excluded.

    `ids_BC` names the columns in ascending order; None: column i is token i. An id that occurs twice in a row is padding
    but for one of its columns, with the logit -inf. `divisor_B1`, of the logits' type, is what they are still to be divided by, where
    ids_BC is None: writing a large vocabulary's quotients to memory takes longer than drawing from them.
    """

    logits_BC: Tensor
    ids_BC: Tensor | None
    vocab_size: int
    divisor_B1: Tensor | None = None

    @property
    def is_certain(self) -> bool:
        """Whether only one token is left in each row."""
        return self.ids_BC is not None and self.ids_BC.shape[-1] == 1

    def divided(self) -> Distribution:
        """The same, with nothing still to be done."""
        return self if self.divisor_B1 is None else Distribution(self.logits_BC / self.divisor_B1, self.ids_BC, self.vocab_size)

    def dense(self) -> Tensor:
        """Logits of the whole vocabulary, [B, V]."""
        if self.ids_BC is None:
            return self.divided().logits_BC
        excluded_BV = self.logits_BC.new_full((len(self.logits_BC), self.vocab_size), -math.inf)
        return excluded_BV.scatter_reduce_(-1, self.ids_BC, self.logits_BC, "amax")


def wide(logits_BV: Tensor) -> Tensor:
    """At least float32."""
    return logits_BV.float() if logits_BV.dtype in (torch.bfloat16, torch.float16) else logits_BV


def merge(parts: Sequence[Distribution], rows: Sequence[Tensor], num_rows: int) -> Distribution:
    """One distribution of parts that hold these rows of it: over the vocabulary if any part is, else over as many candidates as any has."""
    vocab_size, first = parts[0].vocab_size, parts[0].logits_BC
    if any(part.ids_BC is None for part in parts):
        logits_BV = first.new_empty(num_rows, vocab_size)
        for part, places in zip(parts, rows):
            logits_BV[places] = part.dense()
        return Distribution(logits_BV, None, vocab_size)
    columns = max(part.logits_BC.shape[-1] for part in parts)
    logits_BC = first.new_full((num_rows, columns), -math.inf)
    ids_BC = torch.full((num_rows, columns), vocab_size - 1, device=first.device)
    for part, places in zip(parts, rows):
        assert part.ids_BC is not None
        logits_BC[places, : part.logits_BC.shape[-1]] = part.logits_BC
        ids_BC[places, : part.ids_BC.shape[-1]] = part.ids_BC
    return Distribution(logits_BC, ids_BC, vocab_size)


def best(logits_BV: Tensor) -> Tensor:
    """The id of each row's best token, of equals the lowest, [B, 1]: what `argmax` gives, found several times as fast."""
    rows, vocab_size = logits_BV.shape
    if logits_BV.dtype == torch.float32 and vocab_size and logits_BV.stride(1) == 1 and calls.serve(logits_BV):
        return calls.best(logits_BV)[:, None]
    num_chunks = vocab_size // CHUNK_SIZE
    if not num_chunks:
        return logits_BV.argmax(dim=-1, keepdim=True)
    maxima = [logits_BV[:, : num_chunks * CHUNK_SIZE].reshape(rows, num_chunks, CHUNK_SIZE).amax(dim=-1)]
    if vocab_size % CHUNK_SIZE:
        maxima.append(logits_BV[:, num_chunks * CHUNK_SIZE :].amax(dim=-1, keepdim=True))
    chunk_B1 = torch.cat(maxima, dim=-1).argmax(dim=-1, keepdim=True)
    ids_BS = (chunk_B1 * CHUNK_SIZE + torch.arange(CHUNK_SIZE, device=logits_BV.device)).clamp_(max=vocab_size - 1)
    return ids_BS.gather(-1, logits_BV.gather(-1, ids_BS).argmax(dim=-1, keepdim=True))


def best_first(scores_BV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best scores of each row and their ids, both [B, N]: the best first, of equals the lowest id first.

    Which ids stand for the last value is open when tokens beyond the N have it too.
    """
    if count == scores_BV.shape[-1]:
        return scores_BV.sort(dim=-1, descending=True, stable=True)
    values_BN, ids_BN = _best(scores_BV, count)
    ids_BN, by_id_BN = ids_BN.sort(dim=-1)
    values_BN, by_value_BN = values_BN.gather(-1, by_id_BN).sort(dim=-1, descending=True, stable=True)
    return values_BN, ids_BN.gather(-1, by_value_BN)


def _best(scores_BV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best and their ids: they are in the `count` groups with the best maxima, so `topk` need not see the others."""
    num_groups = scores_BV.shape[-1] // GROUP_SIZE
    if 4 * count > num_groups:
        values_BN, ids_BN = scores_BV.topk(count, dim=-1, sorted=False)
        return values_BN, ids_BN
    num_grouped, num_found = num_groups * GROUP_SIZE, count * GROUP_SIZE
    # group j is j, j + num_groups, j + 2 num_groups, ...: so maxima are taken over whole registers
    grouped = scores_BV[:, :num_grouped].reshape(len(scores_BV), GROUP_SIZE, num_groups)
    groups_BN = grouped.amax(dim=1).topk(count, dim=-1, sorted=False).indices
    found = grouped.gather(2, groups_BN[:, None, :].expand(-1, GROUP_SIZE, -1)).flatten(1)
    values_BN, places_BN = torch.cat([found, scores_BV[:, num_grouped:]], dim=-1).topk(count, dim=-1, sorted=False)
    ids_BN = groups_BN.gather(-1, places_BN % count) + num_groups * (places_BN // count)
    return values_BN, torch.where(places_BN < num_found, ids_BN, places_BN + (num_grouped - num_found))
