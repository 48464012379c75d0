"""Beam search: of all continuations of a request's beams, the likeliest go on together (Graves 2012; the rules are transformers').

Shape legend: K live beams, V vocabulary. Log-probabilities of every beam's next token flow in; which beam goes on with which token
flows out, and in the end the best replies. Must not know the cache, or how a beam is copied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framework.engine.reply import Reply
from framework.engine.request import FinishReason, Request


class Continuation(NamedTuple):
    """A beam with one more token, and the sum of its log-probabilities."""

    parent: Reply
    token: int
    score: float


class Ended(NamedTuple):
    """A complete reply: its tokens and its score, the sum of log-probabilities over length ** length_penalty."""

    score: float
    tokens: list[int]
    reason: FinishReason


class Beams:
    """The beams of one request.

    Args:
        first: the reply that reads the prompt; the only beam at first.
    """

    def __init__(self, first: Reply) -> None:
        self.request: Request = first.request
        self.scores: dict[Reply, float] = {first: 0.0}  # of the live beams
        self.ended: list[Ended] = []  # the best first, at most num_beams
        self._rows: dict[Reply, Tensor] = {}

    def collect(self, beam: Reply, logprobs_V: Tensor) -> bool:
        """Take in the log-probabilities of a beam's next token, processed by samplers; whether every live beam's are there now."""
        self._rows[beam] = logprobs_V
        return len(self._rows) == len(self.scores)

    def step(self) -> list[Continuation]:
        """The beams that go on, the best first; none when the search is over. `went_on` must be called for each of the others."""
        request = self.request
        live = list(self.scores)
        totals_KV = torch.stack([self._rows[beam] + self.scores[beam] for beam in live])
        self._rows.clear()
        # enough that num_beams of them do not end, even if every beam could end with every stop id
        wanted = max(2, 1 + len(set(request.stop_ids))) * request.num_beams
        scores, places = totals_KV.flatten().topk(min(wanted, totals_KV.numel()))
        length = live[0].num_drawn + 1
        going_on: list[Continuation] = []
        for rank, (score, place) in enumerate(zip(scores.tolist(), places.tolist())):
            parent, token = live[place // totals_KV.shape[1]], place % totals_KV.shape[1]
            reason: FinishReason | None = "stop" if token in request.stop_ids else "length" if length == parent.num_new_tokens else None
            if reason is None and len(going_on) < request.num_beams:
                going_on.append(Continuation(parent, token, score))
            elif reason is not None and rank < request.num_beams and not self._is_full_and_stops:
                self._end(Ended(score / length**request.length_penalty, [*parent.tokens[parent.prompt_length :], token], reason))
        self.scores = {}
        return going_on if self._can_improve(going_on, length) else []

    def went_on(self, beam: Reply, score: float) -> None:
        """A beam is live with its new token."""
        self.scores[beam] = score

    @property
    def _is_full_and_stops(self) -> bool:
        return self.request.early_stopping is True and len(self.ended) == self.request.num_beams

    def _end(self, reply: Ended) -> None:
        self.ended = sorted([*self.ended, reply], key=lambda ended: -ended.score)[: self.request.num_beams]

    def _can_improve(self, going_on: list[Continuation], length: int) -> bool:
        if not going_on or self._is_full_and_stops:
            return False
        if len(self.ended) < self.request.num_beams:
            return True
        penalty = self.request.length_penalty
        if self.request.early_stopping == "never" and penalty > 0:
            length = going_on[0].parent.num_new_tokens  # the score of a longer reply is divided by more
        return going_on[0].score / length**penalty > self.ended[-1].score
