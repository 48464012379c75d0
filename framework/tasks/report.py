"""Results as a table and as JSON. Results flow in, text flows out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from framework.tasks.base import Result
from framework.tasks.estimates import Estimate

HEADER = ("task", "metric", "value", "95% low", "95% high", "n")


def table(results: Sequence[Result]) -> str:
    """A line for each figure; `-` where an interval cannot be told."""
    lines = [HEADER]
    for result in results:
        for number, (metric, estimate) in enumerate(result.metrics.items()):
            bounds = ["-" if bound is None else _figure(bound) for bound in (estimate.low, estimate.high)]
            lines.append(("" if number else result.task, metric, _figure(estimate.value), *bounds, f"{estimate.n:,}"))  # type: ignore[arg-type]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "".join(f"{_row(line, widths)}\n" for line in lines)


def remarks(result: Result) -> list[str]:
    """What is to be known beside the figures: of how many rows something went wrong, and why, a line each."""
    said = {
        "refused": "could not be asked, and count as wrong",
        "unjudged": "have an answer that could not be judged, and count as wrong",
        "cut_off": "have an answer that was cut off at max_new_tokens",
        "cut": "have choices without room for all that comes before them",
    }
    counted = [f"{result.task}: {result.counts[key]:,} of {result.n:,} {what}" for key, what in said.items() if result.counts.get(key)]
    return [*counted, *(f"{result.task}: {problem}" for problem in result.problems)]


def as_json(result: Result) -> dict[str, Any]:
    """A result as plain JSON values."""
    values: dict[str, Any] = _plain(result)
    return values


def _row(line: Sequence[str], widths: Sequence[int]) -> str:
    texts = [text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(zip(line, widths))]
    return "  ".join(texts).rstrip()


def _figure(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10_000 else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """JSON has no infinities, and no other objects."""
    if isinstance(value, Result | Estimate):
        return _plain(vars(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int | bool) else str(value)
