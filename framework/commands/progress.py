"""A bar on stderr, where that is a terminal, for work that is counted in bytes. Bytes done and in all flow in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def transfer(name: str) -> Iterator[Callable[[int, int], None]]:
    """What to tell of the bytes done and of those in all."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, dynamic_ncols=True, disable=None, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
