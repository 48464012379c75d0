"""The plotted schedule shows the schedule's own numbers."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from framework.commands.plot_schedule import plot_schedule
from framework.errors import ConfigError
from framework.schedulers.schedules import Constant, Cosine, Linear


def test_picture_and_table(capsys: pytest.CaptureFixture[str]) -> None:
    plot_schedule(100, Cosine(10), lr=6e-4)
    out = capsys.readouterr().out
    assert out.startswith("Cosine, 100 steps, learning rate 0.0006\n")
    values = {int(line.split()[0]): float(line.split()[1]) for line in out.partition("learning rate\n")[2].splitlines()}
    assert {0, 9, 10, 99} <= values.keys()
    assert values == {step: pytest.approx(6e-4 * Cosine(10).factor(step, 100), rel=1e-5) for step in values}
    columns = [line[11:] for line in out.splitlines() if " |" in line]
    stars = {(row, column) for row, line in enumerate(columns) for column, cell in enumerate(line) if cell == "*"}
    assert len(columns) == 16 and {column for _, column in stars} == set(range(72))
    assert max(row for row, column in stars if column == 0) == 13  # the first step, a tenth of the full rate: 1.5 rows over the bottom
    assert min(column for row, column in stars if row == 0) == pytest.approx(7, abs=1)  # the peak, after a tenth of the run
    assert max(row for row, column in stars if column == 71) == 13  # the last step, a tenth again


@pytest.mark.parametrize("total_steps", [1, 2, 7, 5000])
def test_any_length(total_steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot_schedule(total_steps, Linear(), output=tmp_path / "deep" / "schedule.svg")
    assert capsys.readouterr().out.count("*") >= 1
    drawing = ElementTree.fromstring((tmp_path / "deep" / "schedule.svg").read_text())
    points = drawing.find("{http://www.w3.org/2000/svg}polyline").get("points").split()
    assert len(points) == min(total_steps, 1201)
    assert points[0].split(",")[1] == "40.0"  # the full rate is the top


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        plot_schedule(0, Constant())
    with pytest.raises(ConfigError, match=r"ends in \.svg"):
        plot_schedule(10, Constant(), output=tmp_path / "schedule.png")
