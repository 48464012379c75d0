"""What a run left behind, read: its curves, samples, verdicts, configuration, lineage. Plain Python: no torch.

A run's directory flows in, one `Run` flows out. What is missing or damaged is named in `problems`, and keeps nothing else from being read.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from framework.errors import ConfigError, UserError
from framework.planner.networks import stored

MARKS = ("config.yaml", "logs", "model", "checkpoints")


@dataclass(frozen=True)
class Series:
    """A figure over a run: the optimizer steps at which it was logged, and its values; None for one that was not finite."""

    steps: list[int] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)

    @property
    def finite(self) -> list[tuple[int, float]]:
        """(step, value) of each finite value."""
        return [(step, value) for step, value in zip(self.steps, self.values) if value is not None]

    @property
    def last(self) -> float | None:
        """The newest finite value."""
        return self.finite[-1][1] if self.finite else None


@dataclass
class Run:
    """A run as it was found.

    Attributes:
        name: what the report calls it.
        directory: where it is.
        series: by name of the figure.
        samples: texts written during training: step, prompt, text.
        rollouts: replies of a policy: step, prompt, reply, score, ...
        verdicts: of the generalisation monitor: step, verdict, reason.
        config: flattened, `model.network.shape.width` -> value.
        manifest: the model directory's framework.json.
        evaluations: what `framework evaluate` found, one object a task.
        parameters: of the network.
        flops_per_token: operations of a training token in a row of the data's length; None for a network that only it can count.
        problems: what could not be read, one line each.
    """

    name: str
    directory: Path
    series: dict[str, Series] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    parameters: int | None = None
    flops_per_token: int | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def lineage(self) -> dict[str, Any]:
        """What made its model: recipe, hashes, counters; empty where it has none."""
        found = self.manifest.get("lineage")
        return found if isinstance(found, dict) else {}


def read_runs(directories: list[Path]) -> list[Run]:
    """Every run, under names that tell them apart. Raises ConfigError for a directory that is no run's."""
    for directory in directories:
        if not any((directory / mark).exists() for mark in MARKS):
            what = "holds no run" if directory.is_dir() else "is no directory"
            raise ConfigError(f"{directory} {what} (there is none of {', '.join(MARKS)} in it); give runs such as runs/pretrain.")
    return [_read(directory, name) for directory, name in zip(directories, _names(directories))]


def _names(directories: list[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [directory.resolve().parts for directory in directories]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return names


def _read(directory: Path, name: str) -> Run:
    run = Run(name, directory)
    logs = directory / "logs"
    for line in _json_lines(run, logs / "metrics.jsonl", required=not list(logs.glob("**/metrics.csv"))):
        step = line.pop("step")
        for figure, value in line.items():
            _add(run, figure, step, value)
    for path in sorted(logs.glob("**/metrics.csv")):
        _read_csv(run, path)
    run.samples = list(_json_lines(run, logs / "samples.jsonl"))
    run.rollouts = list(_json_lines(run, logs / "rollouts.jsonl"))
    run.verdicts = list(_json_lines(run, logs / "generalisation.jsonl"))
    run.manifest = _json(run, directory / "model" / "framework.json", required=True)
    run.evaluations = [result for path in sorted(directory.glob("*.json")) for result in _results(_json(run, path))]
    run.config = _config(run)
    _count(run, directory / "model")
    return run


def _add(run: Run, figure: str, step: int, value: Any) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return  # a word or a picture of some other tool's
    series = run.series.setdefault(figure, Series())
    series.steps.append(step)
    series.values.append(number if math.isfinite(number) else None)


def _read_csv(run: Run, path: Path) -> None:
    """Lightning's CSVLogger: only figures that are not known already, since both loggers get the same."""
    known = set(run.series)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for figure, value in row.items():
                    if figure not in known | {"step", "epoch", None} and value:
                        _add(run, figure, int(row["step"]), value)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        run.problems.append(f"{path} cannot be read from some line on: {error or type(error).__name__}")


def _json_lines(run: Run, path: Path, required: bool = False) -> Iterator[dict[str, Any]]:
    """The objects with a step of a JSON Lines file, those of lines that can be read."""
    text = _text(run, path, required)
    broken: list[int] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
            usable = isinstance(found, dict) and type(found.get("step")) is int
        except ValueError:
            usable = False
        if usable:
            yield found
        else:
            broken.append(number)
    if broken:
        run.problems.append(f"{path}: {len(broken)} of {len(lines)} lines cannot be read, the first of them line {broken[0]}")


def _text(run: Run, path: Path, required: bool) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if required:
            run.problems.append(f"there is no {path}")
    except OSError as error:
        run.problems.append(f"{path} cannot be read: {error.strerror}")
    return ""


def _json(run: Run, path: Path, required: bool = False) -> dict[str, Any]:
    text = _text(run, path, required)
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        run.problems.append(f"{path} is no valid JSON")
        return {}
    return found if isinstance(found, dict) else {}


def _results(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a file that `framework evaluate --output` wrote."""
    results = found.get("results")
    return (
        [each for each in results if isinstance(each, dict) and "task" in each and "metrics" in each] if isinstance(results, list) else []
    )


def _config(run: Run) -> dict[str, Any]:
    """The resolved configuration: config.yaml, or else the copy in the model directory."""
    text = _text(run, run.directory / "config.yaml", required=True)
    found: Any = None
    try:
        found = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        run.problems.append(f"{run.directory / 'config.yaml'} is no valid YAML")
    return flattened(found if isinstance(found, dict) else run.lineage.get("config") or {})


def flattened(value: Any, at: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; a part is its class's name, its arguments stand under it."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            if key == "class_path":
                found[at or key] = str(inner).rpartition(".")[2]
            else:
                found |= flattened(inner, at if key == "init_args" else f"{at}.{key}".removeprefix("."))
        return found
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {key: inner for number, item in enumerate(value) for key, inner in flattened(item, f"{at}.{number}").items()}
    return {at: value}


def _count(run: Run, model: Path) -> None:
    """Take the network's parameters and operations; of one that cannot be counted unbuilt, the numbers in its file: some formats add zeros."""
    try:
        network = stored(model)
        run.parameters = network.num_parameters
        if isinstance(length := run.config.get("data.context_length"), int):
            run.flops_per_token = network.flops_per_token(length)
    except UserError:
        run.parameters = _numbers(run, model / "model.safetensors")


def _numbers(run: Run, path: Path) -> int | None:
    try:  # a safetensors header: 8 bytes of length, then JSON
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 100_000_000)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        run.problems.append(f"{path} has no header that can be read")
        return None
