"""One file of tokens, self-describing and checked: how it is written, opened and verified. Plain numpy.

Tokens and document lengths flow in, a file flows out; a file flows in, memory-mapped arrays flow out. Must not know tokenizers,
splits or directories (corpus.py).

    bytes 0..511        header: MAGIC, then JSON (`head -c 512 FILE` shows it), blanks, newline
    then                tokens, little-endian uint16, or uint32 where the vocabulary is larger than 65,536; padded with zeros to 8 bytes
    then                document ends, little-endian uint64: ends[i] is the number of tokens up to and including document i
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework.errors import DataError, TokenizerError
from framework.files import commit

MAGIC = b"FWTOKENS"
FORMAT_VERSION = 1
HEADER_BYTES = 512
ENDS = np.dtype("<u8")


@dataclass(frozen=True)
class Header:
    """What a shard says of itself.

    Attributes:
        format_version: of this layout.
        dtype: numpy name of the tokens' type.
        tokens: number of tokens.
        documents: number of documents.
        vocab_size: of the tokenizer.
        max_id: the largest id that occurs.
        tokenizer: the tokenizer's fingerprint.
        sha256: of everything after the header.
    """

    format_version: int
    dtype: str
    tokens: int
    documents: int
    vocab_size: int
    max_id: int
    tokenizer: str
    sha256: str

    @property
    def token_bytes(self) -> int:
        """Bytes the tokens take, padding included."""
        return -(-self.tokens * np.dtype(self.dtype).itemsize // 8) * 8

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return HEADER_BYTES + self.token_bytes + self.documents * ENDS.itemsize

    def to_bytes(self) -> bytes:
        """The first HEADER_BYTES of the file."""
        encoded = (MAGIC + json.dumps(asdict(self)).encode()).ljust(HEADER_BYTES - 1) + b"\n"
        assert len(encoded) == HEADER_BYTES
        return encoded


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type that holds every id of the vocabulary."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class ShardWriter:
    """Writes one shard: append documents, then `close`; nothing is at `path` before that, and a whole shard after.

    Args:
        path: the shard to be.
        vocab_size: decides the type of the tokens.
        tokenizer: fingerprint of the tokenizer.
    """

    def __init__(self, path: Path, vocab_size: int, tokenizer: str) -> None:
        self.path = path
        self.vocab_size = vocab_size
        self.tokenizer = tokenizer
        self.tokens = 0
        self.max_id = 0
        self._dtype = token_dtype(vocab_size)
        self._ends: list[NDArray[np.uint64]] = []
        self._sha256 = hashlib.sha256()
        self._partial = path.with_name(path.name + ".partial")
        self._file = open(self._partial, "wb")  # noqa: SIM115 (open for as long as the writer is)
        self._file.write(bytes(HEADER_BYTES))

    def append(self, tokens: NDArray[np.uint32], lengths: NDArray[np.int64]) -> None:
        """Add documents: their tokens one after the other, and the length of each.

        Raises TokenizerError for an id outside the vocabulary.
        """
        largest = int(tokens.max())
        if largest >= self.vocab_size:
            raise TokenizerError(
                f"the tokenizer gave id {largest}, but says its vocabulary has {self.vocab_size} ids; repair the tokenizer."
            )
        self._write(tokens.astype(self._dtype))
        self._ends.append(self.tokens + np.cumsum(lengths).astype(ENDS))
        self.tokens += len(tokens)
        self.max_id = max(self.max_id, largest)

    def close(self) -> Header:
        """Finish the file, bring it to the disk and put it in its place at once."""
        ends = np.concatenate(self._ends)
        self._write(np.zeros(-self.tokens * self._dtype.itemsize % 8, dtype=np.uint8))
        self._write(ends)
        header = Header(
            FORMAT_VERSION, self._dtype.name, self.tokens, len(ends), self.vocab_size, self.max_id, self.tokenizer, self._sha256.hexdigest()
        )
        self._file.seek(0)
        self._file.write(header.to_bytes())
        commit(self._file, self._partial, self.path)
        return header

    def discard(self) -> None:
        """Give up: leave nothing behind."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def _write(self, array: NDArray[Any]) -> None:
        payload = array.data
        self._sha256.update(payload)
        self._file.write(payload)


class Shard:
    """An open shard. Opening checks the header and the size; `verify` checks every byte.

    Args:
        path: the file.

    Raises:
        DataError: missing, no shard, or truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                head = file.read(HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
        except OSError as cause:
            raise DataError(f"cannot read shard {path}: {cause.strerror}; {_mend(path)}") from None
        self.header = _header(path, head)
        if size != self.header.file_bytes:
            raise DataError(
                f"shard {path} is truncated or altered: it has {size:,} bytes instead of {self.header.file_bytes:,}; {_mend(path)}"
            )

    @cached_property
    def tokens(self) -> NDArray[Any]:
        """Every token, shape [tokens], mapped from the file."""
        return self._map(np.dtype(self.header.dtype), HEADER_BYTES, self.header.tokens)

    @cached_property
    def ends(self) -> NDArray[Any]:
        """Tokens up to and including each document, shape [documents], mapped from the file."""
        return self._map(ENDS, HEADER_BYTES + self.header.token_bytes, self.header.documents)

    def _map(self, dtype: np.dtype[Any], offset: int, count: int) -> NDArray[Any]:
        return np.asarray(np.memmap(self.path, dtype=dtype.newbyteorder("<"), mode="r", offset=offset, shape=(count,)))

    def verify(self) -> None:
        """Read the whole file and compare its SHA-256 with the header's. Raises DataError for a shard that was altered."""
        with open(self.path, "rb") as file:
            file.seek(HEADER_BYTES)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != self.header.sha256:
            raise DataError(f"shard {self.path} is altered: its SHA-256 is not the one in its header; {_mend(self.path)}")

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:
        return Shard, (self.path,)  # a worker process maps the file again instead of receiving its content


def _header(path: Path, head: bytes) -> Header:
    if not head.startswith(MAGIC):
        raise DataError(f"{path} is no token shard (it does not begin with {MAGIC.decode()}); {_mend(path)}")
    try:
        fields = json.loads(head[len(MAGIC) :])
        version = fields["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(f"shard {path} has format version {version}, this framework reads {FORMAT_VERSION}; {_mend(path)}")
        header = Header(**fields)
        if header.dtype != token_dtype(header.vocab_size).name:
            raise ValueError(header.dtype)
        return header
    except (ValueError, TypeError, KeyError):
        raise DataError(f"shard {path} is truncated or altered: its header cannot be read; {_mend(path)}") from None


def _mend(path: Path) -> str:
    return f"delete {path.parent} and tokenize again."
