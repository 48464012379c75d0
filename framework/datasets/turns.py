"""What a field of a row says: text, or the turns of a chat, as OpenAI's messages or as ShareGPT's.

A field's value flows in, text or turns flow out, or a reason why not. Must not know which formats there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.datasets.base import ROLES, Message

Turns = str | tuple[Message, ...]  # plain text, or turns of a chat

SPEAKERS = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}  # ShareGPT's; others as they are
REFUSED = ("tool_calls", "function_call", "reasoning_content", "thinking")  # parts of a message that its content does not hold


class RowError(ValueError):
    """A row that makes no record: the reason, without where the row came from."""


def turns_of(name: str, value: Any) -> Turns:
    """Text as it is, or the turns of a list of messages, or of a single one."""
    if isinstance(value, str):
        return value
    return messages_of(name, [value] if isinstance(value, Mapping) else value)


def messages_of(name: str, value: Any) -> tuple[Message, ...]:
    """The turns of a list of messages, at least one."""
    if not isinstance(value, list | tuple):
        raise RowError(f"{name} is {_kind(value)}, neither text nor a list of messages")
    if not value:
        raise RowError(f"{name} is an empty list")
    return tuple(_message(f"{name}[{number}]", entry) for number, entry in enumerate(value))


def _message(place: str, entry: Any) -> Message:
    if not isinstance(entry, Mapping):
        raise RowError(f"{place} is {_kind(entry)}, no message such as {{role, content}}")
    refused = [name for name in REFUSED if entry.get(name)]
    if refused:
        raise RowError(f"{place} has {refused[0]}, which would be left out: write it into the content")
    share_gpt = entry.get("role") is None and entry.get("from") is not None
    speaker, key = (entry["from"], "value") if share_gpt else (entry.get("role"), "content")
    role = SPEAKERS.get(speaker, speaker) if share_gpt and isinstance(speaker, str) else speaker
    if role not in ROLES:
        raise RowError(f"{place} has the role {speaker!r}; known are {', '.join([*ROLES, *SPEAKERS] if share_gpt else ROLES)}")
    return Message(role, text_of(f"{place}.{key}", entry.get(key)))


def text_of(place: str, value: Any) -> str:
    """The value, which must be text."""
    if not isinstance(value, str):
        raise RowError(f"{place} is {_kind(value)}, not text")
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
