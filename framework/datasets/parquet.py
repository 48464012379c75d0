"""Parquet files as documents: a row each, its text in a column. Needs pyarrow (the extra `data`).

Files flow in, documents flow out batch by batch (memory does not grow with the file). Must not know tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from framework.datasets import files
from framework.datasets.base import Document, Documents
from framework.errors import DataError

ROWS_AT_ONCE = 1024


class Parquet(Documents):
    """One document a row; empty texts and nulls are passed over.

    Args:
        paths: a `.parquet` file, a glob pattern or a directory; or a list of those.
        column: the column that holds the text.
    """

    def __init__(self, paths: list[str] | str, column: str = "text") -> None:
        self.paths = paths
        self.column = column

    def __iter__(self) -> Iterator[Document]:
        empty = True
        for file in files.find_files(self.paths, (".parquet",)):
            for row, text in enumerate(self._texts(file)):
                if text:
                    empty = False
                    yield Document(text, f"{file}:{row}")
        if empty:
            raise DataError(f"no row of {self.paths} holds any text in column {self.column}.")

    def _texts(self, file: Path) -> Iterator[str | None]:
        try:
            import pyarrow
            from pyarrow import parquet, types
        except ImportError:
            raise DataError('Parquet needs pyarrow; install it: pip install "framework[data]"') from None
        try:
            with parquet.ParquetFile(file) as opened:
                schema = opened.schema_arrow
                if self.column not in schema.names:
                    raise DataError(f"{file} has no column {self.column} (it has {', '.join(schema.names)}); set the dataset's column.")
                kind = schema.field(self.column).type
                if not (types.is_string(kind) or types.is_large_string(kind)):
                    raise DataError(f"{file}: the column {self.column} holds {kind}, not text; set the dataset's column.")
                for batch in opened.iter_batches(batch_size=ROWS_AT_ONCE, columns=[self.column]):
                    yield from batch.column(0).to_pylist()
        except (pyarrow.ArrowException, OSError) as cause:
            raise DataError(f"{file} is no readable Parquet file: {cause}") from None

    def fingerprint(self) -> str:
        """Of the files' contents, in order, and the column."""
        return files.fingerprint(files.find_files(self.paths, (".parquet",)), ("parquet", self.column))
