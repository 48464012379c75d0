"""Parquet: rows as documents, and errors that say what the file has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from framework.datasets.parquet import Parquet
from framework.errors import DataError

pyarrow = pytest.importorskip("pyarrow")


def write(path: Path, **columns: list[Any]) -> str:
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=700)
    return str(path)


def test_rows_in_order_over_row_groups_and_files(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", text=[f"row {number}" for number in range(3000)], id=list(range(3000)))
    write(tmp_path / "b.parquet", text=["", None, "last"])
    documents = list(Parquet(str(tmp_path)))
    assert [document.text for document in documents] == [f"row {number}" for number in range(3000)] + ["last"]
    assert documents[-1].source == f"{tmp_path}/b.parquet:2"


def test_a_column_that_is_missing_or_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", body=["x"], id=[1])
    with pytest.raises(DataError, match=r"no column text \(it has body, id\)"):
        list(Parquet(path))
    with pytest.raises(DataError, match="the column id holds int64, not text"):
        list(Parquet(path, column="id"))
    assert [document.text for document in Parquet(path, column="body")] == ["x"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.parquet", text=["x"] * 100))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet is no readable Parquet file"):
        list(Parquet(str(path)))


def test_only_empty_texts_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds any text in column text"):
        list(Parquet(write(tmp_path / "a.parquet", text=[""])))


def test_without_pyarrow_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", text=["x"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'pip install "framework\[data\]"'):
        list(Parquet(path))


def test_rows_have_every_column(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], None]
    path = write(tmp_path / "a.parquet", messages=messages, score=[1.5, None])
    assert list(Parquet(path).rows()) == [
        ({"messages": messages[0], "score": 1.5}, f"{path}:0"),
        ({"messages": None, "score": None}, f"{path}:1"),
    ]
    with pytest.raises(DataError, match="holds a row"):
        list(Parquet(write(tmp_path / "b.parquet", text=[])).rows())
    (tmp_path / "c.parquet").write_bytes(b"no Parquet")
    with pytest.raises(DataError, match=r"c\.parquet is no readable Parquet file"):
        list(Parquet(str(tmp_path / "c.parquet")).rows())
