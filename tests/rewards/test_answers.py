"""Answers are found where each way says they stand, and numbers are the same whatever they look like."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.rewards.answers import extract, same

SOLUTION = "She has 3 + 4 = <<3+4=7>>7 eggs.\nAt $2 each that is $14 a day.\n#### 1,234.50"


@pytest.mark.parametrize(
    ("text", "how", "answer"),
    [
        ("  42 \n", "whole", "42"),
        (" \n", "whole", None),
        ("\n  first \nsecond", "first_line", "first"),
        ("", "first_line", None),
        (SOLUTION, "gsm8k", "1234.50"),
        ("#### -5\n#### 6", "gsm8k", "-5"),
        ("####72", "gsm8k", "72"),
        ("#### $1,000", "gsm8k", "1000"),
        ("#### none", "gsm8k", None),
        ("42", "gsm8k", None),
        ("the answer is -5.", "last_number", "-5"),
        ("10 - 3", "last_number", "3"),
        ("10-3", "last_number", "3"),
        ("f(2)-3", "last_number", "3"),
        ("\u22127 degrees", "last_number", "-7"),
        ("it costs -$1,234.50!", "last_number", "-1234.50"),
        ("1,2,3", "last_number", "3"),
        ("1,2345", "last_number", "2345"),
        ("+.5", "last_number", ".5"),
        ("about 6.02e23 of them", "last_number", "6.02e23"),
        ("none at all", "last_number", None),
        (r"\boxed{1} then \boxed{\frac{1}{2}}.", "boxed", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", "boxed", r"\{1, 2\}"),
        (r"\boxed{\left\{ x}", "boxed", r"\left\{ x"),
        (r"\boxed{1} and \boxed{2", "boxed", None),
        ("boxed 3", "boxed", None),
    ],
)
def test_extract(text: str, how: str, answer: str | None) -> None:
    assert extract(text, how) == answer  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("1,000.0", "1000", True),
        ("$5", "5.00", True),
        ("42.", "42", True),
        ("-0", "0", True),
        ("1e3", "1000", True),
        ("0.1", "0.10000000000000000001", False),
        ("9" * 5000, "9" * 5000 + ".0", True),
        ("1e99999999999999999999", "1", False),
        ("-5", "5", False),
        (" Paris", "Paris\n", True),
        ("Paris", "paris", False),
        ("1/2", "0.5", False),
        ("42 eggs", "42", False),
        ("", "0", False),
    ],
)
def test_same(one: str, other: str, equal: bool) -> None:
    assert same(one, other) is equal
    assert same(other, one) is equal


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_a_number_is_found_however_it_is_written(number: object) -> None:
    for written in (f"{number}", f"{number:,}", f"{number:+,}", f"{number:e}"):
        found = extract(f"So the answer is {written}.", "last_number")
        assert found is not None and same(found, str(number)), (written, found)


@given(st.integers(-(10**12), 10**12))
def test_gsm8k_agrees_with_its_authors_expression(number: int) -> None:
    for text in (f"because\n#### {number}", f"#### {number:,}\nmore 5"):
        theirs = re.search(r"#### (\-?[0-9\.\,]+)", text)
        assert theirs is not None and extract(text, "gsm8k") == theirs[1].replace(",", "")


@given(st.text(), st.sampled_from(["whole", "first_line", "last_number", "gsm8k", "boxed"]))
def test_every_text_has_an_answer_or_none(text: str, how: str) -> None:
    answer = extract(text, how)  # type: ignore[arg-type]
    assert answer is None or (answer and same(answer, answer))
