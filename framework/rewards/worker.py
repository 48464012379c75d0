"""The process that judges: `python -m framework.rewards.worker DESCRIPTOR PARENT MEMORY_BYTES`, started by process.py.

A reward and then lists of samples flow in through a socket, pickled; lines of JSON flow out, one for the reward and one for each sample:

    {"ready": true} | {"broken": "why the reward cannot be loaded"}
    {"score": 0.5} | {"failure": "why this sample has no score"} | {"lost": "why this process judges no more"}

Must not import torch: it starts in a moment, and anew after each sample that hangs.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import pickle
import random
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from framework.rewards.base import Reward

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LONGEST_REASON = 300  # characters


def main(descriptor: int, parent: int, memory_bytes: int) -> None:
    """Judge until the other side closes the socket."""
    die_with(parent)
    with socket.socket(fileno=descriptor) as channel, channel.makefile("rb") as requests:
        channel.set_inheritable(False)
        limit_memory(memory_bytes)

        def tell(**message: Any) -> None:
            channel.sendall(json.dumps(message).encode() + b"\n")

        try:
            reward = pickle.load(requests)
        except BaseException as problem:  # an import may do anything
            tell(broken=explain(problem))
            return
        tell(ready=True)
        while True:
            try:
                samples: list[bytes] = pickle.load(requests)
            except (EOFError, ConnectionError):
                return
            for sample in samples:
                answer = judge(reward, sample)
                tell(**answer)
                if "lost" in answer:
                    return


def judge(reward: Reward, pickled: bytes) -> dict[str, Any]:
    """The answer to one sample."""
    try:
        sample = pickle.loads(pickled)
        random.seed(
            f"{sample.prompt}\0{sample.reply}".encode(errors="surrogatepass")
        )  # a reward that draws draws the same for the same sample
        value = reward.score(sample)
        if not isinstance(value, numbers.Real):
            return {"failure": f"it returned a {type(value).__name__}, no number"}
        score = float(value)
    except MemoryError:
        return {"lost": "it ran out of memory"}
    except BaseException as problem:  # SystemExit is no way out of a reward either
        return {"failure": explain(problem)}
    return {"score": score} if math.isfinite(score) else {"failure": f"it returned {score}"}


def explain(problem: BaseException) -> str:
    """An exception in one line, with the place it came from."""
    said = " ".join(" ".join(traceback.format_exception_only(problem)).split())[:LONGEST_REASON]
    frames = traceback.extract_tb(problem.__traceback__)
    return f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if len(frames) > 1 else said


def die_with(parent: int) -> None:
    """End this process when the one that started it ends, however it does, and whatever a reward is doing then.

    Linux ends it with the thread that started it, which may be sooner: the next samples then start another. Elsewhere the end of the
    socket is noticed between two samples.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(memory_bytes: int) -> None:
    """A reward that takes more gets a MemoryError, instead of the run being killed; 0: no limit."""
    if memory_bytes and sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
