"""JSON Lines: streaming, compression, and errors with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from framework.datasets.json_lines import JsonLines
from framework.errors import DataError


def write(path: Path, content: str) -> str:
    path.write_text(content)
    return str(path)


def test_one_document_a_line_plain_and_compressed(tmp_path: Path) -> None:
    content = '{"text": "one"}\n\n{"id": 2, "text": "two\\n\\u00e9"}\n{"text": ""}\n{"text": "three"}'
    write(tmp_path / "a.jsonl", content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    documents = list(JsonLines(str(tmp_path)))
    assert [document.text for document in documents] == ["one", "two\né", "three"] * 2
    assert documents[1].source == f"{tmp_path}/a.jsonl:3"


def test_another_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"content": "x", "text": "y"}')
    assert [document.text for document in JsonLines(path, field="content")] == ["x"]
    assert JsonLines(path).fingerprint() != JsonLines(path, field="content").fingerprint()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"', "is no JSON"),
        ('["x"]', "a JSON list"),
        ('{"body": "x"}', r"no field text \(the fields are body\)"),
        ('{"text": 3}', "the field text is no text"),
        ('{"text": null}', "the field text is no text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"a\.jsonl:2.*{message}"):
        list(JsonLines(path))


def test_bad_utf8_and_damaged_compression_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1 is no JSON"):
        list(JsonLines(str(tmp_path / "a.jsonl")))
    whole = gzip.compress(b'{"text": "x"}\n' * 1000)
    for damaged in (whole[: len(whole) // 2], b"no gzip at all", whole[:40] + bytes([whole[40] ^ 255]) + whole[41:]):
        (tmp_path / "b.jsonl.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"b\.jsonl\.gz"):
            list(JsonLines(str(tmp_path / "b.jsonl.gz")))


def test_no_text_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds any text"):
        list(JsonLines(write(tmp_path / "a.jsonl", "\n\n")))


def test_a_large_file_is_not_read_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "fine"}\nbroken')
    assert next(iter(JsonLines(path))).text == "fine"  # the second line was not looked at


def test_rows_have_every_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"prompt": "x", "answer": 3}\n\n{"messages": [{"role": "user"}], "text": null}\n')
    assert list(JsonLines(path).rows()) == [
        ({"prompt": "x", "answer": 3}, f"{path}:1"),
        ({"messages": [{"role": "user"}], "text": None}, f"{path}:3"),
    ]
    with pytest.raises(DataError, match=r"b\.jsonl:2 holds a JSON list"):
        list(JsonLines(write(tmp_path / "b.jsonl", "{}\n[]")).rows())
    with pytest.raises(DataError, match="holds a row"):
        list(JsonLines(write(tmp_path / "c.jsonl", "\n")).rows())
