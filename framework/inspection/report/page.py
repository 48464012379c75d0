"""The report of runs as one page: what came of them, their curves, texts over time, settings and where they differ, lineage.

Runs flow in, HTML flows out. Facts are worked out in report_facts; this only sets them.
"""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.inspection import charts
from framework.inspection.document import document, embedded, facts, table
from framework.inspection.report.facts import (
    MISSING,
    Panel,
    constants,
    cost,
    differences,
    environment,
    gap,
    lineage,
    panels,
    parents,
    title_of,
)
from framework.inspection.report.facts import best as best_of
from framework.inspection.report.logs import Run, Series

STYLE = Path(__file__).with_name("page.css")
SHOWN_STEPS = 6  # of samples and rollouts, spread evenly over the run
SHOWN_REPLIES = 4  # of a rollout


def page(runs: Sequence[Run]) -> str:
    """The whole page."""
    drawings: dict[str, Any] = {}
    body = [
        _problems(runs),
        _summary(runs),
        _verdicts(runs),
        _curves(runs, drawings),
        _evaluations(runs),
        *(_samples(run) for run in runs),
        *(_rollouts(run) for run in runs),
        _settings(runs),
        *(_origin(run) for run in runs),
        embedded("charts", drawings),
    ]
    css = charts.STYLE.read_text(encoding="utf-8") + STYLE.read_text(encoding="utf-8")
    title = f"Training report: {', '.join(run.name for run in runs)}"
    return document(title, "".join(body), css, charts.SCRIPT.read_text(encoding="utf-8") if drawings else "")


def number(value: float | None, digits: int = 4) -> str:
    """A figure of a table."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return MISSING
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.1f} min" if minutes >= 2 else f"{seconds:.1f} s"


def summary_rows(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns and a row for each run; columns that no run fills are left out."""
    head = [
        "run",
        "recipe",
        "parameters",
        "steps",
        "trained on",
        "time",
        "speed",
        "MFU",
        "FLOPs",
        "train loss",
        "best validation",
        "gap",
        "verdict",
    ]
    rows = []
    for run in runs:
        took, found = cost(run), best_of(run)
        trained, speed = (
            MISSING if value is None else f"{charts.label(float(f'{value:.3g}'))} {took.item}"
            for value in (took.items, took.items_per_second)
        )
        rows.append(
            [
                run.name,
                str(run.lineage.get("recipe") or run.config.get("model") or MISSING),
                MISSING if run.parameters is None else f"{run.parameters:,}",
                f"{took.steps:,}",
                trained,
                duration(took.seconds),
                speed if speed == MISSING else f"{speed}/s",
                MISSING if took.mfu is None else f"{took.mfu:.0%}",
                number(took.flops, 3),
                number(run.series.get("train/loss", Series()).last),
                MISSING if found is None else f"{found[0].partition('/')[2]} {number(found[2])} at step {found[1]:,}",
                number(gap(run), 3),
                str(run.verdicts[-1].get("verdict", MISSING)) if run.verdicts else MISSING,
            ]
        )
    kept = [column for column in range(len(head)) if any(row[column] != MISSING for row in rows)]
    return [head[column] for column in kept], [[row[column] for column in kept] for row in rows]


def _problems(runs: Sequence[Run]) -> str:
    found = [problem for run in runs for problem in run.problems]
    return f'<ul class="problems">{"".join(f"<li>{html.escape(problem)}</li>" for problem in found)}</ul>' if found else ""


def _summary(runs: Sequence[Run]) -> str:
    head, rows = summary_rows(runs)
    note = (
        '<p class="note">Time is that of training, from the logged throughput: start-up, validation and checkpoints do not count. '
        "The gap is the last validation loss less the training loss.</p>"
    )
    if len(runs) == 1:
        return facts(zip(head[1:], rows[0][1:])) + note
    keys = [f'<span class="key c{place % charts.COLOURS}"></span>' for place in range(len(runs))]
    columns = [[name, *(html.escape(row[column]) for row in rows)] for column, name in enumerate(head) if column]
    return table(["", *(run.name for run in runs)], [["line in the charts", *keys], *columns]) + note


