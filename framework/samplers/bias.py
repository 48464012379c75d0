"""The sampler that raises or lowers the logits of chosen tokens.

Shape legend: B requests, V vocabulary, M longest list of biases. Logits flow in, logits flow out. Must not know the engine or text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from framework.errors import RequestError
from framework.samplers.base import History, Sampler


class LogitBias(Sampler):
    """Each listed token's logit plus its bias (OpenAI's logit_bias).

    Args:
        biases: token id -> bias, -100 to 100; -100 all but excludes a token, 100 all but excludes the others. None at all
            changes nothing.
    """

    looks_back = False
    needs_vocabulary = True

    def __init__(self, biases: Mapping[int, float]) -> None:
        for token, bias in biases.items():
            if token < 0:
                raise ValueError(f"logit_bias has token {token} and must have ids of at least 0")
            if not -100.0 <= bias <= 100.0:
                raise ValueError(f"logit_bias of token {token} is {bias} and must be between -100 and 100")
        self.biases = dict(biases)
        self.changes_nothing = not self.biases

    def check(self, vocab_size: int) -> None:
        """Raises RequestError for a token outside the vocabulary."""
        if (largest := max(self.biases, default=0)) >= vocab_size:
            raise RequestError(f"logit_bias has token {largest} and must have ids under the vocabulary's size, {vocab_size}")

    @classmethod
    def together(cls, samplers: Sequence[LogitBias]) -> Sampler:
        """Rows with different biases as one sampler."""
        return _Biases([sampler.biases for sampler in samplers])

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Biased logits, [B, V]."""
        return _Biases([self.biases] * len(logits_BV))(logits_BV, history)


class _Biases(Sampler):
    looks_back = False
    needs_vocabulary = True

    def __init__(self, rows: Sequence[Mapping[int, float]]) -> None:
        most = max(len(biases) for biases in rows)
        self.changes_nothing = most == 0
        self.largest = max((token for biases in rows for token in biases), default=0)
        self.ids_BM = torch.tensor([[*biases, *[0] * (most - len(biases))] for biases in rows], dtype=torch.int64)
        # -0.0 is what can be added to any logit, be it -0.0, and changes nothing
        self.biases_BM = torch.tensor([[*biases.values(), *[-0.0] * (most - len(biases))] for biases in rows], dtype=torch.float64)

    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        if self.changes_nothing:
            return logits_BV
        if self.largest >= logits_BV.shape[-1]:
            raise RequestError(f"logit_bias has token {self.largest}, which is not in the vocabulary of {logits_BV.shape[-1]}")
        return logits_BV.scatter_add(-1, self.ids_BM.to(logits_BV.device), self.biases_BM.to(logits_BV))
