"""The report of runs as text: what came of them as a table, each curve as a line of blocks, and where their settings differ.

Runs flow in, lines flow out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from framework.inspection.report.facts import MISSING, differences, panels
from framework.inspection.report.logs import Run
from framework.inspection.report.page import kind_of, number, setting, summary_rows

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 40  # blocks of a curve
LONGEST = 40  # characters of a setting


def lines(runs: Sequence[Run]) -> Iterator[str]:
    """The whole report, line by line."""
    head, rows = summary_rows(runs)
    if len(rows) == 1:
        yield from aligned([[f"{name}:", cell] for name, cell in zip(head, rows[0])])
    else:
        yield from aligned([head, *rows])
    for run in runs:
        if run.verdicts:
            yield f"\n{run.name}, step {run.verdicts[-1]['step']:,}: {run.verdicts[-1].get('verdict')}: {run.verdicts[-1].get('reason')}"
    yield ""
    yield from aligned(list(_curves(runs)))
    if len(runs) > 1:
        differ = differences(runs)
        shared = [[key, *(_short(setting(value)) for value in values)] for key, values in differ.items() if MISSING not in values]
        yield ""
        yield from aligned([["what differs", *(run.name for run in runs)], *shared])
        if lacking := len(differ) - len(shared):
            yield f"and {lacking} settings that only some of the runs have"


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Values as blocks, from the lowest to the highest; of more values than blocks, means of equal stretches."""
    columns = min(width, len(values))
    edges = [column * len(values) // columns for column in range(columns + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((mean - low) / (high - low) * (len(BLOCKS) - 1)) if high > low else 0] for mean in means)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows with their columns under each other, two spaces apart."""
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(max(map(len, rows), default=0))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def _curves(runs: Sequence[Run]) -> Iterator[list[str]]:
    yield ["figure", "run", "first", "last", "lowest", "highest", ""]
    for panel in panels(runs):
        for row, figure in enumerate(panel.figures):
            name = f"{panel.title} ({kind})" if (kind := kind_of(panel, row)) else panel.title
            for run in runs:
                values = [value for _, value in run.series[figure].finite] if figure in run.series else []
                if values:
                    ends = (values[0], values[-1], min(values), max(values))
                    yield [name, run.name, *(number(value) for value in ends), sparkline(values) if len(values) > 1 else ""]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"
