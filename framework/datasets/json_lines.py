"""JSON Lines as documents: one JSON object a line, its text in a field.

Files flow in, documents flow out one at a time (memory does not grow with the file). Must not know tokenizers.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from framework.datasets import files
from framework.datasets.base import Document, Documents
from framework.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz")


class JsonLines(Documents):
    """One document a line, `{"text": "..."}`; blank lines and empty texts are passed over.

    Args:
        paths: a `.jsonl` or `.jsonl.gz` file, a glob pattern or a directory; or a list of those.
        field: the key that holds the text.
    """

    def __init__(self, paths: list[str] | str, field: str = "text") -> None:
        self.paths = paths
        self.field = field

    def __iter__(self) -> Iterator[Document]:
        empty = True
        for file in files.find_files(self.paths, SUFFIXES):
            for document in self._documents(file):
                empty = False
                yield document
        if empty:
            raise DataError(f"no line of {self.paths} holds any text.")

    def _documents(self, file: Path) -> Iterator[Document]:
        for number, line in _lines(file):
            if line.isspace():
                continue
            text = self._text(line, f"{file}:{number}")
            if text:
                yield Document(text, f"{file}:{number}")

    def _text(self, line: bytes, source: str) -> str:
        try:
            record = json.loads(line)
        except ValueError as cause:  # bad JSON and bad UTF-8
            raise DataError(f"{source} is no JSON: {cause}.") from None
        if not isinstance(record, dict):
            raise DataError(
                f"{source} holds a JSON {type(record).__name__}; a line must be an object such as {{{json.dumps(self.field)}: ...}}."
            )
        text = record.get(self.field)
        if not isinstance(text, str):
            problem = f"the field {self.field} is no text" if self.field in record else f"there is no field {self.field}"
            raise DataError(f"{source}: {problem} (the fields are {', '.join(record) or 'none'}); set the dataset's field.")
        return text

    def fingerprint(self) -> str:
        """Of the files' contents, in order, and the field."""
        return files.fingerprint(files.find_files(self.paths, SUFFIXES), ("json_lines", self.field))


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        opened: IO[bytes]
        with gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb") as opened:  # type: ignore[assignment]
            for number, line in enumerate(opened, start=1):
                yield number, line
    except (EOFError, OSError, zlib.error) as cause:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{file} cannot be read after line {number}: {cause}.") from None
