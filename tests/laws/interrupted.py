"""Runs `framework fit` in forked processes and ends them: a helper of the tests, run as a script so that imports cost once.

    python interrupted.py SPECIFICATION

The specification is JSON: a list of {arguments, ranks, action, folder, log, output}, carried out in turn: `folder` is the working directory, `log`
the run's metrics.jsonl, `output` a file. An action is `whole`, or `SIGNAL@STEP[+SECONDS]`: send the signal to every rank once the run has logged
that step. Prints the exit codes of each run's ranks as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from framework.__main__ import main
from framework.commands import lightning_cli  # noqa: F401 - imported before forking, which spares every child five seconds

torch.set_num_threads(1)


def logged_step(log: Path) -> int:
    lines = [line for line in log.read_text().splitlines() if line.endswith("}")] if log.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def child(arguments: list[str], folder: Path, output: Path, environment: dict[str, str]) -> None:
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 99
    os._exit(code)


def start(arguments: list[str], ranks: int, folder: Path, output: Path) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(ranks):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"} if ranks > 1 else {}
        pid = os.fork()
        if pid == 0:
            child(arguments, folder, output, environment)
        children.append(pid)
    return children


def run(specification: dict[str, Any]) -> list[int]:
    folder, output, log = (Path(specification[name]) for name in ("folder", "output", "log"))
    children = start(specification["arguments"], specification.get("ranks", 1), folder, output)
    action = specification.get("action", "whole")
    if action != "whole":
        name, _, rest = action.partition("@")
        step, _, delay = rest.partition("+")
        deadline = time.monotonic() + 60
        while logged_step(log) < int(step) and not any(map(has_ended, children)) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(float(delay or 0))
        for pid in children:
            os.kill(pid, getattr(signal, name))
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


if __name__ == "__main__":
    print(json.dumps([run(one) for one in json.loads(sys.argv[1])]))
