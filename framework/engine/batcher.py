"""Who computes what in the next round: who goes on, whose prompt is read, who waits, who must give way. No torch: numbers only.

Replies flow in; a round (replies and how many of their tokens the network is to see) flows out, with blocks and places given to them.
Replies that draw go on in every round, whatever it costs; prompts are read `chunk_tokens` a round, in the order of their arrival.
When blocks run out the youngest running reply loses its own and waits, first in line, to be computed again. Must not know networks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from framework.engine.blocks import BlockPool
from framework.engine.reply import Reply


class Row(NamedTuple):
    """A reply's part of a round: the network sees its next `num_tokens` tokens, proposals included."""

    reply: Reply
    num_tokens: int


class Batcher:
    """Plans rounds over a pool of blocks.

    Args:
        pool: the cache's blocks.
        max_running: most replies that run at a time.
        chunk_tokens: most prompt tokens of a round.
        prefix_cache: whether prompts use blocks that hold their beginning already.
    """

    def __init__(self, pool: BlockPool, max_running: int, chunk_tokens: int, prefix_cache: bool) -> None:
        self.pool, self.chunk_tokens, self.prefix_cache = pool, chunk_tokens, prefix_cache
        self.waiting: deque[Reply] = deque()
        self.running: list[Reply] = []  # the youngest last
        self.num_preemptions = self.num_prefix_tokens = 0
        self._places = list(range(max_running - 1, -1, -1))

    def add(self, replies: Iterable[Reply]) -> None:
        """Replies that wait, last in line."""
        self.waiting.extend(replies)

    def plan(self) -> list[Row]:
        """The next round, empty when nothing waits or runs. Every row has the blocks it needs."""
        rows: list[Row] = []
        budget = self.chunk_tokens
        for reply in sorted(self.running, key=lambda reply: reply.num_pending > 1):  # stable: replies that draw, then prompts
            count = 1 if reply.num_pending == 1 else min(reply.num_pending, budget)
            if reply.place >= 0 and count and self._make_room(reply, count):  # it may just have given way to an older one
                rows.append(Row(reply, count))
                budget -= count if reply.num_pending > 1 else 0
        rows = [Row(row.reply, row.num_tokens + len(row.reply.proposals)) for row in rows if row.reply.place >= 0]
        rows += self._admit(budget)
        if not rows and self.waiting:  # for beams whose logits are known: these need their blocks only to be copied
            for reply in reversed(self.running):
                if not reply.num_pending:
                    self._stop(reply)
                    self.num_preemptions += 1
                    return self.plan()
        return rows

    def come_back(self, reply: Reply) -> None:
        """A reply that had to give its blocks away while others were waited for goes on, first in line."""
        if reply.place < 0 and reply not in self.waiting:
            self.waiting.appendleft(reply)

    def reserve(self, reply: Reply, num_tokens: int) -> int:
        """Blocks for so many proposals of a reply that draws, or for as many as others can spare: how many that is."""
        size, spare = self.pool.block_tokens, self.pool.num_free - len(self.running)
        num_tokens = min(num_tokens, (len(reply.blocks) + max(0, spare)) * size - len(reply.tokens))
        if num_tokens < 1:
            return 0
        self._grow(reply, self._num_blocks(len(reply.tokens) + num_tokens))
        return num_tokens

    def finish(self, reply: Reply) -> None:
        """A reply has ended, or is not wanted any more; nothing happens if that was said before."""
        if reply.place >= 0:
            self._stop(reply)
        elif reply in self.waiting:
            self.waiting.remove(reply)

    def advance(self, reply: Reply, num_tokens: int) -> None:
        """The cache has so many more of a reply's tokens; blocks that are full now become known."""
        reply.num_held += num_tokens
        if self.prefix_cache and reply.num_held % self.pool.block_tokens < num_tokens:
            self.pool.remember(reply.tokens[: reply.num_held], reply.blocks, reply.request.cache_key)

    def fork(self, parent: Reply, child: Reply) -> tuple[int, int] | None:
        """Let a child run beside its parent, all of whose tokens the cache has, on the same full blocks.

        Returns:
            The last block of the parent, partly filled, and the child's own, which must become its copy; (0, 0) where none is partly
            filled; None when there is no room: the child then has to wait in line.
        """
        full, part = divmod(parent.num_held, self.pool.block_tokens)
        if parent.place < 0 or not self._places or self.pool.num_free < bool(part):
            return None
        shared = parent.blocks[:full]
        for block in shared:
            self.pool.share(block)
        child.blocks = shared + ([self.pool.take()] if part else [])
        child.num_held = parent.num_held
        self._start(child)
        return (parent.blocks[full], child.blocks[-1]) if part else (0, 0)

    def preempt_all(self) -> None:
        """Everything has to be computed again, in the same order; nothing computed so far is used: the weights have changed."""
        while self.running:
            self._preempt(self.running[-1])
        self.pool.forget_all()

    def _admit(self, budget: int) -> list[Row]:
        rows: list[Row] = []
        while self.waiting and self._places and budget > 0:
            reply = self.waiting[0]
            known = self._known_blocks(reply)
            for block in known:
                self.pool.share(block)
            held = len(known) * self.pool.block_tokens
            count = min(len(reply.tokens) - held, budget)
            # room for the whole prompt and one more token, or a reply that was admitted would at once give way again
            if self._num_blocks(len(reply.tokens) + 1) - len(known) > self.pool.num_free:
                self.pool.release(known)
                break
            self.waiting.popleft()
            self.num_prefix_tokens += held
            reply.blocks, reply.num_held = known, held
            self._start(reply)
            self._make_room(reply, count)
            rows.append(Row(reply, count))
            budget -= count
        return rows

    def _known_blocks(self, reply: Reply) -> list[int]:
        if not self.prefix_cache or reply.request.prompt_logprobs is not None:
            return []
        return self.pool.find(reply.tokens[:-1], reply.request.cache_key)  # the last token must be computed: its logits are wanted

    def _make_room(self, reply: Reply, count: int) -> bool:
        """Give a reply the blocks for so many more tokens, taking them from the youngest if need be; false if that is itself."""
        wanted = self._num_blocks(reply.num_held + count)
        while wanted - len(reply.blocks) > self.pool.num_free:
            youngest = self.running[-1]
            self._preempt(youngest)
            self.num_preemptions += 1
            if youngest is reply:
                return False
        self._grow(reply, wanted)
        return True

    def _grow(self, reply: Reply, num_blocks: int) -> None:
        while len(reply.blocks) < num_blocks:
            reply.blocks.append(self.pool.take())

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.pool.block_tokens)

    def _start(self, reply: Reply) -> None:
        reply.place = self._places.pop()
        self.running.append(reply)

    def _preempt(self, reply: Reply) -> None:
        self._stop(reply)
        reply.proposals.clear()
        reply.prompt_logprobs.clear()
        self.waiting.appendleft(reply)

    def _stop(self, reply: Reply) -> None:
        self.running.remove(reply)
        self._places.append(reply.place)
        self.pool.release(reply.blocks)
        reply.place, reply.blocks, reply.num_held = -1, [], 0
