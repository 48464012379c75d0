"""The process in which a chat template is rendered, from outside.

A template and variables flow in, texts flow out, in bounded time and memory. Must not know chats or tokenizers.

Jinja's sandbox keeps a template from Python's objects, not from nested loops or from texts that double with each round; what may
be written in a template has too many ways to grow to list them. So the operating system sets the bounds: a process that takes too
long is ended, one that takes too much memory gets none, and the next chat has a new one.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from framework.errors import RequestError

PROGRAM = Path(__file__).with_name("renderer.py")
MAX_SECONDS = 5.0  # a template takes milliseconds; the first one waits for the process too
MAX_CHARACTERS = 4_000_000  # of what a template makes
FURTHER_BYTES = 256 << 20  # memory for it


class Sandbox:
    """Renders one template. Threads take turns; after a fork each process has its own; a copy by pickle begins anew.

    Args:
        source: the template.
        marks: character to be written for each special token that the template spells.
    """

    def __init__(self, source: str, marks: Mapping[str, str]) -> None:
        self._opening = {"source": source, "marks": dict(marks), "max_characters": MAX_CHARACTERS, "further_bytes": FURTHER_BYTES}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Sandbox, (self._opening["source"], self._opening["marks"])

    def render(self, variables: Sequence[Mapping[str, Any]]) -> list[str]:
        """The template's text for each set of variables, plain JSON values. Raises RequestError with what the template came to grief by."""
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._process, self._owner = _start(), os.getpid()
                weakref.finalize(self, _end, self._process, self._owner)
                self._ask(self._process, self._opening)
            return self._ask(self._process, variables)

    def _ask(self, process: subprocess.Popen[bytes], question: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[str]:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = _read_line(process.stdout, MAX_SECONDS)
        except BrokenPipeError:
            line = b""
        ended = not line
        answer: dict[str, Any] = {"error": f"it took longer than {MAX_SECONDS:g} seconds, or all its memory"} if ended else json.loads(line)
        if ended or (question is self._opening and "error" in answer):
            self._process = None
            _end(process, self._owner)
        if "error" in answer:
            raise RequestError(f"the model's chat template cannot render this chat: {' '.join(answer['error'].split())}")
        texts: list[str] = answer["texts"]
        return texts


def _read_line(pipe: IO[bytes], seconds: float) -> bytes:
    """A line, if it comes in time; else nothing."""
    deadline = time.monotonic() + seconds
    waiting = select.poll()  # a timer's thread would take longer than the template
    waiting.register(pipe, select.POLLIN)
    pieces = [b""]
    while not pieces[-1].endswith(b"\n"):
        ready = waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
        piece = os.read(pipe.fileno(), 1 << 20) if ready else b""
        if not piece:
            return b""
        pieces.append(piece)
    return b"".join(pieces)


def _start() -> subprocess.Popen[bytes]:
    # -P: the directory of the program is no place to import from
    return subprocess.Popen(
        [sys.executable, "-P", str(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C at the terminal is meant for the reply
    )


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """Let the process go, unless it is another's and was inherited by a fork."""
    if owner == os.getpid():
        process.kill()
        process.communicate()
