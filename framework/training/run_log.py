"""The run's own log: one JSON object a line in `logs/metrics.jsonl`, whatever other loggers are there.

A resumed run takes its log up where its checkpoint stands: no step twice, none lost.
"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from itertools import takewhile
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class RunLog(Logger):
    """Appends metrics as they come.

    Args:
        directory: the run's `logs/`.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory, self._path = directory, directory / "metrics.jsonl"
        self._begun = False

    @property
    def name(self) -> str:
        """What Lightning calls the logger."""
        return "run_log"

    @property
    def version(self) -> str:
        """One run, one log."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration is in the run's config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line; the first of a resumed run drops what an earlier process logged from here on."""
        if not self._begun:
            self._drop_from(step or 0, set(metrics))
        self._begun = True
        line = {"step": step, **{name: value if math.isfinite(value) else str(value) for name, value in metrics.items() if name != "epoch"}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _drop_from(self, step: int, names: set[str]) -> None:
        """Keep what came before: earlier steps, and of this one what was logged ahead of the same figures (a validation follows its step)."""
        if not self._path.exists():
            return
        lines = [line for line in self._path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = takewhile(lambda line: _comes_before(json.loads(line), step, names), lines)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        temporary.replace(self._path)


def _comes_before(found: dict[str, Any], step: int, names: set[str]) -> bool:
    return bool(found["step"] < step or (found["step"] == step and not names & found.keys()))
