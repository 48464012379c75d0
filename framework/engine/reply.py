"""One reply in the making: its tokens so far, and where in the cache they lie.

Plain data that batcher, runner and engine share; no torch. Must not know the network or any other request.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from framework.engine.request import FinishReason, Request

MAX_SEED = 2**63
BEAM = -1  # the index of what may yet become any of the n replies


@dataclass(eq=False)
class Reply:
    """The state of one of a request's n replies.

    Attributes:
        request_id, index, request: as in the events.
        num_new_tokens: the reply ends after so many tokens.
        seed: its own, from which its draws follow.
        tokens: prompt and reply so far.
        proposals: tokens that may come next, to be verified together (speculation).
        num_held: tokens whose keys and values the cache has.
        blocks: the cache's blocks of this sequence, in order.
        place: which of the engine's places it runs in; -1 while it waits.
        prompt_logprobs: of prompt tokens 1, 2, ... so far, where the request asks for them.
    """

    request_id: int
    index: int
    request: Request
    num_new_tokens: int
    seed: int
    tokens: list[int] = field(default_factory=list)
    proposals: list[int] = field(default_factory=list)
    num_held: int = 0
    blocks: list[int] = field(default_factory=list)
    place: int = -1
    prompt_logprobs: list[tuple[float, tuple[tuple[int, float], ...]]] = field(default_factory=list)

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_drawn(self) -> int:
        """Tokens of the reply so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def num_pending(self) -> int:
        """Tokens that the network has yet to see, proposals left out; none only for a beam that waits for the others."""
        return len(self.tokens) - self.num_held

    def append(self, token: int) -> FinishReason | None:
        """Take in the next token; why the reply ends with it, or None."""
        self.tokens.append(token)
        if token in self.request.stop_ids:
            return "stop"
        return "length" if self.num_drawn == self.num_new_tokens else None


def replies_of(request_id: int, request: Request, num_new_tokens: int) -> list[Reply]:
    """The n replies of a request, none begun, or the first beam. Reply i draws with the request's seed plus i, or fresh entropy plus i."""
    seed = random.SystemRandom().randrange(MAX_SEED) if request.seed is None else request.seed
    return [
        Reply(request_id, index, request, num_new_tokens, (seed + index) % MAX_SEED, tokens=list(request.prompt_ids))
        for index in (range(request.n) if request.num_beams == 1 else (BEAM,))
    ]
