"""`framework plot-schedule`: a learning-rate schedule as a picture and a table, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from framework.errors import ConfigError
from framework.schedulers.base import Scheduler

WIDTH, HEIGHT = 72, 16  # characters of the picture
ROWS = 12  # steps of the table


def plot_schedule(total_steps: int, scheduler: Scheduler, lr: float = 1.0, output: Path | None = None) -> None:
    """Show a learning-rate schedule as a picture and a table of values.

    Args:
        total_steps: optimizer steps of the run.
        scheduler: the schedule, e.g. `--scheduler Cosine --scheduler.warmup_steps 100`.
        lr: the optimizer's learning rate, which the schedule multiplies.
        output: write the picture to this .svg file too.
    """
    if total_steps < 1:
        raise ConfigError(f"total_steps is {total_steps} and must be at least 1")
    if output is not None and output.suffix != ".svg":
        raise ConfigError(f"--output {output}: pictures are written as SVG; name a file that ends in .svg")
    try:
        rates = [lr * scheduler.factor(step, total_steps) for step in range(total_steps)]
    except ValueError as misfit:
        raise ConfigError(str(misfit)) from None
    title = f"{type(scheduler).__name__}, {total_steps} steps, learning rate {lr:g}"
    print(f"{title}\n\n{picture(rates)}\n\n{table(rates)}")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(svg(rates, title), encoding="utf-8")


def picture(rates: list[float]) -> str:
    """The rates as characters: a column shows the steps that fall into it, from the lowest to the highest rate."""
    top = max(rates) or 1.0
    columns = min(WIDTH, len(rates))
    grid = [[" "] * columns for _ in range(HEIGHT)]
    for column in range(columns):
        inside = rates[column * len(rates) // columns : (column + 1) * len(rates) // columns]
        low, high = (round(rate / top * (HEIGHT - 1)) for rate in (min(inside), max(inside)))
        for row in range(low, high + 1):
            grid[HEIGHT - 1 - row][column] = "*"
    labels = {0: f"{top:.3g}", HEIGHT - 1: "0"}
    lines = [f"{labels.get(row, ''):>9} |{''.join(cells).rstrip()}" for row, cells in enumerate(grid)]
    return "\n".join([*lines, f"{'':>9} +{'-' * columns}", f"{'':>11}0{len(rates) - 1:>{max(1, columns - 1)}}"])


def table(rates: list[float]) -> str:
    """Step and rate at the first and last step, the peak's ends, and at even distances between."""
    last = len(rates) - 1
    peak = max(rates)
    at_peak = [step for step, rate in enumerate(rates) if rate == peak]
    steps = sorted({0, at_peak[0], at_peak[-1], last, *(round(last * part / (ROWS - 1)) for part in range(ROWS))})
    return "\n".join([f"{'step':>9}  learning rate", *(f"{step:>9}  {rates[step]:.6g}" for step in steps)])


def svg(rates: list[float], title: str) -> str:
    """The rates as a line in an SVG of 720 x 360 units."""
    left, top, width, height = 80, 40, 600, 260
    peak, last = max(rates) or 1.0, max(1, len(rates) - 1)
    shown = sorted({round(last * i / min(last, 1200)) for i in range(min(last, 1200) + 1)} & set(range(len(rates))))
    points = " ".join(f"{left + width * step / last:.1f},{top + height * (1 - rates[step] / peak):.1f}" for step in shown)
    bottom, right = top + height, left + width
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 360" font-family="sans-serif" font-size="13">
  <rect width="720" height="360" fill="white"/>
  <text x="{left}" y="24">{title}</text>
  <path d="M{left},{top} V{bottom} H{right}" fill="none" stroke="#888"/>
  <text x="{left - 8}" y="{top + 5}" text-anchor="end">{peak:.3g}</text>
  <text x="{left - 8}" y="{bottom + 5}" text-anchor="end">0</text>
  <text x="{left}" y="{bottom + 20}">0</text>
  <text x="{right}" y="{bottom + 20}" text-anchor="end">step {len(rates) - 1}</text>
  <polyline points="{points}" fill="none" stroke="#1f5fbf" stroke-width="2"/>
</svg>
"""
