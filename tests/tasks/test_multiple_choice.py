"""Multiple choice: by hand with transformers, formats of rows, worked examples, and rows that are unfit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from framework.errors import DataError
from framework.generation import Generator
from framework.tasks.base import Options
from framework.tasks.multiple_choice import MultipleChoice

Nats = Callable[[Sequence[int]], torch.Tensor]
ROWS = [
    {"question": "Where did the cat sit?", "choices": ["on the mat", "a tree", "the house looked at a bird"], "answer": 0},
    {"question": "Who ran to the house?", "choices": ["the dog", "fish", "a bird ran", "the cat"], "answer": "C"},
    {"question": "What sat?", "choices": ["The cat", "The tree"], "answer": "1"},
    {"question": "What ran?", "choices": ["The house", "The dog", "ö"], "answer": "b"},
]


def by_hand(theirs: tuple[Any, Any], nats: Nats, before: str, row: dict[str, Any]) -> list[float]:
    context = f"{before}{row['question']}\nAnswer:"
    scores = []
    for choice in row["choices"]:
        num_context, whole = len(theirs[1].encode(context)), theirs[1].encode(f"{context} {choice}")
        kept = whole[-49:]
        scores.append(float(nats(kept)[-(len(whole) - num_context) :].sum()))
    return scores


def test_it_is_transformers(generator: Generator, table: Any, theirs: tuple[Any, Any], their_nats: Nats) -> None:
    found = MultipleChoice(table(*ROWS)).evaluate(generator, Options(samples=4, batch_tokens=70))
    right = right_per_byte = 0
    for row, sample, answer in zip(ROWS, found.samples, [0, 2, 1, 1], strict=True):
        expected = by_hand(theirs, their_nats, "", row)
        assert sample["nats"] == pytest.approx(expected, abs=1e-3)
        per_byte = [score / len(choice.encode()) for score, choice in zip(expected, row["choices"])]
        assert sample["chosen"] == expected.index(min(expected)) and sample["chosen_per_byte"] == per_byte.index(min(per_byte))
        assert sample["answer"] == answer
        right += sample["chosen"] == answer
        right_per_byte += sample["chosen_per_byte"] == answer
    assert found.metrics["accuracy"].value == right / 4 and found.metrics["accuracy_per_byte"].value == right_per_byte / 4
    assert found.n == 4 and found.counts == {"choices": 12, "cut": 0} and found.metrics["accuracy"].interval == "Wilson"
    assert any(sample["chosen"] != sample["chosen_per_byte"] for sample in found.samples)


def test_worked_examples(generator: Generator, table: Any, theirs: tuple[Any, Any], their_nats: Nats) -> None:
    """The first rows of the dataset, or of another one; a context that is too long loses its beginning, which is counted."""
    before = "Where did the cat sit?\nAnswer: on the mat\n\n"
    found = MultipleChoice(table(*ROWS), few_shot=1).evaluate(generator, Options(samples=4))
    assert [sample["source"] for sample in found.samples] == ["row:2", "row:3", "row:4"]
    elsewhere = MultipleChoice(table(*ROWS[1:]), few_shot=1, few_shot_dataset=table(ROWS[0])).evaluate(generator, Options(samples=4))
    assert elsewhere.metrics == found.metrics
    for row, sample in zip(ROWS[1:], found.samples, strict=True):
        assert sample["context"] == f"{before}{row['question']}\nAnswer:"
        assert sample["nats"] == pytest.approx(by_hand(theirs, their_nats, before, row), abs=1e-3)
    assert found.counts["cut"] > 0
    assert MultipleChoice(table(*ROWS), few_shot=1).evaluate(generator, Options(limit=2)).n == 2


def test_contexts_templates_and_fields(generator: Generator, table: Any) -> None:
    plain = {"context": "The cat sat", "endings": ["on the mat", "tree"], "label": "0", "verb": "sat"}
    found = MultipleChoice(table(plain), choices_field="endings", answer_field="label").evaluate(generator, Options(samples=1))
    assert found.samples[0]["context"] == "The cat sat"
    filled = MultipleChoice(table(plain), template="The cat {verb}", choices_field="endings", answer_field="label")
    assert filled.evaluate(generator).metrics == found.metrics


def test_a_network_that_knows_nothing(generator: Generator, table: Any) -> None:
    """Closed form: every token costs as much, so that the sum prefers few tokens and a byte's share long ones."""
    with torch.no_grad():
        generator.engine.network.head_weight_VD.zero_()
    choices = ["q", "the mat. The mat."]
    counts = [len(generator.tokenizer.encode(f"x {choice}")) - 1 for choice in choices]
    assert counts[0] < counts[1] < 17 * counts[0]
    rows = [{"context": "x", "choices": choices, "answer": right} for right in (1, 1, 0)]
    found = MultipleChoice(table(*rows)).evaluate(generator)
    assert found.metrics["accuracy"].value == pytest.approx(1 / 3)
    assert found.metrics["accuracy_per_byte"].value == pytest.approx(2 / 3)
    letters = MultipleChoice(table({"context": "x", "choices": ["zqzq", "öööö"], "answer": 1})).evaluate(generator)
    assert letters.metrics["accuracy_per_byte"].value == 1.0  # 4 bytes and 8; by characters the first would win


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 2}, "row:1: the field answer is 2 and must say which of 2 choices"),
        ({"answer": "C"}, "a letter from A to B"),
        ({"answer": True}, "the field answer is True"),
        ({"answer": None}, "has no field answer"),
        ({"choices": "ab"}, "must be a list of at least two texts"),
        ({"choices": ["a", ""]}, "none of them empty"),
        ({"question": None}, "has no field context"),
    ],
)
def test_unfit_rows_are_named(generator: Generator, table: Any, change: dict[str, Any], message: str) -> None:
    row = {"question": "q", "choices": ["a", "b"], "answer": 0, **change}
    with pytest.raises(DataError, match=message):
        MultipleChoice(table(row)).evaluate(generator)


def test_other_mistakes_are_said(generator: Generator, table: Any) -> None:
    with pytest.raises(DataError, match="too few rows"):
        MultipleChoice(table(ROWS[0]), few_shot=1).evaluate(generator)
    with pytest.raises(DataError, match=r"row:1: the template '\{nothing\}' cannot be filled: there is no field 'nothing', but question"):
        MultipleChoice(table(ROWS[0]), template="{nothing}").evaluate(generator)
    with pytest.raises(ValueError, match="few_shot is -1"):
        MultipleChoice(table(ROWS[0]), few_shot=-1)
