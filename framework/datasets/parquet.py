"""Parquet files as documents or rows. Needs pyarrow (the extra `data`).

Files flow in, documents or rows flow out batch by batch (memory does not grow with the file). Must not know tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from framework.datasets import files
from framework.datasets.base import Document, Documents, Row, Rows
from framework.errors import DataError

ROWS_AT_ONCE = 1024


class Parquet(Documents, Rows):
    """The rows with all their columns, or one document a row; as documents empty texts and nulls are passed over.

    Args:
        paths: a `.parquet` file, a glob pattern or a directory; or a list of those.
        column: the column that holds a document's text; a row has every column.
    """

    def __init__(self, paths: list[str] | str, column: str = "text") -> None:
        self.paths = paths
        self.column = column

    def __iter__(self) -> Iterator[Document]:
        empty = True
        for file in files.find_files(self.paths, (".parquet",)):
            for number, row in enumerate(_read(file, self.column)):
                if row[self.column]:
                    empty = False
                    yield Document(row[self.column], f"{file}:{number}")
        if empty:
            raise DataError(f"no row of {self.paths} holds any text in column {self.column}.")

    def rows(self) -> Iterator[Row]:
        """Every row, all its columns. Raises DataError naming the file."""
        empty = True
        for file in files.find_files(self.paths, (".parquet",)):
            for number, row in enumerate(_read(file)):
                empty = False
                yield Row(row, f"{file}:{number}")
        if empty:
            raise DataError(f"no file of {self.paths} holds a row.")

    def fingerprint(self) -> str:
        """Of the files' contents, in order, and the column."""
        return files.fingerprint(files.find_files(self.paths, (".parquet",)), ("parquet", self.column))


def _read(file: Path, text_column: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows with all columns, or with the one that must hold text."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError('Parquet needs pyarrow; install it: pip install "framework[data]"') from None
    try:
        with parquet.ParquetFile(file) as opened:
            if text_column is not None:
                _check_text(file, opened.schema_arrow, text_column)
            for batch in opened.iter_batches(batch_size=ROWS_AT_ONCE, columns=None if text_column is None else [text_column]):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as cause:
        raise DataError(f"{file} is no readable Parquet file: {cause}") from None


def _check_text(file: Path, schema: Any, column: str) -> None:
    from pyarrow import types

    if column not in schema.names:
        raise DataError(f"{file} has no column {column} (it has {', '.join(schema.names)}); set the dataset's column.")
    kind = schema.field(column).type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise DataError(f"{file}: the column {column} holds {kind}, not text; set the dataset's column.")
