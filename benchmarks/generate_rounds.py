"""What all generating contenders do alike: prompts, the best number of threads, rounds, and rates from the times of tokens.

An engine flows in as a function from prompts to stamps, rates flow out through the worker's `rounds`. Runs in the peers' Pythons
too, so it needs nothing but the standard library.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

PROMPT_INCLUDED = " (prompt included)"  # ends the name of the rate that counts the prompt's time, too

Prompts = list[list[int]]
Stamp = tuple[float, Sequence[int]]  # when tokens were there (time.perf_counter), and which sequences got one
Decode = Callable[[Prompts, int], list[Stamp]]  # prompts, and the length that every reply has exactly


@dataclass(frozen=True)
class Task:
    """What a section asks for.

    Attributes:
        batch_size: sequences that are there from the start.
        prompt_length, reply_length: of each, in tokens.
        vocab_size: ids are drawn from it.
        threads: the most to try.
    """

    batch_size: int
    prompt_length: int
    reply_length: int
    vocab_size: int
    threads: int

    def prompts(self, seed: int) -> Prompts:
        """Random prompts: others in every round, so that no one has computed them before."""
        chance = random.Random(seed)
        return [chance.choices(range(self.vocab_size), k=self.prompt_length) for _ in range(self.batch_size)]


def decode_rounds(
    rounds: Any, name: str, task: dict[str, int], decode: Decode, set_threads: Callable[[int], Any], columns: dict[str, str] | None = None
) -> None:
    """Generate round by round, with the number of threads that was best in a first trial."""
    asked = Task(**task)
    threads = best_threads(asked, decode, set_threads)
    rounds.note(columns={"threads": str(threads), **(columns or {})})
    for number in itertools.count():
        rounds()
        prompts = asked.prompts(number)
        begin = time.perf_counter()
        stamps = decode(prompts, asked.reply_length)
        rounds.note(rates=rates(name, asked, begin, stamps))


def best_threads(task: Task, decode: Decode, set_threads: Callable[[int], Any]) -> int:
    """Of 1, 2, 4, ... threads the fastest in a short trial: the best of two turns each."""
    counts = sorted({1, *(2**power for power in range(1, 8) if 2**power <= task.threads), task.threads})
    if len(counts) == 1:
        set_threads(1)
        return 1
    best = dict.fromkeys(counts, float("inf"))
    for turn in range(3):  # the first warms up
        for count in counts:
            set_threads(count)
            begin = time.perf_counter()
            decode(task.prompts(10_000 + turn), min(12, task.reply_length))
            if turn:
                best[count] = min(best[count], time.perf_counter() - begin)
    fastest = min(counts, key=lambda count: best[count])
    set_threads(fastest)
    return fastest


def rates(name: str, task: Task, begin: float, stamps: list[Stamp]) -> dict[str, float]:
    """Tokens a second of all sequences: while every one of them is being decoded, and from the beginning to the last token."""
    count: Counter[int] = Counter()
    decoding: list[tuple[float, int]] = []  # while all have begun and none has finished
    for moment, sequences in stamps:
        if len(count) == task.batch_size and max(count.values()) < task.reply_length:
            decoding.append((moment, len(sequences)))
        count.update(sequences)
        if len(count) == task.batch_size and not decoding:
            first = moment
    wrong = {sequence: length for sequence, length in count.items() if length != task.reply_length}
    assert len(count) == task.batch_size and not wrong, f"replies of other lengths than {task.reply_length}: {wrong}"
    alone = sum(tokens for _, tokens in decoding) / (decoding[-1][0] - first)
    return {name: alone, name + PROMPT_INCLUDED: sum(count.values()) / (stamps[-1][0] - begin)}
