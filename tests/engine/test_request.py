"""Requests: values outside their range are one-line errors, before anything is computed."""

from __future__ import annotations

import pytest

from framework.engine.request import Request
from framework.errors import RequestError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_ids": []}, "no tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"min_new_tokens": 9}, "min_new_tokens is 9"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
    ],
)
def test_refuses_values_outside_their_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Request(**{"prompt_ids": [1], "max_new_tokens": 8, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"prompt_ids": [1, 31]}, {"prompt_ids": [-1]}, {"stop_ids": [31]}])
def test_refuses_ids_outside_the_vocabulary(settings: dict[str, object]) -> None:
    request = Request(**{"prompt_ids": [1], "max_new_tokens": 8, **settings})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="vocabulary of 31"):
        request.num_new_tokens(vocab_size=31, context_length=24)


def test_the_context_bounds_prompt_and_reply() -> None:
    assert Request([1] * 20, max_new_tokens=3).num_new_tokens(31, 24) == 3
    assert Request([1] * 20, max_new_tokens=9).num_new_tokens(31, 24) == 4
    assert Request([1] * 23, max_new_tokens=9).num_new_tokens(31, 24) == 1
    with pytest.raises(RequestError, match="24 tokens and the network's context is 24"):
        Request([1] * 24, max_new_tokens=1).num_new_tokens(31, 24)
