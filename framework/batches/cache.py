"""The lock that lets one process at a time prepare data in a directory. Must not know what is prepared."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def only_one_process(directory: Path) -> Iterator[None]:
    """Hold the lock on `directory`, created if need be; the lock goes with the process, however that ends."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that is preparing {directory}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
