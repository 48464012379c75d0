"""Charts: ticks are round and inside, thinning keeps what stands out, and what is drawn and embedded is what was given."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.inspection import charts
from framework.inspection.charts import BUCKETS, Line, Points, chart, label, labels, log_ticks, thinned, ticks

numbers = st.floats(-1e9, 1e9).map(lambda value: float(f"{value:.6g}"))


@given(numbers, numbers, st.integers(2, 12))
def test_ticks_are_round_and_inside(one: float, other: float, most: int) -> None:
    low, high = sorted((one, other))
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-3):
        return
    found = ticks(low, high, most)
    step = (high - low) / most
    assert 1 <= len(found) <= most and found == sorted(set(found))
    assert all(low - 1e-6 * step <= tick <= high + 1e-6 * step for tick in found)
    if len(found) > 1:
        distance = found[1] - found[0]
        mantissa = distance / 10.0 ** math.floor(math.log10(distance) + 1e-9)
        assert min(abs(mantissa - digit) for digit in (1, 2, 5, 10)) < 1e-3
        assert all(tick / distance == pytest.approx(round(tick / distance), abs=1e-3) for tick in found)


def test_ticks_by_hand() -> None:
    assert ticks(0, 500, 5) == [0, 200, 400] and ticks(10, 500, 6) == [100, 200, 300, 400, 500]
    assert ticks(0.0001, 0.0021, 5) == [0.0005, 0.001, 0.0015, 0.002]
    assert ticks(-1.2, 1.1, 6) == [-1.0, -0.5, 0.0, 0.5, 1.0] and str(ticks(-1.2, 1.1, 6)[2]) == "0.0"
    assert log_ticks(1, 1000, 10) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert log_ticks(1, 1000, 8) == [1, 3, 10, 30, 100, 300, 1000] and log_ticks(10, 4000, 4) == [10, 100, 1000]
    assert log_ticks(30, 40, 6) == [30] and log_ticks(31, 40, 6) == [31]
    assert log_ticks(1, 1e12, 5) == [1, 1e3, 1e6, 1e9, 1e12]


def test_labels() -> None:
    shown = {0: "0", 0.05: "0.05", 1500: "1,500", 20_000: "20k", 12_500: "12.5k", 3e6: "3M", 2e-5: "2e-5", 5e-4: "0.0005", -0.2: "-0.2"}
    assert {value: label(value) for value in shown} == shown
    assert labels([0.0, 5e-5, 1e-4, 1.5e-4]) == ["0", "5e-5", "1e-4", "1.5e-4"]  # one way of writing on an axis


def wave(count: int, seed: int = 0) -> Points:
    draw = random.Random(seed)
    return [(float(step), math.sin(step / 300) + draw.gauss(0, 0.2)) for step in range(1, count + 1)]


def test_thinning_keeps_the_extremes_of_every_column() -> None:
    points = wave(20_000)
    points[7777] = (7778.0, 55.0)
    points[12345] = (12346.0, -55.0)
    points[15000] = (15001.0, None)

    def column(x: float) -> float:
        return (x - 1) / 19_999 * BUCKETS

    kept = thinned(points, column)
    assert len(kept) <= 5 * (BUCKETS + 1) and set(kept) <= set(points) and kept == sorted(kept, key=lambda point: point[0])
    assert (
        (7778.0, 55.0) in kept and (12346.0, -55.0) in kept and (15001.0, None) in kept and kept[0] == points[0] and kept[-1] == points[-1]
    )
    for place in range(BUCKETS):
        inside, left = ([y for x, y in some if math.floor(column(x)) == place and y is not None] for some in (points, kept))
        assert min(inside) == min(left) and max(inside) == max(left)
    few = wave(2 * BUCKETS)
    assert thinned(few, lambda x: 0.0) is few


def drawn(svg: str) -> list[list[tuple[float, float]]]:
    """Corners of each line's path, in units of the drawing."""
    paths = re.findall(r'class="line [^"]*" d="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+),([-\d.]+)", path)] for path in paths]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_what_is_drawn_is_what_was_given(scale: Any) -> None:
    lines = [Line("a", 0, False, wave(300)), Line("b", 1, True, [(50.0, 3.0), (100.0, None), (200.0, -2.0), (300.0, 0.5)])]
    made = chart("it", "A title", lines, scale)
    assert made is not None
    svg, data = made
    assert [line["points"] for line in data["lines"]] == [line.points for line in lines]
    assert data["x"] == (1.0, 300.0) and data["y"][0] < -2.0 and data["y"][1] > 3.0
    left, top, right, bottom = data["area"]
    through = math.log10 if scale == "log" else float
    low, high = map(through, data["x"])
    for line, corners in zip(lines, drawn(svg)):
        finite = [(x, y) for x, y in line.points if y is not None]
        assert len(finite) == len(corners)
        for (x, y), (column, row) in zip(finite, corners):
            assert through(x) == pytest.approx(
                low + (column - left) / (right - left) * (high - low), abs=0.06 * (high - low) / (right - left)
            )
            of_height = (data["y"][1] - y) / (data["y"][1] - data["y"][0])
            assert row == pytest.approx(top + of_height * (bottom - top), abs=0.06)
    assert re.findall(r'd="M[^"]*?M', svg), "the line is interrupted where there is no value"
    assert "dashed" in svg and svg.count("<circle") == 3  # the few points of the second line are marked


def test_axis_labels_stand_at_their_values() -> None:
    made = chart("it", "t", [Line("a", 0, False, [(0.0, 0.0), (10.0, 1.0)])], "linear")
    assert made is not None
    svg, data = made
    left, top, right, bottom = data["area"]
    texts = [(float(x), float(y), text) for x, y, text in re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', svg)]
    across = {text: x for x, y, text in texts if y > bottom + 5}
    up = {text: y for _, y, text in texts if y <= bottom + 5}
    assert across.pop("10") == charts.WIDTH - 16  # moved in, lest it be cut off
    assert across == {str(x): pytest.approx(left + x / 10 * (right - left), abs=0.06) for x in (0, 2, 4, 6, 8)}
    for text, y in up.items():
        share = (data["y"][1] - float(text)) / (data["y"][1] - data["y"][0])
        assert y - 4 == pytest.approx(top + share * (bottom - top), abs=0.06)
    assert set(up) == {"0", "0.2", "0.4", "0.6", "0.8", "1"}


def test_what_cannot_be_drawn() -> None:
    assert chart("it", "t", [], "linear") is None
    assert chart("it", "t", [Line("a", 0, False, [(1.0, None)])], "linear") is None
    assert chart("it", "t", [Line("a", 0, False, [(0.0, 1.0)])], "log") is None
    one = chart("it", "t", [Line("a", 0, False, [(5.0, 1.0)])], "log")
    assert one is not None and one[1]["x"] == (2.5, 10.0) and one[0].count("<circle") == 1
    zero = chart("it", "t", [Line("a", 0, False, [(0.0, 0.0), (5.0, 0.0)])], "linear")
    assert zero is not None and zero[1]["y"] == (-1.0, 1.0)


def test_titles_are_escaped_and_colours_begin_again() -> None:
    made = chart('a"b', '<b>"', [Line("<i>", charts.COLOURS + 1, False, [(1.0, 1.0)])], "linear")
    assert made is not None and "<b>" not in made[0] and 'id="a&quot;b"' in made[0] and made[1]["lines"][0]["colour"] == 1
