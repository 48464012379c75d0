"""The process in which a chat template is rendered, from outside.

A template and variables flow in, text flows out, in bounded time and memory. Must not know chats or tokenizers.

Jinja's sandbox keeps a template from Python's objects, not from nested loops or from texts that double with each round; what may
be written in a template has too many ways to grow to list them. So the operating system sets the bounds: a process that takes too
long is ended, one that takes too much memory gets none, and the next chat has a new one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Sandbox, (self._opening["source"], self._opening["marks"])

    def render(self, variables: Mapping[str, Any]) -> str:
        """The template's text for these variables, plain JSON values. Raises RequestError with what the template came to grief by."""
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._process, self._owner = _start(), os.getpid()
                weakref.finalize(self, _end, self._process, self._owner)
                self._ask(self._process, self._opening)
            return self._ask(self._process, variables)

    def _ask(self, process: subprocess.Popen[str], question: Mapping[str, Any]) -> str:
        assert process.stdin is not None and process.stdout is not None
        overtime = threading.Timer(MAX_SECONDS, process.kill)
        overtime.start()
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            overtime.cancel()
        ended = not line.endswith("\n")
        answer = {"error": f"it took longer than {MAX_SECONDS:g} seconds, or all its memory"} if ended else json.loads(line)
        if ended or (question is self._opening and "error" in answer):
            self._process = None
            _end(process, self._owner)
        if "error" in answer:
            raise RequestError(f"the model's chat template cannot render this chat: {' '.join(answer['error'].split())}")
        return str(answer["text"])


def _start() -> subprocess.Popen[str]:
    # -P: the directory of the program is no place to import from
    return subprocess.Popen(
        [sys.executable, "-P", str(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="ascii",
        start_new_session=True,  # Ctrl-C at the terminal is meant for the reply
    )


def _end(process: subprocess.Popen[str], owner: int) -> None:
    """Let the process go, unless it is another's and was inherited by a fork."""
    if owner == os.getpid():
        process.kill()
        process.communicate()
