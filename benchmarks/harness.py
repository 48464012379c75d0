"""Contenders in processes of their own, a round each in turn, and what comes of it: medians, paired ratios, tables.

Contenders flow in, a `Table` flows out. Must not know what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
ALLOCATOR = ("LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES")  # taken out of every contender's environment: all use the default allocator,
DEFAULT = {"FRAMEWORK_KEEP_MEMORY": "0"}  # and its default settings, unless a row says otherwise


@dataclass(frozen=True)
class Contender:
    """A row: what runs in a process of its own.

    Attributes:
        name: the row's name.
        function: `module:function` in this directory, called as function(rounds, **arguments).
        arguments: JSON values.
        python: the interpreter, where it is not this one.
        quick: whether it runs with --quick, too.
    """

    name: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    quick: bool = True


@dataclass(frozen=True)
class Target:
    """`ours` is to be at least `factor` times as fast as the fastest of `peers`, or to take at most `factor` times the memory."""

    ours: str
    peers: tuple[str, ...]
    factor: float
    memory: bool = False


@dataclass
class Table:
    """What a section measured.

    Attributes:
        title: what was run.
        unit: of `rates`.
        rates: units a second by row and round; rounds of one number lie next to each other in time.
        peak_mib: each row's peak resident memory.
        parameters: of each row's network; 0 where there is none.
        notes: lines under the table: limits, things left out.
        targets: what was to be reached.
        gemm: rates of the machine's matrix products, FLOP/s by round, by shape; empty where none were measured.
        flops: floating-point operations of one unit; 0 where it does no products.
        figures: by round, what is no row's rate; the section says in its notes what they mean.
        columns: further columns: what each row says of itself.
    """

    title: str
    unit: str
    rates: dict[str, list[float]]
    peak_mib: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    gemm: dict[str, list[float]] = field(default_factory=dict)
    flops: float = 0.0
    figures: dict[str, list[float]] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def peak_flops(self) -> float:
        """The best shape's median."""
        return max((median(rates) for rates in self.gemm.values()), default=0.0)

    def ratios(self, row: str, other: str) -> list[float]:
        """How many times as fast `row` was, round by round."""
        return [ours / theirs for ours, theirs in zip(self.rates[row], self.rates[other], strict=True)]

    def fastest(self, rows: tuple[str, ...]) -> str | None:
        """The row with the best median among those that ran."""
        return max((row for row in rows if row in self.rates), key=lambda row: median(self.rates[row]), default=None)

    def to_json(self) -> dict[str, Any]:
        """Everything, for keeping."""
        return asdict(self)


class Worker:
    """A contender's process, warmed up and asleep."""

    def __init__(self, contender: Contender, warm_up: int, steps: int, threads: int) -> None:
        self.name = contender.name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open for as long as the process is)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(ALLOCATOR)}
        environment |= {
            "OMP_NUM_THREADS": str(threads or os.cpu_count()),
            "PYTHONPATH": str(HERE),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            **DEFAULT,
        }
        spec = {
            "contender": contender.function,
            "arguments": contender.arguments,
            "warm_up": warm_up,
            "steps": steps,
            "threads": threads,
        }
        self._process = subprocess.Popen(
            [contender.python, str(HERE / "worker.py"), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self.answer = self._listen()  # the warm-up's

    def round(self) -> dict[str, Any]:
        """Let it run one round; its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        self.answer = self._listen()
        return self.answer

    def _listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise Failed(f"{self.name} ended with exit code {self._process.returncode}:\n{self._log.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=60)
        self._log.close()


class Failed(RuntimeError):
    """A contender's process ended; the message has the end of its log."""


def compete(
    title: str, unit: str, contenders: list[Contender], units_per_step: float, rounds: int, steps: int, warm_up: int, threads: int
) -> Table:
    """Run the contenders round by round: A B C, C B A, A B C, ... so that the machine's drift meets all of them alike.

    A contender that fails is left out, with a note. An answer is one row's time, unless it carries `rates` (units a second by row),
    `gemm` (the machine's FLOP/s by shape) or other `figures`; `columns` are texts beside the row of the contender's name.
    """
    table = Table(title, unit, {})
    workers: list[Worker] = []
    try:
        for contender in contenders:
            say(f"{title}: setting up {contender.name}")
            try:
                workers.append(Worker(contender, warm_up, steps, threads))
            except Failed as failure:
                _leave_out(table, contender.name, failure)
        for number in range(rounds):
            say(f"{title}: round {number + 1} of {rounds}")
            for worker in workers[:] if number % 2 == 0 else workers[::-1]:
                try:
                    _enter(table, worker.name, worker.round(), units_per_step * steps)
                except Failed as failure:
                    workers.remove(worker)
                    _leave_out(table, worker.name, failure)
    finally:
        for worker in workers:
            worker.stop()
    return table


def _enter(table: Table, name: str, answer: dict[str, Any], units: float) -> None:
    """Put a round's answer into the table; rows come in the order of the first round."""
    table.flops = answer.get("flops", table.flops)
    for shape, rate in answer.get("gemm", {}).items():
        table.gemm.setdefault(shape, []).append(rate)
    for figure, value in answer.get("figures", {}).items():
        table.figures.setdefault(figure, []).append(value)
    for column, text in answer.get("columns", {}).items():
        table.columns.setdefault(column, {})[name] = text
    for row, rate in answer.get("rates", {name: units / answer["seconds"]}).items():
        table.rates.setdefault(row, []).append(rate)
        table.peak_mib[row] = answer["peak_mib"]
        table.parameters[row] = answer.get("parameters", 0)


def _leave_out(table: Table, name: str, failure: Failed) -> None:
    say(str(failure))
    table.rates.pop(name, None)
    table.notes.append(f"{name}: left out, it failed ({str(failure).strip().splitlines()[-1][:160]})")


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
