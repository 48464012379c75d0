"""Questions with choices: the model's choice is the one it finds likeliest after the question.

Rows flow in, the share of right choices flows out. Must not know how likelihoods are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from framework.datasets.base import Row, Rows
from framework.errors import DataError
from framework.tasks.base import Options, Progress, Result, Task
from framework.tasks.estimates import proportion
from framework.tasks.likelihood import continuation, likelihoods
from framework.tasks.rows import BETWEEN, describe, few_shot_split, fill, value
from framework.tokenizers.text import utf8

if TYPE_CHECKING:
    from framework.generation import Generator

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class MultipleChoice(Task):
    """Multiple choice by log-likelihood: `accuracy` by the summed one, `accuracy_per_byte` by the one a byte of the choice.

    These are lm-eval's `acc` and `acc_bytes` (`acc_norm`, which divides by characters, is the same for ASCII), with its encoding of
    context and choice. Of equal choices the first counts.

    Args:
        dataset: rows such as `{"question": ..., "choices": ["4", "5"], "answer": 0}`.
        template: the context, with fields of the row in braces; null: the field `question` and "\\nAnswer:", or the field `context`.
        delimiter: between the context and a choice.
        choices_field: holds the choices: a list of texts.
        answer_field: holds the right one: its number, from 0, or its letter.
        few_shot: so many rows, the first of few_shot_dataset, come with their answers before each question.
        few_shot_dataset: where those are from; null: `dataset`, whose other rows are then asked.
        name: what the results are called.
    """

    def __init__(
        self,
        dataset: Rows,
        template: str | None = None,
        delimiter: str = " ",
        choices_field: str = "choices",
        answer_field: str = "answer",
        few_shot: int = 0,
        few_shot_dataset: Rows | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if few_shot < 0:
            raise ValueError(f"few_shot is {few_shot} and must be at least 0")
        self.dataset, self.template, self.delimiter = dataset, template, delimiter
        self.choices_field, self.answer_field = choices_field, answer_field
        self.few_shot, self.few_shot_dataset = few_shot, few_shot_dataset

    def measure(self, generator: Generator, options: Options, progress: Progress) -> Result:
        """See the class."""
        shown, rows = few_shot_split(self.dataset, self.few_shot, self.few_shot_dataset, options.limit)
        before = "".join(self._worked(self._question(row)) for row in shown)
        questions = [self._question(row) for row in rows]
        stretches = [
            [
                continuation(generator.tokenizer, before + asked.context, self.delimiter + each, generator.context_length)
                for each in asked.choices
            ]
            for asked in questions
        ]
        flat = [stretch for of_question in stretches for stretch in of_question]
        nats = [0.0] * len(flat)
        for done, (place, score) in enumerate(likelihoods(generator.engine.network, flat, options.batch_tokens), start=1):
            nats[place] = score.nats
            progress(done * len(questions) // len(flat), len(questions))
        in_order = iter(nats)
        judged = [_Judged(question, [next(in_order) for _ in question.choices]) for question in questions]
        return Result(
            task=self.name,
            n=len(judged),
            metrics={
                "accuracy": proportion(sum(each.chosen == each.question.answer for each in judged), len(judged)),
                "accuracy_per_byte": proportion(sum(each.chosen_per_byte == each.question.answer for each in judged), len(judged)),
            },
            settings={
                "dataset": describe(self.dataset),
                "template": self.template,
                "delimiter": self.delimiter,
                "few_shot": self.few_shot,
                "few_shot_dataset": None if self.few_shot_dataset is None else describe(self.few_shot_dataset),
            },
            counts={"choices": len(flat), "cut": sum(any(stretch.was_cut for stretch in of_question) for of_question in stretches)},
            samples=[each.sample(before) for each in judged[: options.samples]],
        )

    def _question(self, row: Row) -> Question:
        if self.template is not None:
            context = fill(self.template, row)
        elif row.fields.get("question") is not None:
            context = f"{row.fields['question']}\nAnswer:"
        else:
            context = str(value(row, "context"))
        choices = value(row, self.choices_field)
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(choice, str) and choice for choice in choices):
            raise DataError(f"{row.source}: the field {self.choices_field} must be a list of at least two texts, none of them empty")
        return Question(context, choices, self._answer(row, len(choices)), row.source)

    def _answer(self, row: Row, num_choices: int) -> int:
        stated = value(row, self.answer_field)
        text = str(stated).strip().upper()
        answer = LETTERS.index(text) if len(text) == 1 and text in LETTERS else int(text) if text.isdecimal() else -1
        if isinstance(stated, bool) or not 0 <= answer < num_choices:
            last = LETTERS[num_choices - 1] if num_choices <= len(LETTERS) else "Z"
            raise DataError(
                f"{row.source}: the field {self.answer_field} is {stated!r} and must say which of {num_choices} choices is right: "
                f"a number from 0 to {num_choices - 1}, or a letter from A to {last}"
            )
        return answer

    def _worked(self, question: Question) -> str:
        return f"{question.context}{self.delimiter}{question.choices[question.answer]}{BETWEEN}"


class Question(NamedTuple):
    """A row that is understood; `answer` is the number of the right choice."""

    context: str
    choices: Sequence[str]
    answer: int
    source: str


class _Judged(NamedTuple):
    question: Question
    nats: Sequence[float]

    @property
    def chosen(self) -> int:
        return min(range(len(self.nats)), key=lambda number: self.nats[number])

    @property
    def chosen_per_byte(self) -> int:
        return min(range(len(self.nats)), key=lambda number: self.nats[number] / len(utf8(self.question.choices[number])))

    def sample(self, before: str) -> dict[str, Any]:
        """The question to look at."""
        context, choices, answer, source = self.question
        asked = {"source": source, "context": before + context, "choices": list(choices), "answer": answer}
        return {**asked, "chosen": self.chosen, "chosen_per_byte": self.chosen_per_byte, "nats": list(self.nats)}
