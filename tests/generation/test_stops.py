"""Stop strings: what is given out never depends on how the text was cut, and nothing is held back that need not be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.errors import RequestError
from framework.generation.stops import StopStrings


def first_stop(text: str, stops: list[str], include: bool = False) -> str:
    """Plain and slow: the text before (or with) the stop string that is complete first, the longest of those that end together."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: end if include else min(starts)]
    return text


@settings(max_examples=400, deadline=None)
@given(
    text=st.text("ab\n", max_size=30),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4),
    cuts=st.lists(st.integers(0, 30), max_size=8),
    include=st.booleans(),
)
def test_the_pieces_of_a_text_do_not_matter(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    filtered = StopStrings(stops, include)
    expected = first_stop(text, stops, include)
    out = ""
    for start, end in itertools.pairwise([0, *sorted(cuts), len(text)]):
        out += filtered.push(text[start:end])
        assert expected.startswith(out)
        if filtered.found:
            break
        held = text[:end][len(out) :]  # can still become a stop string
        assert held == "" or any(stop.startswith(held) for stop in stops)
    assert out + filtered.flush() == expected
    assert filtered.found == any(stop in text for stop in stops)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(RequestError, match="stop string is empty"):
        StopStrings(["x", ""])
