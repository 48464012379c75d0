"""Line charts as inline SVG: ticks a person would choose, thousands of points thinned to what a screen can show, read-outs on hover.

Lines of numbers flow in, a figure of HTML and the data of its points flow out; `charts.css` and `charts.js` belong to the page that
holds it. Must not know what the lines mean.
"""

from __future__ import annotations

import html
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

STYLE = Path(__file__).with_name("charts.css")
SCRIPT = Path(__file__).with_name("charts.js")
COLOURS = 8  # that charts.css has; further lines begin again
WIDTH, HEIGHT = 440, 250  # of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 10, 26  # margins, where the ticks' labels stand
BUCKETS = WIDTH - LEFT - RIGHT  # columns of the drawing: of each the lowest and the highest point is drawn
MARKED = 16  # a line of so few points shows each

Scale = Literal["linear", "log"]
Points = list[tuple[float, float | None]]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: what it is.
        colour: its number in the palette.
        dashed: whether it is drawn in dashes.
        points: (x, y) in the order of x; a y of None leaves a gap.
    """

    label: str
    colour: int
    dashed: bool
    points: Points


def ticks(low: float, high: float, most: int) -> list[float]:
    """The most, but at most `most` (2 or more), round numbers within [low, high]: 1, 2 or 5 times a power of ten apart."""
    step = _step((high - low) / most / 5)
    while (count := math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1) > most:
        step = _step(step * 1.5)
    first = math.ceil(low / step - 1e-9)
    return [round((first + number) * step, 12 - math.floor(math.log10(step))) + 0.0 for number in range(count)]


def _step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is not under `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least * (1 - 1e-9))


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` numbers within [low, high] for a logarithmic scale: 1, 2 and 5 times powers of ten, or powers of ten only."""
    for times in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [float(f"{digit}e{power}") for power in powers for digit in times]
        found = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found or [low]
    return found[:: -(-len(found) // most)]


def label(value: float, smallest: float = 0.0) -> str:
    """A number as a tick shows it: 0.05, 1,500, 20k, 3M, 2e-5.

    Args:
        value: the number.
        smallest: of the numbers beside it, other than 0: where that needs a power of ten, this gets one too.
    """
    size = abs(value)
    if size >= 10_000 and size < 1e12:
        unit, letter = next((unit, letter) for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if size >= unit)
        return f"{value / unit:.4g}{letter}"
    if size and (size >= 1e12 or min(size, abs(smallest) or size) < 1e-4):
        mantissa, _, power = f"{value:.3e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return f"{value:,.6g}"


def labels(values: Sequence[float]) -> list[str]:
    """The numbers as ticks of one axis."""
    smallest = min((abs(value) for value in values if value), default=0.0)
    return [label(value, smallest) for value in values]


def thinned(points: Points, place: Callable[[float], float]) -> Points:
    """Of each column the first, lowest, highest and last point: what stands out at any width stays, values are never averaged.

    Args:
        points: in the order of x.
        place: where an x lies, in columns.
    """
    if len(points) <= 2 * BUCKETS:
        return points
    kept: list[int] = []
    start = 0
    columns = [math.floor(place(x)) for x, _ in points]
    while start < len(points):
        end = bisect_right(columns, columns[start], start)
        seen = [number for number in range(start, end) if points[number][1] is not None]
        if seen:
            lowest, highest = (choose(seen, key=lambda number: points[number][1] or 0.0) for choose in (min, max))
            kept += sorted({seen[0], lowest, highest, seen[-1]})
        gaps = [number for number in range(start, end) if points[number][1] is None]
        kept += gaps[:1]
        start = end
    return [points[number] for number in sorted(kept)]


def drawable(lines: Sequence[Line], scale: Scale) -> list[Line]:
    """The lines with the points that a scale can show: a logarithmic one has no place for x of 0 and less."""
    shown = [
        Line(line.label, line.colour, line.dashed, [point for point in line.points if scale == "linear" or point[0] > 0]) for line in lines
    ]
    return [line for line in shown if any(y is not None for _, y in line.points)]


def chart(name: str, title: str, lines: Sequence[Line], scale: Scale, x_name: str = "step") -> tuple[str, dict[str, Any]] | None:
    """An SVG and what its read-outs need: both ranges, and each line's points as they are drawn; None where nothing can be drawn.

    Args:
        name: the SVG's id.
        title: read to those who do not see it.
        lines: what is drawn.
        scale: of x.
        x_name: what x is.
    """
    lines = drawable(lines, scale)
    if not lines:
        return None
    x_range = _range([x for line in lines for x, _ in line.points], pad=False, scale=scale)
    y_range = _range([y for line in lines for _, y in line.points if y is not None], pad=True, scale="linear")
    through = math.log10 if scale == "log" else float
    low, high = (through(bound) for bound in x_range)

    def column(x: float) -> float:
        return (through(x) - low) / (high - low) * BUCKETS

    def row(y: float) -> float:
        return TOP + (y_range[1] - y) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)

    shown = [Line(line.label, line.colour, line.dashed, thinned(line.points, column)) for line in lines]
    drawn = "".join(_path(line, lambda x: LEFT + column(x), row) for line in shown)
    x_ticks = log_ticks(*x_range, 6) if scale == "log" else ticks(*x_range, 6)
    axes = _x_axis(x_ticks, lambda x: LEFT + column(x)) + _y_axis(ticks(*y_range, 6), row)
    svg = (
        f'<svg id="{html.escape(name)}" class="{scale}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f'{axes}{drawn}<g class="cursor"></g></svg>'
    )
    data = [{"label": line.label, "colour": line.colour % COLOURS, "points": line.points} for line in shown]
    area = [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM]
    return svg, {"scale": scale, "x": x_range, "y": y_range, "x_name": x_name, "area": area, "lines": data}


def _range(values: Sequence[float], pad: bool, scale: Scale) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        reach = abs(low) * 0.1 or 1.0
        return (low / 2, low * 2) if scale == "log" else (low - reach, high + reach)
    margin = 0.04 * (high - low) if pad else 0.0
    return (low - margin if low != 0 else low), high + margin


def _path(line: Line, column: Callable[[float], float], row: Callable[[float], float]) -> str:
    pieces, pen = [], "M"
    for x, y in line.points:
        if y is None:
            pen = "M"
            continue
        pieces.append(f"{pen}{column(x):.1f},{row(y):.1f}")
        pen = "L"
    colour = f"c{line.colour % COLOURS}"
    dots = "".join(f'<circle cx="{column(x):.1f}" cy="{row(y):.1f}" r="2.2"/>' for x, y in line.points if y is not None)
    marks = f'<g class="dots {colour}">{dots}</g>' if len(line.points) <= MARKED or len(pieces) == 1 else ""
    return f'<path class="line {colour}{" dashed" if line.dashed else ""}" d="{"".join(pieces)}"/>{marks}'


def _x_axis(values: Sequence[float], column: Callable[[float], float]) -> str:
    bottom = HEIGHT - BOTTOM
    lines = "".join(f'<path class="grid" d="M{column(x):.1f},{TOP}V{bottom}"/>' for x in values)
    texts = "".join(
        f'<text x="{min(column(x), WIDTH - 16):.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>'
        for x, text in zip(values, labels(values))
    )
    return f'{lines}<path class="axis" d="M{LEFT},{bottom}H{WIDTH - RIGHT}"/>{texts}'


def _y_axis(values: Sequence[float], row: Callable[[float], float]) -> str:
    lines = "".join(f'<path class="grid" d="M{LEFT},{row(y):.1f}H{WIDTH - RIGHT}"/>' for y in values)
    return lines + "".join(
        f'<text x="{LEFT - 6}" y="{row(y) + 4:.1f}" text-anchor="end">{text}</text>' for y, text in zip(values, labels(values))
    )
