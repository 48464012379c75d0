"""Files that are whole or absent: written beside their place, flushed to the disk, renamed into it; and where kept ones lie.

Imports only the standard library. (Lightning's own "atomic" save copies across filesystems when TMPDIR lies on another
one, and can destroy the previous file.)
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from framework.errors import StorageError


def cache_dir() -> Path:
    """`$FRAMEWORK_CACHE`, or `~/.cache/framework`: trained tokenizers, token shards and kernels, under names made from their content."""
    given = os.environ.get("FRAMEWORK_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "framework"


class HashingWriter(io.RawIOBase):
    """Passes bytes on to a file, hashing and counting them; remembers the error that stopped it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.num_bytes = 0
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write all of `data`."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error  # torch.save hides it behind a RuntimeError
            raise
        self.hash.update(data)
        size = memoryview(data).nbytes
        self.num_bytes += size
        return size


def write_durably(path: Path, write: Callable[[HashingWriter], object]) -> tuple[str, int]:
    """Replace `path` by what `write` writes, atomically and durably; its SHA-256 (hex) and size in bytes.

    Raises StorageError when the disk is full or the place is not writable; whatever stood at `path` is intact then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer: HashingWriter | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            writer = HashingWriter(file)
            write(writer)
            commit(file, temporary, path)
    except BaseException as caught:
        temporary.unlink(missing_ok=True)
        cause = writer.error if writer is not None and writer.error is not None else caught
        if isinstance(cause, OSError):
            raise StorageError(_explain(path, cause)) from caught
        raise
    assert writer is not None
    return writer.hash.hexdigest(), writer.num_bytes


def commit(file: IO[bytes], temporary: Path, path: Path) -> None:
    """Close a file written beside `path` and move it there: after a crash there is the old one or the new one, never a part."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file's content, or a directory's renames, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {path} could not be written; earlier files are intact. Free some space and run the same command again (a training run: with --resume auto)."
    return f"{path} could not be written ({error.strerror or error}); earlier files are intact."
