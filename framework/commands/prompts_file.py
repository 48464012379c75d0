"""A file of prompts: JSON Lines, or plain text with a prompt a line. A file flows in, rows flow out; knows no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from framework.errors import DataError

if TYPE_CHECKING:
    from framework.chat import Message

KEYS = ("prompt", "messages", "text")  # the first that a row has is its prompt


class Row(NamedTuple):
    """One prompt, a text or a chat, and the whole line that it stood in."""

    prompt: str | list[Message]
    fields: Mapping[str, Any]


def read_prompts(path: Path) -> list[Row]:
    """The rows of a file; blank lines are passed over.

    In a `.jsonl` file a row is an object with `prompt` (a text, or a chat as a list of messages), `messages` (a chat) or `text`; in
    any other file it is a line of text.

    Raises:
        DataError: no such file, no rows, or a line that is none of these, by its number.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as cause:
        raise DataError(f"{path} is no UTF-8: {cause}") from None
    except OSError as cause:
        raise DataError(f"{path} cannot be read: {cause.strerror}") from None
    lines = [(f"{path}:{number}", line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no prompts")
    if path.suffix == ".jsonl":
        return [_row(line, origin) for origin, line in lines]
    return [Row(text := line.removesuffix("\r"), {"prompt": text}) for _, line in lines]


def _row(line: str, origin: str) -> Row:
    try:
        fields = json.loads(line)
    except ValueError as cause:
        raise DataError(f"{origin} is no JSON: {cause}") from None
    key = next((key for key in KEYS if isinstance(fields, dict) and key in fields), None)
    if key is None:
        raise DataError(f'{origin} must be an object with "prompt", "messages" or "text"')
    prompt = fields[key]
    if isinstance(prompt, str) and key != "messages":
        return Row(prompt, fields)
    return Row(_messages(prompt, f"{origin}: {key}"), fields)


def _messages(value: Any, origin: str) -> list[Message]:
    from framework.chat import Message

    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise DataError(
            f"{origin} must be a list of messages" if origin.endswith("messages") else f"{origin} must be a text or a list of messages"
        )
    for item in value:
        if not isinstance(item.get("role"), str) or not isinstance(item.get("content"), str):
            raise DataError(f'{origin}: a message needs a "role" and a "content", both texts')
    return [Message(item["role"], item["content"]) for item in value]
