"""Who has which block of the cache, and which blocks hold a prompt that may come again. No torch: numbers only.

A full block is known by its token ids and the block before it, back to the first, whose predecessor is the request's cache key;
dictionaries compare these keys whole, so that a block found is a block verified. Must not know requests or networks.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

Key = tuple[Hashable, tuple[int, ...]]  # (serial of the block before, or the cache key; the block's ids)


class BlockPool:
    """Blocks numbered 1 to `num_blocks`, each with so many users; unused ones with known contents are kept until the room is needed.

    Args:
        num_blocks: how many.
        block_tokens: tokens of a block.
    """

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        self.num_blocks, self.block_tokens = num_blocks, block_tokens
        self._blank = list(range(num_blocks, 0, -1))  # a stack: memory touched last is used again first
        self._users: dict[int, int] = {}
        self._keys: dict[int, Key] = {}  # block -> what it holds
        self._serials: dict[int, int] = {}  # block -> number of its contents, never used again
        self._known: dict[Key, int] = {}  # what -> block
        self._idle: dict[int, None] = {}  # known blocks without users, the longest unused first
        self._next_serial = 0

    @property
    def num_free(self) -> int:
        """Blocks that can be had: blank ones and known ones without users."""
        return len(self._blank) + len(self._idle)

    @property
    def num_used(self) -> int:
        """Blocks with users."""
        return len(self._users)

    def take(self) -> int:
        """A block for one user. The caller has seen that one is free."""
        if self._blank:
            block = self._blank.pop()
        else:
            block = next(iter(self._idle))
            del self._idle[block]
            self._forget(block)
        self._users[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more user of a block that is used or known."""
        self._idle.pop(block, None)
        self._users[block] = self._users.get(block, 0) + 1

    def release(self, blocks: Sequence[int]) -> None:
        """One user less of each block; from the end, so that a prompt's beginning is kept longest."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
                if block in self._keys:
                    self._idle[block] = None
                else:
                    self._blank.append(block)

    def find(self, tokens: Sequence[int], cache_key: str) -> list[int]:
        """The known blocks that hold the beginning of these tokens; not yet shared."""
        found: list[int] = []
        before: Hashable = cache_key
        for start in range(0, len(tokens) - self.block_tokens + 1, self.block_tokens):
            block = self._known.get((before, tuple(tokens[start : start + self.block_tokens])))
            if block is None:
                break
            found.append(block)
            before = self._serials[block]
        return found

    def remember(self, tokens: Sequence[int], blocks: Sequence[int], cache_key: str) -> None:
        """Make the full blocks of a sequence known; where another block holds the same, that one stays the known one."""
        before: Hashable = cache_key
        for number, start in enumerate(range(0, len(tokens) - self.block_tokens + 1, self.block_tokens)):
            key = before, tuple(tokens[start : start + self.block_tokens])
            block = self._known.setdefault(key, blocks[number])
            if block == blocks[number] and block not in self._keys:
                self._keys[block], self._serials[block] = key, self._next_serial
                self._next_serial += 1
            before = self._serials[block]

    def forget_all(self) -> None:
        """No block holds anything known any more: the weights have changed."""
        self._blank.extend(self._idle)
        for known in (self._idle, self._keys, self._serials, self._known):
            known.clear()

    def _forget(self, block: int) -> None:
        del self._known[self._keys.pop(block)]
        del self._serials[block]