def _verdicts(runs: Sequence[Run]) -> str:
    """Of each run the verdicts, each with the reason of its last step."""
    found = ""
    for run in runs:
        for _, group in itertools.groupby(run.verdicts, key=lambda line: line.get("verdict")):
            lines = list(group)
            steps = f"step {lines[0]['step']:,}" if len(lines) == 1 else f"steps {lines[0]['step']:,} to {lines[-1]['step']:,}"
            verdict, reason = (html.escape(str(lines[-1].get(name, MISSING))) for name in ("verdict", "reason"))
            found += f"<dt>{html.escape(run.name)}, {steps}: <b>{verdict}</b></dt><dd>{reason}</dd>"
    return f'<h2>Does it generalise?</h2><dl class="verdicts">{found}</dl>' if found else ""


def _curves(runs: Sequence[Run], drawings: dict[str, Any]) -> str:
    parts = [
        '<h2>Curves</h2><p class="controls">steps: '
        '<label><input type="radio" name="x" id="x-linear" checked> linear</label> '
        '<label><input type="radio" name="x" id="x-log"> logarithmic</label> '
        '<span class="note">rest the pointer on a chart to read its values</span></p>'
    ]
    counter = itertools.count()
    for group, members in itertools.groupby(panels(runs), key=lambda panel: panel.group):
        figures = "".join(_figure(runs, panel, f"chart-{next(counter)}", drawings) for panel in members)
        parts.append(f'<h3>{group}</h3><div class="charts">{figures}</div>' if figures else "")
    if len(parts) == 1 or not drawings:
        return '<h2>Curves</h2><p class="note">There are no figures to draw.</p>'
    if still := constants(runs):
        listed = ", ".join(f"{title_of(name)} {number(value)}" for name, value in still.items())
        parts.append(f'<p class="note">The same all along: {html.escape(listed)}.</p>')
    return "".join(parts)


def lines_of(runs: Sequence[Run], panel: Panel) -> list[charts.Line]:
    """A panel's lines: of one run a colour for each figure, of several a colour for each run."""
    lines = []
    for place, run in enumerate(runs):
        for row, figure in enumerate(panel.figures):
            if figure in run.series:
                kind = kind_of(panel, row)
                label = " ".join(part for part in (run.name if len(runs) > 1 else "", kind) if part) or panel.title
                series = run.series[figure]
                points: charts.Points = [(float(step), value) for step, value in zip(series.steps, series.values)]
                lines.append(charts.Line(label, place if len(runs) > 1 else row, row > 0, points))
    return lines


def kind_of(panel: Panel, row: int) -> str:
    """Which side of the data a panel's figure is of, where it shows two."""
    if len(panel.figures) == 1:
        return ""
    return (("samples", "held-out text") if panel.figures[0] == "generalisation/ngrams_seen" else ("training", "validation"))[row]


def _figure(runs: Sequence[Run], panel: Panel, name: str, drawings: dict[str, Any]) -> str:
    lines = lines_of(runs, panel)
    drawn = ""
    for scale in ("linear", "log"):
        if (made := charts.chart(f"{name}-{scale}", panel.title, lines, scale)) is not None:
            drawn += made[0]
            drawings[f"{name}-{scale}"] = made[1]
    if not drawn:
        return ""
    points = sum(len(line.points) for line in lines)
    shown = sum(len(line["points"]) for line in drawings[f"{name}-linear"]["lines"])
    notes = [f"{points:,} points" + (f", {shown:,} of them drawn: the extremes of every column" if shown < points else "")]
    if gaps := sum(y is None for line in lines for _, y in line.points):
        notes.append(f"{gaps} not finite")
    if early := sum(x <= 0 for line in lines for x, _ in line.points):
        notes.append(f'<span class="log">{early} at step 0, which this scale cannot show</span>')
    keys = "".join(
        f'<span class="key{" dashed" if row else ""}{f" c{row}" if len(runs) == 1 else ""}">{kind_of(panel, row)}</span>'
        for row in range(len(panel.figures))
        if len(panel.figures) > 1
    )
    if len(runs) > 1:
        keys = (
            "".join(
                f'<span class="key c{place % charts.COLOURS}">{html.escape(run.name)}</span>'
                for place, run in enumerate(runs)
                if any(figure in run.series for figure in panel.figures)
            )
            + keys
        )
    return (
        f'<figure><figcaption>{html.escape(panel.title)}<p class="keys">{keys}</p></figcaption>{drawn}'
        f'<div class="reading" aria-live="off"></div><p class="note">{"; ".join(notes)}</p></figure>'
    )


