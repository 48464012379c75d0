"""What every sampler is: logits to logits, before the token is drawn.

Shape legend: B requests in the batch, V vocabulary, L longest token history.
Logits and token histories flow in, logits flow out. Must not know the engine, text, or which network made the logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor


class History(NamedTuple):
    """What each request has so far, for samplers that look back.

    `tokens_BL` holds the prompt, then the reply, right-padded with -1; `prompt_lengths_B` says where the reply begins.
    """

    tokens_BL: Tensor
    prompt_lengths_B: Tensor


class Sampler(ABC):
    """Reshapes the next token's distribution. Settings that change nothing return the very logits they were given."""

    @abstractmethod
    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Processed logits, [B, V]; -inf excludes a token. Never modifies its input; leaves at least one finite logit a row."""
