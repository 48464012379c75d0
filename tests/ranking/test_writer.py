"""Replies are there before they are asked for, in the order in which they are wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.datasets.base import Message
from framework.generation import Chunk, Generator, Settings
from framework.ranking.rankings import Reply
from framework.ranking.writer import Writer, WritingFailed, distinct

SETTINGS = Settings(n=3, seed=5, max_new_tokens=6)


def wait(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_replies_draw_with_their_seeds(model_directory: Path) -> None:
    generator = Generator.load(model_directory)
    chat = (Message("user", "hi"),)
    writer = Writer(generator, ["one", chat], SETTINGS, lambda: [1, 0], {})
    writer.start()
    wait(lambda: writer.replies(0))
    writer.stop()
    alone = Generator.load(model_directory)
    for number, prompt in enumerate(["one", alone.render(chat)]):
        replies = writer.replies(number)
        assert replies is not None and [reply.seed for reply in replies] == [5 + 3 * number + index for index in range(3)]
        for reply in replies:
            assert reply.text == alone.generate(prompt, Settings(seed=reply.seed, max_new_tokens=6))
            assert not reply.finished


def test_only_what_is_wanted_is_written(model_directory: Path) -> None:
    wanted = [2]
    writer = Writer(Generator.load(model_directory), ["a", "b", "c", "d"], SETTINGS, lambda: wanted, {3: (Reply("known", 0, True),)})
    writer.start()
    wait(lambda: writer.replies(2))
    assert writer.replies(0) is None and writer.replies(3) == (Reply("known", 0, True),)
    wanted[:] = [3, 1]
    writer.wake()
    wait(lambda: writer.replies(1))
    writer.stop()
    assert writer.replies(0) is None


def test_prompts_without_replies_to_rank_are_told(model_directory: Path) -> None:
    prompts = ["x" * 500, "a", "b"]
    same = Settings(n=3, seed=0, temperature=0.0, max_new_tokens=4)
    writer = Writer(Generator.load(model_directory), prompts, same, lambda: [0, 1, 2], {2: (Reply("known", 0, True),)})
    writer.start()
    wait(lambda: len(writer.problems) == 2)
    writer.stop()
    assert "500" in writer.problems[0] and writer.problems[1] == "its 3 replies are all the same, or empty"


def test_stopping_does_not_wait_for_a_reply(model_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator.load(model_directory)
    begun: list[str] = []

    def endless(*_: object) -> Iterator[Chunk]:
        try:
            while True:
                begun.append("a piece")
                yield Chunk("a piece", None)
        finally:
            begun.append("closed")

    monkeypatch.setattr(generator, "stream", endless)
    writer = Writer(generator, ["a"], SETTINGS, lambda: [0], {})
    writer.start()
    wait(lambda: begun)
    writer.stop()
    assert writer.replies(0) is None and begun[-1] == "closed"
    Writer(generator, ["a"], SETTINGS, lambda: [0], {}).stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_fails_says_so(model_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator.load(model_directory)
    monkeypatch.setattr(generator, "stream", lambda *_: 1 / 0)
    writer = Writer(generator, ["a"], SETTINGS, lambda: [0], {})
    writer.start()
    wait(lambda: writer.failure)
    with pytest.raises(WritingFailed, match="ZeroDivisionError"):
        writer.replies(0)
    writer.stop()


def test_distinct() -> None:
    replies = [Reply(text, seed, True) for seed, text in enumerate(["a", " a\n", "", "b", "  ", "A", "b"])]
    assert [reply.seed for reply in distinct(replies)] == [0, 3, 5]
