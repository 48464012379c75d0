"""What every dataset is: records in a fixed order, and a fingerprint of their content.

Files or packages flow in, records flow out. Must not know tokenizers, batches or networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

Record = TypeVar("Record", covariant=True)

ROLES = ("system", "developer", "user", "assistant", "tool")  # of the turns of a chat


class Document(NamedTuple):
    """A text and where it came from (`path`, `path:line`), for error messages."""

    text: str
    source: str


class Row(NamedTuple):
    """A record as it was read: its fields by name, and where it came from (`path:line`), for error messages."""

    fields: Mapping[str, Any]
    source: str


class Message(NamedTuple):
    """A turn of a chat.

    Attributes:
        role: one of ROLES; which of them a model knows, and in what order, its chat template says.
        content: what is said.
    """

    role: str
    content: str


class Dataset(ABC, Generic[Record]):
    """Records in an order that is the same at every iteration."""

    @abstractmethod
    def __iter__(self) -> Iterator[Record]:
        """The records, from the first. Raises DataError naming the file for missing, empty or malformed input."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the content and everything that decides the records; the key of every cache below."""


class Documents(Dataset[Document]):
    """A dataset of documents: the type that configurations and signatures name (jsonargparse resolves no generic alias)."""


class Rows(ABC):
    """A dataset whose records have named fields; `records` makes demonstrations, preferences or prompts of them."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """The records in an order that is the same at every call. Raises DataError naming the file for missing, empty or malformed input."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the content and everything that decides the records."""
