"""Who computes what in a round: a plan never gives more than there is, keeps the order of arrival, and lets everyone finish."""

from __future__ import annotations

import random
from collections.abc import Sequence

from framework.engine.batcher import Batcher, Row
from framework.engine.blocks import BlockPool
from framework.engine.reply import Reply, replies_of
from framework.engine.request import Request

SIZE = 4


def make(num_blocks: int = 20, max_running: int = 4, chunk_tokens: int = 8, prefix_cache: bool = False) -> Batcher:
    return Batcher(BlockPool(num_blocks, SIZE), max_running, chunk_tokens, prefix_cache)


def reply(prompt_length: int, new: int = 3, number: int = 0) -> Reply:
    return replies_of(number, Request([number % 7] * prompt_length, max_new_tokens=new), new)[0]


def run(batcher: Batcher, rows: Sequence[Row]) -> None:
    """What the engine does with a round: everything is seen, a token is drawn where all are."""
    for row in rows:
        pending = row.reply.num_pending
        assert row.reply.num_held + row.num_tokens <= len(row.reply.blocks) * SIZE
        batcher.advance(row.reply, min(row.num_tokens, pending))
        if row.num_tokens >= pending and row.reply.append(1):
            batcher.finish(row.reply)


def test_prompts_are_read_in_chunks_and_in_order() -> None:
    batcher = make()
    long, short = reply(13), reply(3, number=1)
    batcher.add([long, short])
    assert batcher.plan() == [Row(long, 8)]
    run(batcher, [Row(long, 8)])
    rows = batcher.plan()
    assert rows == [Row(long, 5), Row(short, 3)]
    run(batcher, rows)
    assert batcher.plan() == [Row(long, 1), Row(short, 1)]


def test_replies_that_draw_never_wait_for_prompts() -> None:
    batcher = make(chunk_tokens=4)
    first = reply(2, new=9)
    batcher.add([first, reply(30, number=1)])
    run(batcher, batcher.plan())
    for _ in range(4):
        rows = batcher.plan()
        assert rows[0] == Row(first, 1) and rows[1].num_tokens == 4
        run(batcher, rows)


def test_places_are_given_in_order_of_arrival() -> None:
    batcher = make(max_running=2)
    replies = [reply(2, number=number) for number in range(5)]
    batcher.add(replies)
    run(batcher, batcher.plan())
    assert batcher.running == replies[:2] and list(batcher.waiting) == replies[2:]


def test_the_youngest_gives_way_and_comes_back_first() -> None:
    batcher = make(num_blocks=4)
    old, young, last = reply(7, new=8), reply(6, new=2, number=1), reply(1, number=2)
    batcher.add([old, young, last])
    for _ in range(2):
        run(batcher, batcher.plan())
    drawn = list(young.tokens)
    while old.place >= 0 and not batcher.num_preemptions:
        run(batcher, batcher.plan())
    assert old.place >= 0 and young.tokens[: len(drawn)] == drawn
    order: list[int] = []
    while batcher.running or batcher.waiting:
        before = {each.request_id for each in (*batcher.running, *batcher.waiting)}
        rows = batcher.plan()
        assert rows, "nobody goes on"
        run(batcher, rows)
        order += before - {each.request_id for each in (*batcher.running, *batcher.waiting)}
    assert batcher.pool.num_used == 0


def test_a_long_prompt_waits_for_room_for_the_whole_of_it() -> None:
    batcher = make(num_blocks=5)
    batcher.add([reply(9), reply(12, number=1)])
    for _ in range(2):
        run(batcher, batcher.plan())
    assert len(batcher.running) == 1 and len(batcher.waiting) == 1 and not batcher.num_preemptions


def test_proposals_take_only_spare_blocks() -> None:
    batcher = make(num_blocks=4)
    one, other = reply(4, new=9), reply(4, new=9, number=1)
    batcher.add([one, other])
    run(batcher, batcher.plan())
    assert batcher.reserve(one, 9) == 0  # two blocks are left, and two replies will want one each
    run(batcher, batcher.plan())
    assert batcher.reserve(one, 9) == 2 and batcher.reserve(one, 2) == 2 and batcher.reserve(one, 0) == 0


def test_random_arrivals_and_departures_all_finish_and_return_every_block() -> None:
    for seed in range(30):
        draw = random.Random(seed)
        batcher = make(draw.randint(8, 20), draw.randint(1, 5), draw.randint(1, 12), draw.random() < 0.5)
        waiting = [reply(draw.randint(1, 20), draw.randint(1, 10), number) for number in range(40)]
        finished = 0
        for _ in range(5000):
            while waiting and draw.random() < 0.4:
                batcher.add([waiting.pop()])
            if batcher.running and draw.random() < 0.02:
                batcher.finish(draw.choice(batcher.running))
                finished += 1
            rows = batcher.plan()
            assert rows or not (batcher.running or batcher.waiting)
            assert len({row.reply.place for row in rows}) == len(rows)
            run(batcher, rows)
            if not (waiting or batcher.running or batcher.waiting):
                break
        assert not (waiting or batcher.running or batcher.waiting)
        assert batcher.pool.num_used == 0 and batcher.pool.num_free == batcher.pool.num_blocks
