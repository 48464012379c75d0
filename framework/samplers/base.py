"""What every sampler is: logits to logits, before the token is drawn.

Shape legend: B requests in the batch, V vocabulary, L longest token history.
Logits and token histories flow in, logits flow out. Must not know the engine, text, or which network made the logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

from torch import Tensor


class History(NamedTuple):
    """What each request has so far, for samplers that look back.

    `tokens_BL` holds the prompt, then the reply, right-padded with -1; `prompt_lengths_B` says where the reply begins.
    """

    tokens_BL: Tensor
    prompt_lengths_B: Tensor


class Sampler(ABC):
    """Reshapes the next token's distribution. Settings that change nothing return the very logits they were given.

    Attributes:
        looks_back: whether the history is read; false spares the engine making it, and lets it hand over fewer than V candidates
            (columns in the order of their ids, the excluded ones left out).
    """

    looks_back: bool = True

    @classmethod
    def together(cls, samplers: Sequence[Self]) -> Sampler | None:
        """One sampler that treats row i as `samplers[i]` would, to the bit; None: the engine calls each of them for its rows."""
        return None

    @abstractmethod
    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Processed logits, [B, V]; -inf excludes a token. Never modifies its input; leaves at least one finite logit a row."""