def _evaluations(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        for result in run.evaluations:
            for figure, estimate in result["metrics"].items():
                bounds = [estimate.get(bound) for bound in ("low", "high")]
                interval = MISSING if None in bounds else f"{number(bounds[0])} to {number(bounds[1])}"
                rows.append(
                    [run.name, str(result["task"]), str(figure), number(estimate.get("value")), interval, str(estimate.get("n", MISSING))]
                )
    if not rows:
        return ""
    cells = [[html.escape(cell) for cell in row] for row in rows]
    return f"<h2>Evaluation</h2>{table(['run', 'task', 'figure', 'value', '95% interval', 'n'], cells, {3, 5})}"


def spread(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the values, evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def _samples(run: Run) -> str:
    if not run.samples:
        return ""
    steps = sorted({line["step"] for line in run.samples})
    shown = spread(steps, SHOWN_STEPS)
    parts = [f"<h2>Samples of {html.escape(run.name)} over time</h2>", _of_steps(shown, steps)]
    for prompt in dict.fromkeys(str(line.get("prompt", "")) for line in run.samples):
        rows = [
            f"<dt>step {line['step']:,}</dt><dd><b>{html.escape(prompt)}</b>{html.escape(str(line.get('text', '')))}</dd>"
            for line in run.samples
            if str(line.get("prompt", "")) == prompt and line["step"] in shown
        ]
        parts.append(f'<dl class="texts">{"".join(rows)}</dl>')
    return "".join(parts)


def _rollouts(run: Run) -> str:
    if not run.rollouts:
        return ""
    steps = sorted({line["step"] for line in run.rollouts})
    shown = spread(steps, SHOWN_STEPS)
    rows: list[list[str]] = []
    for step in shown:
        for line in [line for line in run.rollouts if line["step"] == step][:SHOWN_REPLIES]:
            score = line.get("score")
            rows.append(
                [
                    f"{step:,}",
                    f'<span class="prose">{html.escape(str(line.get("prompt", "")))}</span>',
                    f'<span class="prose">{html.escape(str(line.get("reply", "")))}</span>' + ("" if line.get("finished", True) else " …"),
                    number(score, 3) if isinstance(score, int | float) else MISSING,
                ]
            )
    note = _of_steps(shown, steps, f", {SHOWN_REPLIES} replies of each at most; … marks one that did not end by itself")
    return f"<h2>Replies of {html.escape(run.name)} over time</h2>{note}{table(['step', 'prompt', 'reply', 'score'], rows, {0, 3})}"


def _of_steps(shown: Sequence[int], steps: Sequence[int], more: str = "") -> str:
    return f'<p class="note">{len(shown)} of {len(steps)} steps at which the run wrote some{more}</p>'


def setting(value: Any) -> str:
    """A setting as a configuration shows it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _settings(runs: Sequence[Run]) -> str:
    parts = ["<h2>Settings</h2>"]
    if len(runs) > 1:
        differ = differences(runs)
        shared, lacking = ({key: row for key, row in differ.items() if (MISSING in row) == lacks} for lacks in (False, True))
        parts.append(_compared("what differs", runs, shared) if shared else '<p class="note">What all of them set is the same.</p>')
        if lacking:
            some = _compared("setting", runs, lacking)
            parts.append(f"<details><summary>settings that only some of the runs have ({len(lacking)})</summary>{some}</details>")
    for run in runs:
        if run.config:
            whole = facts((key, setting(value)) for key, value in run.config.items())
            parts.append(f"<details><summary>all settings of {html.escape(run.name)} ({len(run.config)})</summary>{whole}</details>")
    return "".join(parts) if len(parts) > 1 else ""


def _compared(head: str, runs: Sequence[Run], rows: Mapping[str, Sequence[Any]]) -> str:
    return table([head, *(run.name for run in runs)], [[html.escape(key), *map(_cell, values)] for key, values in rows.items()])


def _cell(value: Any) -> str:
    return f'<span class="prose">{html.escape(setting(value))}</span>'


def _origin(run: Run) -> str:
    """Environment and lineage."""
    pairs = [(f"from ({what})", path) for what, path in parents(run).items()]
    pairs += [(name if name == "recipe" else f"{name} SHA-256", str(value)) for name, value in lineage(run).items()]
    for name, value in environment(run).items():
        if name == "plugins":
            value = ", ".join(f"{plugin} {version}" for plugin, version in value.items()) or "none"
        pairs.append((name, str(value)))
    return f"<h2>Where {html.escape(run.name)} comes from</h2>{facts([*pairs, ('directory', str(run.directory))])}"
