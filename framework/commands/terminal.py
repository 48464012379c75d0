"""What a command exchanges with a terminal or a pipe: text out as it comes, words in, and Ctrl-C as a question. Knows no model."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from framework.errors import RequestError

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline
INSISTENCE = 3  # Ctrl-C so many times in one reply ends the program after all


def tolerate_encodings() -> None:
    """Let no character end the program: stdout shows `?` for what it has no code for, stdin keeps what it cannot read for `unicode_text`."""
    for stream, errors in ((sys.stdout, "replace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def unicode_text(words: str, origin: str) -> str:
    """Words from the command line or stdin, as UTF-8 even where the locale is another. Raises RequestError naming `origin`."""
    try:
        return words if words.isascii() else os.fsencode(words).decode("utf-8") if _has_escapes(words) else words
    except UnicodeError:
        raise RequestError(f"{origin} is no valid UTF-8") from None


def write(text: str) -> None:
    """Put text on stdout now; a terminal gets control characters spelled out, as a model may write any."""
    sys.stdout.write(CONTROL.sub(lambda found: repr(found[0])[1:-1], text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def note(text: str) -> None:
    """Put a line for the user on stderr."""
    print(text, file=sys.stderr, flush=True)


def ask(prompt: str) -> str:
    """A line from the terminal, with editing and history where readline is there. Raises EOFError, KeyboardInterrupt.

    The prompt and what is typed show on stderr's terminal, so that stdout can be a file that gets the replies alone.
    """
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - `input` edits once it is imported
    with _stdout_on_stderr():
        return input(prompt if sys.stdout.isatty() or sys.stderr.isatty() else "")


class Interrupts:
    """Ctrl-C between `with` and its end: an exception while `reading`, else only remembered.

    An exception could strike in the middle of anything; what is remembered is looked at where stopping is safe.
    """

    def __init__(self) -> None:
        self.reading = False
        self.count = 0

    def __enter__(self) -> Interrupts:
        self._before: Any = signal.signal(signal.SIGINT, self._strike)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _strike(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.reading or self.count >= INSISTENCE:
            raise KeyboardInterrupt


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Stdout's descriptor on stderr's terminal, where stderr is one: readline draws on stdout's descriptor only."""
    if not sys.stderr.isatty():
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _has_escapes(words: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in words)
