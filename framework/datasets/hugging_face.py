"""A dataset of the Hugging Face hub, or of any builder `datasets` knows, as documents or rows. Needs `datasets` (the extra `data`).

A name flows in, documents or rows flow out. Must not know tokenizers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from framework.datasets.base import Document, Documents, Row, Rows
from framework.errors import DataError


class HuggingFaceDataset(Documents, Rows):
    """The rows of `datasets.load_dataset(name, config, split=split)`, or one document a row; empty texts and nulls are no documents.

    Args:
        name: name on the hub (`roneneldan/TinyStories`), a builder or a local directory.
        config: which configuration of the dataset, where it has several.
        split: which split to read; here it only names rows, what is held out for validation is decided when they are tokenized.
        column: the column that holds a document's text; a row has every column.
        revision: branch, tag or commit on the hub; give a commit to be certain of the content.
        streaming: true: read rows as they are needed, nothing is downloaded first; then the fingerprint is of name, configuration,
            split and revision only, since the content is not known before it was read.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        split: str = "train",
        column: str = "text",
        revision: str | None = None,
        streaming: bool = False,
    ) -> None:
        self.name = name
        self.config = config
        self.split = split
        self.column = column
        self.revision = revision
        self.streaming = streaming

    def _load(self) -> Any:
        try:
            import datasets
        except ImportError:
            raise DataError('HuggingFaceDataset needs the package datasets; install it: pip install "framework[data]"') from None
        try:
            return datasets.load_dataset(self.name, self.config, split=self.split, revision=self.revision, streaming=self.streaming)
        except (ValueError, OSError) as cause:  # unknown configuration or split; not found, no network (datasets' errors are OSErrors)
            raise DataError(f"Hugging Face dataset {self.name}, split {self.split}: {str(cause).splitlines()[0]}") from None

    def __iter__(self) -> Iterator[Document]:
        loaded = self._load()
        names = loaded.column_names  # None while streaming data whose columns are not declared
        if names is not None and self.column not in names:
            raise DataError(
                f"Hugging Face dataset {self.name} has no column {self.column} (it has {', '.join(names)}); set the dataset's column."
            )
        empty = True
        for number, row in enumerate(loaded.select_columns([self.column])):
            text = row[self.column]
            if not isinstance(text, str | None):
                raise DataError(
                    f"{self.name}:{number}: the column {self.column} holds {type(text).__name__}, not text; set the dataset's column."
                )
            if text:
                empty = False
                yield Document(text, f"{self.name}:{number}")
        if empty:
            raise DataError(f"Hugging Face dataset {self.name}, split {self.split} holds no text in column {self.column}.")

    def rows(self) -> Iterator[Row]:
        """Every row, all its columns. Raises DataError naming the dataset."""
        number = -1
        for number, row in enumerate(self._load()):
            yield Row(row, f"{self.name}:{number}")
        if number < 0:
            raise DataError(f"Hugging Face dataset {self.name}, split {self.split} holds no rows.")

    def fingerprint(self) -> str:
        """Of all rows and columns, in order; while streaming of name, configuration, split and revision. And of the column's name."""
        digest = hashlib.sha256(repr(("hugging_face", self.column)).encode())
        if self.streaming:
            digest.update(repr((self.name, self.config, self.split, self.revision)).encode())
            return digest.hexdigest()
        for row in self.rows():
            digest.update(hashlib.sha256(json.dumps(row.fields, sort_keys=True, default=repr).encode()).digest())
        return digest.hexdigest()
