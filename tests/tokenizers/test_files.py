"""Files are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.tokenizers.files import cache_file, write_json


def test_what_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    write_json(file, {"old": "é"})
    before = file.read_bytes()
    with pytest.raises(TypeError):
        write_json(file, {"new": object()})
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_written_files_are_readable_by_all(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "file.json", {})
    assert (tmp_path / "deep" / "file.json").stat().st_mode & 0o777 == 0o644


def test_a_name_per_key(tmp_path: Path) -> None:
    keys = [("a", 1), ("a", 2), ("b", 1)]
    assert len({cache_file(tmp_path, "bpe", key) for key in keys} | {cache_file(tmp_path, "bpe", ("a", 1))}) == 3
