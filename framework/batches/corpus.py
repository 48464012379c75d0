"""A directory of shards: `index.json` names them, in order, and says what they were made from. Plain numpy.

A directory flows in, two lists of open shards flow out. Must not know datasets, tokenizers (only their fingerprints) or batches.
The index is written last: a directory without one is unfinished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from framework.batches.shards import Header, Shard
from framework.errors import DataError, TokenizerError
from framework.files import write_durably

INDEX = "index.json"
VERIFIED = "verified.json"
ALWAYS_VERIFIED_BYTES = 2 * 2**30  # about two seconds of reading; larger corpora are read whole only once

Side = Literal["train", "validation"]
MadeFrom = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Entry:
    """A shard in the index: its file's name and its header."""

    file: str
    header: Header


@dataclass(frozen=True)
class Index:
    """What a finished directory holds.

    Attributes:
        made_from: fingerprints and settings that decide the content.
        train: shards of the training documents, in order.
        validation: shards of the validation documents, in order.
    """

    made_from: MadeFrom
    train: tuple[Entry, ...]
    validation: tuple[Entry, ...]

    def write(self, directory: Path) -> None:
        """Make the directory a finished one."""
        write_json(directory / INDEX, asdict(self))

    @classmethod
    def read(cls, directory: Path) -> Index:
        """Raises DataError when there is none or it is damaged."""
        path = directory / INDEX
        try:
            fields = json.loads(path.read_bytes())
            return cls(fields["made_from"], _entries(fields["train"]), _entries(fields["validation"]))
        except FileNotFoundError:
            raise DataError(
                f"{directory} holds no finished token shards (no {INDEX}); make them with `framework tokenize {directory} ...`."
            ) from None
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path} is damaged; delete {directory} and tokenize again.") from None


def _entries(listed: list[dict[str, Any]]) -> tuple[Entry, ...]:
    return tuple(Entry(shard["file"], Header(**shard["header"])) for shard in listed)


def shard_path(directory: Path, side: Side, number: int) -> Path:
    """Where a side's shard of this number is."""
    return directory / f"{side}-{number:05d}.tokens"


class Corpus:
    """A finished directory, opened: every shard's header and size checked against the index.

    Args:
        directory: what `framework tokenize` or the cache made.

    Raises:
        DataError: no index, or a shard that is missing, truncated or not the index's.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index = Index.read(directory)
        self.train = self._open(self.index.train)
        self.validation = self._open(self.index.validation)

    def _open(self, entries: Sequence[Entry]) -> list[Shard]:
        shards = [Shard(self.directory / wanted.file) for wanted in entries]
        for shard, wanted in zip(shards, entries, strict=True):
            if shard.header != wanted.header:
                raise DataError(f"shard {shard.path} is altered: it is not the one in {INDEX}; delete {self.directory} and tokenize again.")
        return shards

    def check_tokenizer(self, fingerprint: str, vocab_size: int) -> None:
        """Raises TokenizerError when the shards were made with another tokenizer, or hold an id outside the vocabulary."""
        for shard in [*self.train, *self.validation]:
            header = shard.header
            if header.tokenizer != fingerprint:
                raise TokenizerError(
                    f"the shards in {self.directory} were made with another tokenizer (fingerprint {header.tokenizer[:12]}, vocabulary "
                    f"{header.vocab_size}; yours {fingerprint[:12]}, {vocab_size}); give that tokenizer "
                    f"(`framework tokenize` keeps a copy in {self.directory / 'tokenizer'}), or tokenize again."
                )
            if header.max_id >= vocab_size:
                raise TokenizerError(
                    f"shard {shard.path} holds id {header.max_id}, the tokenizer's vocabulary ends at {vocab_size - 1}; tokenize again."
                )

    def verify(self) -> None:
        """Check every shard's SHA-256: at each call up to 2 GiB; larger corpora once, and again after a file's size or time changed.

        Raises DataError naming the shard.
        """
        shards = [*self.train, *self.validation]
        stamps = {shard.path.name: list(_stamp(shard.path)) for shard in shards}
        large = sum(shard.header.file_bytes for shard in shards) > ALWAYS_VERIFIED_BYTES
        if large and _read_stamps(self.directory / VERIFIED) == stamps:
            return
        for shard in shards:
            shard.verify()
        if large:
            with suppress(OSError):  # in a directory that is only for reading there is no note, and verifying is done again
                write_json(self.directory / VERIFIED, stamps)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _read_stamps(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None  # never verified, or the note is damaged: verify


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(value, indent=1).encode()
    write_durably(path, lambda writer: writer.write(text))
