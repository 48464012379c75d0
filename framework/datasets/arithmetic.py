"""Sums that are made up: a task with one right answer, of which there are as many examples as are wanted.

A seed flows in, rows or documents flow out. Must not know tokenizers or rewards.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from framework.datasets.base import Document, Documents, Row, Rows
from framework.errors import ConfigError

Form = Literal["demonstration", "preference", "prompt"]


class Arithmetic(Documents, Rows):
    """`12+34=` and `46`: questions that differ from each other, in an order that the seed decides; as documents the two in one.

    Two datasets that differ in `start`, `size` and `form` only, and whose ranges do not overlap, share no question: one to train on, one
    held out.

    Args:
        operations: which there are: any of the characters `+-*`.
        digits: most digits of the two numbers, which are drawn evenly from all that have no more.
        size: number of rows.
        seed: decides which questions come in which order.
        start: questions passed over before the first row.
        form: `demonstration` has `prompt` and `completion`, `preference` a wrong answer that looks right beside the right one (`prompt`,
            `chosen`, `rejected`), `prompt` the question alone; each with `answer` too.
        chat: turns of a chat instead of texts.
        wrong_answers: of `preference`, how many wrong answers each question has, a row each.
        mistakes: of documents, the share in which a wrong answer stands first and is corrected: `12+34=47?46`.
    """

    def __init__(
        self,
        operations: str = "+-",
        digits: int = 2,
        size: int = 10_000,
        seed: int = 0,
        start: int = 0,
        form: Form = "demonstration",
        chat: bool = False,
        wrong_answers: int = 1,
        mistakes: float = 0.0,
    ) -> None:
        if not operations or len(set(operations)) < len(operations) or set(operations) - set("+-*"):
            raise ConfigError(f"Arithmetic knows no operations {operations!r}: give some of the characters +-*, each once.")
        if digits < 1 or size < 1 or start < 0:
            raise ConfigError(f"Arithmetic needs digits and size of at least 1 and start of at least 0; got {digits}, {size} and {start}.")
        self._numbers = 10**digits
        self._num_questions = len(operations) * self._numbers**2
        if start + size > self._num_questions:
            raise ConfigError(
                f"there are {self._num_questions:,} questions of {digits} digits with {operations}, and start + size is {start + size:,}: "
                "take fewer, or more digits."
            )
        self.operations, self.digits, self.size, self.seed, self.start = operations, digits, size, seed, start
        if wrong_answers < 1 or (wrong_answers > 1 and form != "preference"):
            raise ConfigError(f"Arithmetic's wrong_answers is {wrong_answers}; it is at least 1, and more only with form preference.")
        if not 0 <= mistakes <= 1:
            raise ConfigError(f"Arithmetic's mistakes is {mistakes}; it is a share from 0 to 1.")
        self.form, self.chat, self.wrong_answers, self.mistakes = form, chat, wrong_answers, mistakes

    def __iter__(self) -> Iterator[Document]:
        for question, answer, source in self._questions():
            generator = random.Random(f"{self.seed} mistake {question}")
            wrong = f"{_wrong(answer, 1, generator)[0]}?" if generator.random() < self.mistakes else ""
            yield Document(f"{question}{wrong}{answer}", source)

    def rows(self) -> Iterator[Row]:
        """The questions from `start` on, with what `form` says."""
        for question, answer, source in self._questions():
            for fields in self._fields(question, answer):
                if self.chat:
                    fields = {name: [{"role": _role(name), "content": text}] for name, text in fields.items()}
                yield Row({**fields, "answer": answer}, source)

    def _fields(self, question: str, answer: str) -> Iterator[dict[str, Any]]:
        if self.form == "preference":
            generator = random.Random(f"{self.seed} {question}")
            for wrong in _wrong(answer, self.wrong_answers, generator):
                yield {"prompt": question, "chosen": answer, "rejected": wrong}
        else:
            yield {"prompt": question, **({"completion": answer} if self.form == "demonstration" else {})}

    def fingerprint(self) -> str:
        """Of all settings."""
        settings = (self.operations, self.digits, self.size, self.seed, self.start, self.form, self.chat, self.wrong_answers, self.mistakes)
        return hashlib.sha256(repr(("arithmetic", *settings)).encode()).hexdigest()

    def _questions(self) -> Iterator[tuple[str, str, str]]:
        """Question, answer and source. Draws until enough differ, so that a larger dataset of the same seed begins with a smaller one."""
        generator = random.Random(self.seed)
        drawn: dict[int, None] = {}
        while len(drawn) < self.start + self.size:
            drawn[generator.randrange(self._num_questions)] = None
        for place, number in enumerate(islice(drawn, self.start, None), self.start):
            kind, operands = divmod(number, self._numbers**2)
            left, right = divmod(operands, self._numbers)
            operation = self.operations[kind]
            answer = {"+": left + right, "-": left - right, "*": left * right}[operation]
            yield f"{left}{operation}{right}=", str(answer), f"arithmetic:{place}"


def _role(name: str) -> str:
    return "user" if name == "prompt" else "assistant"


def _wrong(answer: str, count: int, generator: random.Random) -> list[str]:
    """Up to `count` different wrong answers that look right: off by little, or with two neighbouring digits swapped."""
    digits = answer.lstrip("-")
    sign = answer[: -len(digits)]
    near = [str(int(answer) + off) for off in (-10, -2, -1, 1, 2, 10)]
    swaps = range(len(digits) - 1)
    swapped = [f"{sign}{digits[:place]}{digits[place + 1]}{digits[place]}{digits[place + 2 :]}" for place in swaps]
    found = sorted({wrong for wrong in (*near, *swapped) if wrong != answer and str(int(wrong)) == wrong})
    return generator.sample(found, min(count, len(found)))
