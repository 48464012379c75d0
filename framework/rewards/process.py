"""A worker process seen from its parent: started, asked, listened to with a limit of time, and ended.

A pickled reward and samples flow in, the worker's answers flow out (worker.py names them). Must not know what a score is for.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any


class Hung(Exception):
    """The worker did not answer in time."""


class Lost(Exception):
    """The worker is no more, or makes no sense; the message says why."""


class WorkerProcess:
    """A process that holds one reward; it is spawned, as a fork of a process with torch's threads can hang.

    Args:
        reward: pickled.
        memory_bytes: what it may take; 0: no limit.
        start_seconds: the longest that a request may wait for it to read, a start included.
    """

    def __init__(self, reward: bytes, memory_bytes: int, start_seconds: float) -> None:
        self._start_seconds = start_seconds
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "framework.rewards.worker", str(theirs.fileno()), str(os.getpid()), str(memory_bytes)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # stderr: what a reward prints must not get among a command's results
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"},  # a set's order is the same everywhere
                start_new_session=True,  # Ctrl-C is the parent's; and what a reward starts is ended with it
            )
        self._answers = self._channel.makefile("rb")
        self._send(reward)

    @property
    def alive(self) -> bool:
        """Whether it runs still."""
        return self._process.poll() is None

    def ask(self, samples: list[bytes]) -> None:
        """Have samples judged; an answer to each will come. Raises Hung or Lost."""
        self._send(pickle.dumps(samples))

    def answer(self, seconds: float) -> dict[str, Any]:
        """Its next answer. Raises Hung, after so many seconds, or Lost."""
        self._channel.settimeout(seconds)
        try:
            line = self._answers.readline()
            answer: dict[str, Any] = json.loads(line) if line else {}
        except TimeoutError:
            raise Hung from None
        except (OSError, ValueError) as problem:
            raise Lost(f"its process wrote nonsense: {problem}") from None
        if not answer:
            raise Lost(self._ending())
        return answer

    def stop(self) -> None:
        """End it, and what it has started; may be called again."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._answers.close()
        self._channel.close()

    def _send(self, content: bytes) -> None:
        self._channel.settimeout(self._start_seconds)
        try:
            self._channel.sendall(content)
        except TimeoutError:
            raise Hung from None
        except OSError:
            raise Lost(self._ending()) from None

    def _ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=1.0)
            return f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process exited with code {code}"
        return "its process closed the connection"
