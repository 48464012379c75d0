"""What goes into the engine and what comes out: a request of ids, and an event for each token.

Plain data; must not know text, networks or how tokens are made.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from framework.engine.constraint import Constraint
from framework.errors import RequestError
from framework.samplers.base import Sampler

FinishReason = Literal["stop", "length", "error"]
Alternatives = tuple[tuple[int, float], ...]  # (token id, log-probability), the likeliest first


@dataclass(frozen=True)
class Request:
    """A prompt and how to go on from it.

    Args:
        prompt_ids: at least one id; the network's context must have room for at least one more.
        max_new_tokens: the reply ends after so many tokens with the reason "length".
        samplers: applied in this order to the logits before each draw; none draws from the network's own distribution.
        stop_ids: any of them ends the reply with the reason "stop", and is its last event.
        min_new_tokens: no stop id is drawn before the reply has so many tokens.
        seed: makes the draws reproducible, whatever else the engine serves meanwhile; reply i of n draws with seed + i.
            None takes fresh entropy.
        n: replies to this prompt, all from one pass over it.
        logprobs: log-probabilities of the drawn token and of so many of the likeliest beside it; None: none at all.
        processed_logprobs: of the distribution that was drawn from; false: of the network's own, before any sampler.
        prompt_logprobs: the same for the prompt's tokens, of the network's own distribution; None: none.
        constraint: which tokens the reply may go on with; None: all.
        cache_key: prompts share what was computed of them only with requests of the same key (a tenant, an adapter).
        num_beams: over 1, the n best replies that a beam search of this width finds, all events at its end; samplers only process
            the log-probabilities.
        length_penalty: a beam's log-probability is divided by its length to this power; over 0 favours long replies.
        early_stopping: true ends the search with num_beams complete replies; false, when the best beam would score no better were
            it complete now; "never", when it could not at its greatest length.

    Raises:
        RequestError: a value outside its range.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int
    samplers: Sequence[Sampler] = ()
    stop_ids: Collection[int] = ()
    min_new_tokens: int = 0
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    processed_logprobs: bool = False
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    cache_key: str = ""
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise RequestError("the prompt has no tokens: give at least one")
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens is {self.max_new_tokens} and must be at least 1")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise RequestError(f"min_new_tokens is {self.min_new_tokens} and must be between 0 and max_new_tokens ({self.max_new_tokens})")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise RequestError(f"seed is {self.seed} and must be between 0 and 2**63 - 1")
        if self.n < 1:
            raise RequestError(f"n is {self.n} and must be at least 1")
        if self.num_beams < 1 or (self.num_beams > 1 and self.n > self.num_beams):
            raise RequestError(f"num_beams is {self.num_beams} and must be at least 1, and no less than n ({self.n}) where it is over 1")
        if self.num_beams > 1 and (self.logprobs is not None or any(sampler.is_greedy for sampler in self.samplers)):
            raise RequestError("a beam search has no logprobs and no greedy sampler (nor temperature 0): leave them out, or num_beams")
        for name in ("logprobs", "prompt_logprobs"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise RequestError(f"{name} is {value} and must be at least 0 (0: only the token's own)")

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


@dataclass(frozen=True, slots=True)
class Event:
    """One token of a reply.

    Attributes:
        request_id: what `Engine.add` returned.
        token_id: the token; -1 in an event that carries an error.
        logprob: its natural logarithm of probability; None unless the request asked for `logprobs`.
        finish_reason: None for every token but the last of its reply.
        index: which of the request's n replies.
        top_logprobs: the likeliest tokens at this place, as many as the request asked for.
        prompt_logprobs: on a reply's first event, where asked for: for each prompt token but the first, its log-probability and
            the likeliest tokens at its place.
        error: why the request was dropped, with the finish reason "error"; neighbours are not concerned.
    """

    request_id: int
    token_id: int
    logprob: float | None
    finish_reason: FinishReason | None
    index: int = 0
    top_logprobs: Alternatives = ()
    prompt_logprobs: tuple[tuple[float, Alternatives], ...] | None = None
    error: Exception | None = None
