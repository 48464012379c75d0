"""The process of one contender: it sets up, warms up, and trains a round whenever it is told to; in between it sleeps.

A specification (JSON, the one argument) and the words `round` and `stop` (standard input) flow in, one JSON object a round flows
out. Runs under the contender's own Python, so it must import nothing but the standard library before the contender does.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from typing import Any


class Rounds:
    """Called at the start of every step, by whoever owns the loop: answers and waits at the end of each round.

    The first round is the warm-up, where compilation and first allocations happen. A round lasts from the start of its first
    step to the start of the step after its last, so that everything a loop does between two steps is counted.

    Args:
        warm_up: steps before the first answer.
        steps: steps of a round.
        replies: file descriptor that the answers are written to.
    """

    def __init__(self, warm_up: int, steps: int, replies: int) -> None:
        self._steps, self._left, self._replies = steps, warm_up, replies
        self._notes: dict[str, Any] = {}
        self._on_gpu = False
        self._start = time.perf_counter()

    def on_gpu(self) -> None:
        """Wait for the device where a round begins and ends, and report its memory instead of the host's."""
        self._on_gpu = True

    def note(self, **values: Any) -> None:
        """Say something in the next answer."""
        self._notes.update(values)

    def __call__(self) -> None:
        """A step begins."""
        if self._left == 0:
            if self._on_gpu:
                self._wait_for_gpu()
            self._answer(time.perf_counter() - self._start)
            if sys.stdin.readline().strip() != "round":
                os._exit(0)  # whatever library owns the loop
            self._left = self._steps
            self._start = time.perf_counter()
        self._left -= 1

    def _wait_for_gpu(self) -> None:
        import torch

        torch.cuda.synchronize()
        self.note(peak_mib=torch.cuda.max_memory_allocated() / 2**20)

    def _answer(self, seconds: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts KiB
        os.write(self._replies, (json.dumps({"seconds": seconds, "peak_mib": peak, **self._notes}) + "\n").encode())


def main() -> None:
    """Run the contender that the specification names."""
    spec = json.loads(sys.argv[1])
    replies = os.dup(1)
    os.dup2(2, 1)  # libraries print: that goes to the log
    module, _, function = spec["contender"].partition(":")
    rounds = Rounds(spec["warm_up"], spec["steps"], replies)
    if spec["threads"]:
        import torch

        torch.set_num_threads(spec["threads"])
    getattr(importlib.import_module(module), function)(rounds, **spec["arguments"])


if __name__ == "__main__":
    main()
