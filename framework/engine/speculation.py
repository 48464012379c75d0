"""Guessing further tokens, so that the network verifies several in one pass instead of making one.

A guess never changes a reply. Each draw is a function of the distribution and of a number that belongs to its place in the reply, so
the token at a place is the same whether or not it was guessed; guesses that come true only save rounds. The distribution is therefore
the network's own, sampled or greedy (a stronger promise than rejection sampling, arXiv 2211.17192, which keeps only the distribution).
Replies flow in and get proposals. Must not know requests' origin, or how blocks are given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate

from framework.engine.batcher import Row
from framework.engine.chooser import Chooser, Draw
from framework.engine.reply import Reply
from framework.engine.runner import Runner
from framework.errors import RequestError
from framework.networks.base import Network


class Speculation(ABC):
    """Proposes tokens for replies that draw.

    Attributes:
        num_tokens: most proposals at a time.
    """

    num_tokens: int

    def begin(self, max_running: int, num_blocks: int, vocab_size: int) -> None:  # noqa: B027  nothing to prepare, for most
        """An engine of this size takes it into use; one speculation serves one engine."""

    @abstractmethod
    def propose(self, rooms: Mapping[Reply, int], chooser: Chooser) -> None:
        """Set the proposals of each of these replies, at most as many as it has room for."""


class PromptLookup(Speculation):
    """What followed the last time the text ended like this (prompt lookup decoding; github.com/apoorvumang/prompt-lookup-decoding).

    Costs nothing and helps where replies repeat their prompt: summaries, edits, code.

    Args:
        num_tokens: most proposals at a time.
        longest, shortest: how many of the last tokens must recur; the longest match counts, the latest of equals.
    """

    def __init__(self, num_tokens: int = 8, longest: int = 3, shortest: int = 2) -> None:
        if not 1 <= shortest <= longest or num_tokens < 1:
            raise RequestError(f"prompt lookup needs 1 <= shortest ({shortest}) <= longest ({longest}) and num_tokens ({num_tokens}) >= 1")
        self.num_tokens, self.longest, self.shortest = num_tokens, longest, shortest

    def propose(self, rooms: Mapping[Reply, int], chooser: Chooser) -> None:
        """See Speculation."""
        for reply, room in rooms.items():
            reply.proposals[:] = self.lookup(reply.tokens)[:room]

    def lookup(self, tokens: Sequence[int]) -> Sequence[int]:
        """The tokens after the latest earlier place that ends with the same longest end; none if there is no such place."""
        for length in range(min(self.longest, len(tokens) - 1), self.shortest - 1, -1):
            end = tokens[-length:]
            for start in range(len(tokens) - length - 1, -1, -1):
                if tokens[start : start + length] == end:
                    return tokens[start + length : start + length + self.num_tokens]
        return ()


class DraftNetwork(Speculation):
    """A small network of the same vocabulary writes ahead; it draws with the same samplers and numbers as the large one.

    Its cache has the large one's blocks, so a sequence's table serves both.

    Args:
        network: much faster than the engine's.
        num_tokens: proposals at a time.
    """

    def __init__(self, network: Network, num_tokens: int = 4) -> None:
        if num_tokens < 1:
            raise RequestError(f"a draft network needs num_tokens of at least 1, not {num_tokens}")
        self.network, self.num_tokens = network, num_tokens
        self._shadows: dict[int, Reply] = {}  # of each place: what the draft has computed

    def begin(self, max_running: int, num_blocks: int, vocab_size: int) -> None:
        """See Speculation."""
        if self.network.vocab_size < vocab_size:
            raise RequestError(
                f"the draft network has {self.network.vocab_size} ids and the engine's {vocab_size}: they need one tokenizer"
            )
        self._runner = Runner(self.network, max_running, num_blocks, vocab_size=vocab_size)

    def propose(self, rooms: Mapping[Reply, int], chooser: Chooser) -> None:
        """See Speculation."""
        rooms = {reply: room for reply, room in rooms.items() if len(reply.tokens) + room <= self.network.context_length}
        shadows = {reply: self._shadow(reply) for reply in rooms}
        while going := [reply for reply, room in rooms.items() if len(reply.proposals) < room]:
            rows = [Row(shadows[reply], shadows[reply].num_pending) for reply in going]
            hidden_TD = self._runner.forward(rows)
            ends = [total - 1 for total in accumulate(row.num_tokens for row in rows)]
            choices = chooser.choose([Draw(row.reply, 0) for row in rows], self._runner.logits(hidden_TD[ends]))
            for reply, choice in zip(going, choices):
                shadow = shadows[reply]
                shadow.num_held = len(shadow.tokens)
                if isinstance(choice, Exception):
                    del rooms[reply]  # the large network will say whether that is an error
                else:
                    shadow.tokens.append(choice.token)
                    reply.proposals.append(choice.token)

    def _shadow(self, reply: Reply) -> Reply:
        """The reply as the draft network sees it, with what it has computed of these very tokens."""
        before = self._shadows.get(reply.place)
        held = 0
        if before is not None and before.blocks is reply.blocks:
            most = min(before.num_held, len(reply.tokens) - 1)
            held = next((at for at in range(before.num_new_tokens, most) if before.tokens[at] != reply.tokens[at]), most)
        # the draft never ends a reply, so num_new_tokens is free to say where its own tokens began
        shadow = Reply(reply.request_id, reply.index, reply.request, len(reply.tokens), reply.seed, list(reply.tokens))
        shadow.blocks, shadow.place, shadow.num_held = reply.blocks, reply.place, held
        self._shadows[reply.place] = shadow
        return shadow
