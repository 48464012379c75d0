"""JSON Lines as documents or rows: one JSON object a line.

Files flow in, documents or rows flow out one at a time (memory does not grow with the file). Must not know tokenizers.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from framework.datasets import files
from framework.datasets.base import Document, Documents, Row, Rows
from framework.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz")


class JsonLines(Documents, Rows):
    """A document or a row a line, `{"text": "..."}`; blank lines are passed over, and as documents empty texts too.

    Args:
        paths: a `.jsonl` or `.jsonl.gz` file, a glob pattern or a directory; or a list of those.
        field: the key that holds a document's text; a row has every key.
    """

    def __init__(self, paths: list[str] | str, field: str = "text") -> None:
        self.paths = paths
        self.field = field

    def __iter__(self) -> Iterator[Document]:
        empty = True
        for row in self._objects():
            text = self._text(row)
            if text:
                empty = False
                yield Document(text, row.source)
        if empty:
            raise DataError(f"no line of {self.paths} holds any text.")

    def rows(self) -> Iterator[Row]:
        """Every line's fields, from the first. Raises DataError naming the file, the line too where one is no JSON object."""
        empty = True
        for row in self._objects():
            empty = False
            yield row
        if empty:
            raise DataError(f"no line of {self.paths} holds a row.")

    def _objects(self) -> Iterator[Row]:
        for file in files.find_files(self.paths, SUFFIXES):
            for number, line in _lines(file):
                if not line.isspace():
                    yield Row(_object(line, f"{file}:{number}"), f"{file}:{number}")

    def _text(self, row: Row) -> str:
        text = row.fields.get(self.field)
        if not isinstance(text, str):
            problem = f"the field {self.field} is no text" if self.field in row.fields else f"there is no field {self.field}"
            raise DataError(f"{row.source}: {problem} (the fields are {', '.join(row.fields) or 'none'}); set the dataset's field.")
        return text

    def fingerprint(self) -> str:
        """Of the files' contents, in order, and the field."""
        return files.fingerprint(files.find_files(self.paths, SUFFIXES), ("json_lines", self.field))


def _object(line: bytes, source: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as cause:  # bad JSON and bad UTF-8
        raise DataError(f"{source} is no JSON: {cause}.") from None
    if not isinstance(record, dict):
        raise DataError(f'{source} holds a JSON {type(record).__name__}; a line must be an object such as {{"text": ...}}.')
    return record


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        opened: IO[bytes]
        with gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb") as opened:  # type: ignore[assignment]
            for number, line in enumerate(opened, start=1):
                yield number, line
    except (EOFError, OSError, zlib.error) as cause:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{file} cannot be read after line {number}: {cause}.") from None
