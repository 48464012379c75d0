"""Text and lists of messages, as rows hold them; what is neither is named."""

from __future__ import annotations

from typing import Any

import pytest

from framework.datasets.base import ROLES, Message
from framework.datasets.turns import RowError, turns_of


def test_text_and_every_role() -> None:
    assert turns_of("prompt", "") == ""
    assert turns_of("messages", [{"role": role, "content": "x"} for role in ROLES]) == tuple(Message(role, "x") for role in ROLES)
    assert turns_of("conversations", [{"from": role, "value": "x"} for role in ROLES]) == tuple(Message(role, "x") for role in ROLES)
    assert turns_of("chosen", {"role": "assistant", "content": ""}) == (Message("assistant", ""),)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, "m is a int, neither text nor a list of messages"),
        (None, "m is null, neither"),
        ([], "m is an empty list"),
        (["x"], r"m\[0\] is a str, no message such as \{role, content\}"),
        ([{"role": "user", "content": "x"}, {"content": "x"}], r"m\[1\] has the role None; known are system, .*, tool$"),
        ([{"role": "narrator", "content": "x"}], "has the role 'narrator'"),
        ([{"role": ["user"], "content": "x"}], r"has the role \['user'\]"),
        ([{"role": "human", "content": "x"}], "has the role 'human'"),
        ([{"from": "bard", "value": "x"}], "has the role 'bard'; known are system, .*, observation$"),
        ([{"from": "human", "content": "x"}], r"m\[0\].value is null, not text"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], r"m\[0\].content is a list, not text"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], r"m\[0\] has tool_calls, which would be left out"),
        ([{"role": "assistant", "content": "x", "reasoning_content": "y"}], r"m\[0\] has reasoning_content"),
    ],
)
def test_what_is_no_turn_is_named(value: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        turns_of("m", value)
