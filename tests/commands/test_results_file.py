"""Results that are whole or absent, and go on where a killed run stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framework.commands.results_file import ResultsFile
from framework.errors import ConfigError, StorageError

ROWS = [{"prompt": "é\n", "completion": "\u2028"}, {"completion": "\udc80"}, {"completion": ["a", "b"]}]


def read(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_the_file_comes_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    results = ResultsFile(path, "me")
    assert results.lines == []
    for row in ROWS:
        results.write(row)
        assert not path.exists()
    results.finish()
    assert read(path) == ROWS
    assert [file.name for file in path.parent.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("half", [b"", b'{"completion": "not whol'])
def test_a_killed_run_is_gone_on_with(tmp_path: Path, half: bytes) -> None:
    path = tmp_path / "out.jsonl"
    killed = ResultsFile(path, "me")
    killed.write(ROWS[0])
    killed.write(ROWS[1])
    killed.close()
    with killed.partial.open("ab") as file:
        file.write(half)
    results = ResultsFile(path, "me")
    assert results.lines == ROWS[:2]
    results.write(ROWS[2])
    results.finish()
    assert read(path) == ROWS


def test_results_of_something_else_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("finished before\n")
    other = ResultsFile(path, "other, with a longer head")
    other.write(ROWS[0])
    other.close()
    results = ResultsFile(path, "me")
    assert results.lines == []
    results.write(ROWS[2])
    assert path.read_text() == "finished before\n"
    results.finish()
    assert read(path) == ROWS[2:]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        ResultsFile(tmp_path, "me")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        ResultsFile(tmp_path / "file" / "out.jsonl", "me")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "out.jsonl", "me")
    results.close()
    with (
        open("/dev/full", "wb", buffering=0) as results._file,  # type: ignore[assignment]
        pytest.raises(StorageError, match="No space left on device; the same command goes on"),
    ):
        results.write(ROWS[0])
