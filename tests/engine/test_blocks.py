"""Blocks: who has them, what is known of their contents, and that none is ever lost."""

from __future__ import annotations

import random

from framework.engine.blocks import BlockPool

SIZE = 4


def fill(pool: BlockPool, tokens: list[int], key: str = "") -> list[int]:
    """A sequence that uses what is known of its tokens, takes the rest, and makes itself known."""
    blocks = pool.find(tokens, key)
    for block in blocks:
        pool.share(block)
    blocks = blocks + [pool.take() for _ in range(-(-len(tokens) // SIZE) - len(blocks))]
    pool.remember(tokens, blocks, key)
    return blocks


def test_full_blocks_of_the_same_beginning_are_found() -> None:
    pool = BlockPool(10, SIZE)
    blocks = fill(pool, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert pool.find([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], "") == blocks[:2]
    assert pool.find([1, 2, 3, 4, 0, 6, 7, 8], "") == blocks[:1]
    assert pool.find([0, 2, 3, 4, 5, 6, 7, 8], "") == []  # the second block's ids alone do not tell what they follow
    assert pool.find([5, 6, 7, 8], "") == []
    assert pool.find([1, 2, 3], "") == []
    assert pool.find([1, 2, 3, 4], "another tenant") == []


def test_released_blocks_stay_known_until_the_room_is_needed() -> None:
    pool = BlockPool(4, SIZE)
    pool.release(fill(pool, list(range(8))))
    assert pool.num_free == 4 and pool.num_used == 0
    assert len(pool.find(list(range(8)), "")) == 2
    taken = [pool.take() for _ in range(3)]
    assert len(pool.find(list(range(8)), "")) == 1  # the end of the known prompt went first
    pool.release(taken)
    assert pool.num_free == 4


def test_shared_blocks_are_free_when_the_last_user_goes() -> None:
    pool = BlockPool(3, SIZE)
    first, second = fill(pool, list(range(6))), fill(pool, list(range(6)))
    assert first[0] == second[0] and first[1] != second[1] and pool.num_free == 0
    pool.release(first)
    assert pool.num_used == 2
    pool.release(second)
    assert pool.num_used == 0 and pool.num_free == 3


def test_changed_weights_forget_everything_but_who_uses_what() -> None:
    pool = BlockPool(4, SIZE)
    used, idle = fill(pool, [1, 2, 3, 4]), fill(pool, [5, 6, 7, 8])
    pool.release(idle)
    pool.forget_all()
    assert pool.find([1, 2, 3, 4], "") == pool.find([5, 6, 7, 8], "") == [] and pool.num_free == 3
    pool.release(used)
    assert pool.num_free == 4 and pool.find([1, 2, 3, 4], "") == []


def test_nothing_is_lost_and_nobody_gets_a_block_in_use() -> None:
    draw, pool = random.Random(0), BlockPool(12, SIZE)
    sequences: list[tuple[list[int], list[int]]] = []
    for _ in range(3000):
        tokens = [draw.randrange(2) for _ in range(draw.randint(1, 20))]
        if len(tokens) <= pool.num_free * SIZE:
            sequences.append((tokens, fill(pool, tokens)))
        if sequences and draw.random() < 0.6:
            pool.release(sequences.pop(draw.randrange(len(sequences)))[1])
        if draw.random() < 0.01:
            pool.forget_all()
        used = {block for _, blocks in sequences for block in blocks}
        assert pool.num_used == len(used) and pool.num_free == 12 - len(used)
        for tokens, blocks in sequences:  # a block in two sequences holds the same tokens at the same place in both
            for others, other_blocks in sequences:
                for place, (one, other) in enumerate(zip(blocks, other_blocks)):
                    assert one != other or tokens[: (place + 1) * SIZE] == others[: (place + 1) * SIZE]
