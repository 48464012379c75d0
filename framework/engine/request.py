"""What goes into the engine and what comes out: a request of ids, and an event for each token.

Plain data; must not know text, networks or how tokens are made.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from framework.errors import RequestError
from framework.samplers.base import Sampler

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """A prompt and how to go on from it.

    Args:
        prompt_ids: at least one id; the network's context must have room for at least one more.
        max_new_tokens: the reply ends after so many tokens with the reason "length".
        samplers: applied in this order to the logits before each draw; none draws from the network's own distribution.
        stop_ids: any of them ends the reply with the reason "stop", and is its last event.
        min_new_tokens: no stop id is drawn before the reply has so many tokens.
        seed: makes the draws reproducible, whatever else the engine serves meanwhile; None takes fresh entropy.

    Raises:
        RequestError: a value outside its range.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int
    samplers: Sequence[Sampler] = ()
    stop_ids: Collection[int] = ()
    min_new_tokens: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise RequestError("the prompt has no tokens: give at least one")
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens is {self.max_new_tokens} and must be at least 1")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise RequestError(f"min_new_tokens is {self.min_new_tokens} and must be between 0 and max_new_tokens ({self.max_new_tokens})")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise RequestError(f"seed is {self.seed} and must be between 0 and 2**63 - 1")

    def num_new_tokens(self, vocab_size: int, context_length: int) -> int:
        """The most tokens the reply can have on a network of these sizes. Raises RequestError for a prompt that does not fit it."""
        if wrong := [token for token in (*self.prompt_ids, *self.stop_ids) if not 0 <= token < vocab_size]:
            raise RequestError(f"token {wrong[0]} is not in the network's vocabulary of {vocab_size}: tokenizer and network do not fit")
        room = context_length - len(self.prompt_ids)
        if room < 1:
            raise RequestError(
                f"the prompt has {len(self.prompt_ids)} tokens and the network's context is {context_length}, "
                f"the reply included: shorten the prompt to at most {context_length - 1} tokens"
            )
        return min(self.max_new_tokens, room)


class Event(NamedTuple):
    """One token of a reply.

    Attributes:
        request_id: what `Engine.add` returned.
        token_id: the token.
        logprob: its natural logarithm of probability in the full distribution of the network, before any sampler.
        finish_reason: None for every token but the last.
    """

    request_id: int
    token_id: int
    logprob: float
    finish_reason: FinishReason | None
