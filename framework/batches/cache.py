"""Where prepared data is kept between runs, and the lock that lets one process at a time prepare it.

Environment variables flow in, a directory flows out. Must not know what is kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def cache_dir() -> Path:
    """`$FRAMEWORK_CACHE`, or `~/.cache/framework`: trained tokenizers and token shards, each under a name made from its content."""
    given = os.environ.get("FRAMEWORK_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "framework"


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
