"""Files of prompts: JSON Lines and plain text, and what is neither."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framework.chat import Message
from framework.commands.prompts_file import read_prompts
from framework.errors import DataError


def test_json_lines(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hé?"}]
    rows = [{"prompt": "a\nb", "id": 7}, {"text": ""}, {"messages": chat}, {"prompt": chat, "text": "passed over"}]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join([json.dumps(rows[0]), "", *map(json.dumps, rows[1:])]) + "\n", encoding="utf-8")
    messages = [Message("system", "Be brief."), Message("user", "Hé?")]
    assert [row.prompt for row in read_prompts(file)] == ["a\nb", "", messages, messages]
    assert [row.fields for row in read_prompts(file)] == rows


def test_plain_text(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes('def \r\n\n{"prompt": 1}\nlast, ünfinished\u2028line'.encode())
    assert [row.prompt for row in read_prompts(file)] == ["def ", '{"prompt": 1}', "last, ünfinished\u2028line"]
    assert read_prompts(file)[0].fields == {"prompt": "def "}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no prompts"),
        ('{"prompt": "a"}\n{"prompt": \n', ":2 is no JSON"),
        ('"a"\n', ':1 must be an object with "prompt", "messages" or "text"'),
        ('{"question": "a"}\n', ":1 must be an object"),
        ('{"prompt": 5}\n', "prompt must be a text or a list of messages"),
        ('{"messages": "hello"}\n', "messages must be a list of messages"),
        ('{"messages": []}\n', "messages must be a list of messages"),
        ('{"messages": [{"role": "user"}]}\n', 'a message needs a "role" and a "content"'),
        ('{"messages": [{"role": "user", "content": null}]}\n', 'a message needs a "role" and a "content"'),
        (b"\xff\n", "is no UTF-8"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read_prompts(file)
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prompts\.jsonl cannot be read: No such file"):
        read_prompts(tmp_path / "prompts.jsonl")
