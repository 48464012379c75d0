"""Runs `framework fit` in forked processes and ends them: a helper of test_resume.py, run as a script so that nothing else is imported.

    python interrupted.py RUNS_DIR CONFIG OUTPUT ACTION [ACTION ...]

An action is `whole`, or `SIGNAL@STEP[+SECONDS]`: send the signal once the run has logged that step. Each but the first goes on with --resume auto.
Prints one JSON list: (action, exit code) of each process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from framework.__main__ import main
from framework.commands import lightning_cli  # noqa: F401 - imported before forking, which spares every child five seconds

torch.set_num_threads(1)


def logged_step(log: Path) -> int:
    lines = [line for line in log.read_text().splitlines() if line.endswith("}")] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def run(action: str, arguments: list[str], log: Path, output: Path) -> int:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        try:
            code = main(arguments)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 99
        os._exit(code)
    if action != "whole":
        name, _, rest = action.partition("@")
        step, _, delay = rest.partition("+")
        deadline = time.monotonic() + 60
        while logged_step(log) < int(step) and time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.005)
        time.sleep(float(delay or 0))
        os.kill(child, getattr(signal, name))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    runs, config, output, *actions = sys.argv[1:]
    results = []
    for number, action in enumerate(actions):
        arguments = ["fit", "--config", config, "--runs_dir", runs, *(["--resume", "auto"] if number else [])]
        results.append((action, run(action, arguments, Path(runs) / "run" / "logs" / "metrics.jsonl", Path(output))))
    print(json.dumps(results))
