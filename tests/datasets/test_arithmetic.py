"""Made-up sums: right, different from each other, and disjoint where they are to be held out."""

from __future__ import annotations

from typing import Any

import pytest

from framework.datasets.arithmetic import Arithmetic
from framework.datasets.records import demonstration, preference, prompt, read
from framework.errors import ConfigError
from framework.testing.datasets import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Any) -> None:
    check(Arithmetic(size=50))


def test_answers_are_right_and_questions_differ() -> None:
    shown = read(Arithmetic("+-*", digits=2, size=3000), demonstration)
    for each in shown:
        assert isinstance(each.prompt, str) and each.prompt.endswith("=")
        assert eval(each.prompt[:-1]) == int(str(each.reply))
    assert len({each.prompt for each in shown}) == 3000
    assert {operation for each in shown for operation in "+-*" if operation in str(each.prompt)[1:]} == set("+-*")
    assert [document.text for document in Arithmetic("+-*", size=3000)] == [f"{each.prompt}{each.reply}" for each in shown]


def test_a_larger_dataset_goes_on_where_a_smaller_one_ends() -> None:
    whole = [row.fields["prompt"] for row in Arithmetic("-", digits=1, size=100, seed=3).rows()]
    assert len(set(whole)) == 100  # every question there is
    for start, size in ((0, 60), (60, 40), (99, 1)):
        part = [row.fields["prompt"] for row in Arithmetic("-", digits=1, size=size, seed=3, start=start, form="prompt").rows()]
        assert part == whole[start : start + size]
    assert [row.source for row in Arithmetic(size=2, start=5).rows()] == ["arithmetic:5", "arithmetic:6"]
    assert [row.fields["prompt"] for row in Arithmetic("-", digits=1, size=100, seed=4).rows()] != whole


def test_wrong_answers_look_right_and_are_not() -> None:
    offs = set()
    for row in Arithmetic("+-*", digits=3, size=2000, form="preference").rows():
        pair = preference(row)
        right, wrong = int(str(pair.chosen)), int(str(pair.rejected))
        assert str(right) == row.fields["answer"] == pair.chosen and str(wrong) == pair.rejected and wrong != right
        assert abs(wrong - right) <= 10 or sorted(str(wrong)) == sorted(str(right))
        offs.add(wrong - right)
    assert {-1, 1, -10, 10, 9, -9} <= offs
    again = [row.fields["rejected"] for row in Arithmetic("+-*", digits=3, size=20, form="preference").rows()]
    assert again == [row.fields["rejected"] for row in Arithmetic("+-*", digits=3, size=20, form="preference").rows()]


def test_forms_and_chats() -> None:
    (asked,) = read(Arithmetic(size=1, form="prompt"), prompt)
    assert set(asked.fields) == {"answer"} and isinstance(asked.prompt, str)
    for form, convert in (("demonstration", demonstration), ("preference", preference), ("prompt", prompt)):
        (text,), (chat,) = read(Arithmetic(size=1, form=form), convert), read(Arithmetic(size=1, form=form, chat=True), convert)
        assert [(turn.role, turn.content) for turn in chat.prompt] == [("user", text.prompt)]
    (pair,) = read(Arithmetic(size=1, form="preference", chat=True), preference)
    assert [turn.role for turn in (*pair.chosen, *pair.rejected)] == ["assistant", "assistant"]


def test_every_setting_is_in_the_fingerprint() -> None:
    others = [{"operations": "+"}, {"digits": 3}, {"size": 9}, {"seed": 1}, {"start": 1}, {"form": "prompt"}, {"chat": True}]
    settings: dict[str, Any] = {"operations": "+-", "digits": 2, "size": 10}
    assert len({Arithmetic(**{**settings, **other}).fingerprint() for other in [{}, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operations": "+/"}, "knows no operations"),
        ({"operations": ""}, "knows no operations"),
        ({"operations": "++"}, "each once"),
        ({"digits": 0}, "digits and size of at least 1"),
        ({"start": -1}, "start of at least 0"),
        ({"digits": 1, "size": 150, "start": 51}, r"there are 200 questions .* start \+ size is 201"),
    ],
)
def test_settings_that_make_no_dataset(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Arithmetic(**settings)


def test_mistakes_are_corrected_in_their_share_of_the_documents() -> None:
    texts = [document.text for document in Arithmetic(size=2000, mistakes=0.3)]
    corrected = [text for text in texts if "?" in text]
    assert 0.25 < len(corrected) / 2000 < 0.35
    for text in corrected:
        question, _, answers = text.partition("=")
        wrong, right = answers.split("?")
        assert int(right) == eval(question) != int(wrong)
    assert not any("?" in document.text for document in Arithmetic(size=100))


def test_wrong_answers_are_different_and_wrong() -> None:
    rows = list(Arithmetic(size=50, form="preference", wrong_answers=4).rows())
    assert len(rows) > 150
    assert len({(row.fields["prompt"], row.fields["rejected"]) for row in rows}) == len(rows)
    assert all(row.fields["chosen"] == row.fields["answer"] != row.fields["rejected"] for row in rows)
