"""Which documents are trained on and which are held out, the same at every run. Plain Python.

Datasets flow in, texts marked `train` or `validation` flow out, in the dataset's order. Must not know tokenizers or shards.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from framework.batches.corpus import MadeFrom, Side
from framework.datasets.base import Document, Documents
from framework.errors import DataError

Method = Literal["hash", "tail"]


class Piece(NamedTuple):
    """A document's text, or the part of it that lies on one side, and that side."""

    side: Side
    text: str


@dataclass(frozen=True)
class _Survey:
    """What one pass over the dataset found.

    Attributes:
        num_bytes: of the whole text as UTF-8.
        train_characters: where `tail` cuts; None where the hash decides.
    """

    num_bytes: int
    train_characters: int | None


class SplitDocuments:
    """A dataset's documents, each on one side.

    `hash` puts a document on the side its text's SHA-256 says, so that copies of a document stay together; `tail` holds out the last
    part of the whole text, cutting the document in which that begins (nanoGPT: train on the first `int(n * (1 - fraction))` characters).
    Where the hash leaves one side empty, as with a single document, `tail` takes over.

    Args:
        dataset: the documents.
        validation_dataset: held out instead of a part of `dataset`.
        method: how a part of `dataset` is held out.
        validation_fraction: how much is held out: of the documents (`hash`) or of the characters (`tail`); 0: nothing.
    """

    def __init__(
        self,
        dataset: Documents,
        validation_dataset: Documents | None = None,
        method: Method = "hash",
        validation_fraction: float = 0.05,
    ) -> None:
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must be at least 0 and under 1; got {validation_fraction}.")
        self.dataset = dataset
        self.validation_dataset = validation_dataset
        self.method = method
        self.validation_fraction = 0.0 if validation_dataset else validation_fraction

    @cached_property
    def made_from(self) -> MadeFrom:
        """Everything that decides the pieces, by name; reads the whole content."""
        return {
            "dataset": self.dataset.fingerprint(),
            "validation_dataset": self.validation_dataset.fingerprint() if self.validation_dataset else None,
            "split": self.method,
            "validation_fraction": self.validation_fraction,
        }

    def training_fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the training texts."""
        decides = {key: value for key, value in self.made_from.items() if key != "validation_dataset"}
        return hashlib.sha256(repr(decides).encode()).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Bytes of all pieces as UTF-8."""
        return self._survey.num_bytes

    def training_texts(self) -> Iterator[str]:
        """The texts that are trained on; nothing else may be learnt from."""
        return (piece.text for piece in self if piece.side == "train")

    def __iter__(self) -> Iterator[Piece]:
        """Raises DataError for an empty dataset or one that is no valid Unicode."""
        cut = self._survey.train_characters
        seen = 0
        for document in self.dataset:
            text = document.text
            if cut is None:
                yield Piece(self._hashed_side(text.encode()), text)
                continue
            if seen < cut:
                yield Piece("train", text[: cut - seen])
            if seen + len(text) > cut:
                yield Piece("validation", text[max(0, cut - seen) :])
            seen += len(text)
        for document in self.validation_dataset or ():
            yield Piece("validation", document.text)

    def _hashed_side(self, encoded: bytes) -> Side:
        return "validation" if drawn(encoded) < self.validation_fraction else "train"

    @cached_property
    def _survey(self) -> _Survey:
        characters = total_bytes = 0
        sides: set[Side] = set()
        for document in self.dataset:
            encoded = _encoded(document)
            characters += len(document.text)
            total_bytes += len(encoded)
            sides.add(self._hashed_side(encoded))
        if not characters:
            raise DataError(f"the dataset {type(self.dataset).__name__} holds no text; give it files that do.")
        total_bytes += sum(len(_encoded(document)) for document in self.validation_dataset or ())
        by_hash = self.method == "hash" and (self.validation_fraction == 0 or len(sides) == 2)
        train_characters = None if by_hash else _tail_cut(characters, self.validation_fraction)
        return _Survey(total_bytes, train_characters)


def drawn(content: bytes) -> float:
    """A number in [0, 1) that a content decides: what it says of one fraction agrees with what it says of every other."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8]) / 2**64


def _tail_cut(characters: int, fraction: float) -> int:
    """nanoGPT's `int(n * (1 - fraction))`, but at least one character on each side where that is possible."""
    if fraction == 0:
        return characters
    return max(1, min(characters - 1, math.floor(characters * (1 - fraction))))


def _encoded(document: Document) -> bytes:
    try:
        return document.text.encode()
    except UnicodeEncodeError as cause:
        raise DataError(f"{document.source} is no valid Unicode: character {cause.start} is half of a surrogate pair; remove it.") from None
