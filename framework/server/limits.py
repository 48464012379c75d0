"""What the server takes and how long it waits: every bound that is a choice, in one place. Plain numbers; knows nothing.

Bounds that are part of the protocol (4 stop strings, 20 alternatives, 300 biases) stand with their fields in schema.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from framework.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """How much, how many and how long.

    Args:
        max_queue: replies that may run or wait in a model's engine; beyond them a request gets 429 and is to try again.
        max_replies: most replies of one request: `n` times its prompts.
        max_body_bytes: longest body of a request; beyond it 413.
        max_answer_tokens: most tokens and alternatives one answer may hold: replies x tokens x (1 + logprobs).
        max_connections: open connections; beyond them a connection gets 503 and is closed.
        reply_seconds: a reply that is not complete by then is cancelled.
        read_seconds: a request's head must be there within so long, and its body within as much again.
        write_seconds: a reader that takes nothing for so long is disconnected.
        idle_seconds: a connection between two requests is closed after so long.
        shutdown_seconds: what runs when the server is told to stop has so long to finish; then it is cancelled.
        stream_chunks: pieces that wait for a slow reader before its reply is cancelled.
    """

    max_queue: int = 256
    max_replies: int = 128
    max_body_bytes: int = 8 * 2**20
    max_answer_tokens: int = 2**18
    max_connections: int = 512
    reply_seconds: float = 600.0
    read_seconds: float = 20.0
    write_seconds: float = 60.0
    idle_seconds: float = 30.0
    shutdown_seconds: float = 20.0
    stream_chunks: int = 2048

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < 1e12:
                raise ConfigError(f"{name} is {value} and must be a number above 0")
