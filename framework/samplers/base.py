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

    The attributes are facts about an instance that spare the engine work; the defaults are always right.

    Attributes:
        looks_back: whether the history is read; false spares the engine making it.
        needs_vocabulary: whether column i must be token i. Where this and `looks_back` are false, the engine may hand over fewer
            columns: in the order of their ids, with some or all of the excluded tokens left out.
        changes_nothing: whether its settings leave all logits as they are; the engine leaves it out.
        is_greedy: whether only the best token stays, the lowest id where several tie; the engine needs no probabilities then.
    """

    looks_back: bool = True
    needs_vocabulary: bool = False
    changes_nothing: bool = False
    is_greedy: bool = False

    @classmethod
    def together(cls, samplers: Sequence[Self]) -> Sampler | None:
        """One sampler that treats row i as `samplers[i]` would, to the bit; None: the engine calls each of them for its rows."""
        return None

    def check(self, vocab_size: int) -> None:  # noqa: B027
        """Raises RequestError for settings that a vocabulary of this size cannot serve; asked once for each request."""

    @abstractmethod
    def __call__(self, logits_BV: Tensor, history: History) -> Tensor:
        """Processed logits, [B, V]; -inf excludes a token. Never modifies its input; leaves at least one finite logit a row."""
