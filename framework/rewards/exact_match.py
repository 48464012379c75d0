"""A reward for the right answer: what a reply gives is compared with a field of the prompt's row. Must not know how replies are made."""

from __future__ import annotations

from framework.rewards.answers import How, same
from framework.rewards.answers import extract as extract_answer
from framework.rewards.base import Reward, Sample


class ExactMatch(Reward):
    r"""Pays for the right answer.

    Args:
        field: of the row: the right answer; where the same way finds an answer in it (a worked solution), that one counts.
        extract: where a reply's answer stands: `whole`, `first_line`, `last_number`, `gsm8k` (`#### 42`) or `boxed` (`\boxed{42}`).
        right: reward of the right answer; numbers are compared as numbers.
        wrong: reward of any other reply.
    """

    def __init__(self, field: str = "answer", extract: How = "whole", right: float = 1.0, wrong: float = 0.0) -> None:
        self.field, self.extract, self.right, self.wrong = field, extract, right, wrong

    def score(self, sample: Sample) -> float:
        """`right` or `wrong`. Raises ValueError for a row without the field."""
        if self.field not in sample.fields:
            raise ValueError(f"the row has no field {self.field}; it has {', '.join(sample.fields) or 'none'}")
        stated = str(sample.fields[self.field])
        given = extract_answer(sample.reply, self.extract)
        expected = extract_answer(stated, self.extract) or stated
        return self.right if given is not None and same(given, expected) else self.wrong
