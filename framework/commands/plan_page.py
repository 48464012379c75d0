"""A plan as a page of HTML. The report's sections flow in; what is drawn beside their tables is the memory, as bars."""

from __future__ import annotations

import html
from collections.abc import Iterable

from framework.inspection import document
from framework.planner.estimate import Plan
from framework.planner.report import Section, size

COLOURS = ("#3f78b5", "#5aa37a", "#c78f3c", "#a35a9b", "#bf5f52", "#4f9fa8", "#8a8a3a", "#7a6fc0", "#777777")
CSS = """
.bar { display: flex; height: 1.4rem; background: var(--box); border-radius: 3px; overflow: hidden; margin: 0.15rem 0 0.6rem; max-width: 46rem; }
.key { white-space: nowrap; margin-right: 0.9rem; } .key i { display: inline-block; width: 0.8rem; height: 0.8rem; border-radius: 2px; margin-right: 0.35rem; }
.moment { font-size: 0.875rem; }
"""


def page(plan: Plan, sections: Iterable[Section]) -> str:
    """The page."""
    body = "".join(_section(section) + (_bars(plan) if section.title.startswith("memory") else "") for section in sections)
    return document.document(f"Plan of a {plan.run.recipe} run", body, CSS)


def _section(section: Section) -> str:
    cells = [[html.escape(cell) for cell in row] for row in section.rows]
    table = document.table(cells[0], cells[1:], range(1, len(cells[0]))) if cells else ""
    return f"<h2>{html.escape(section.title)}</h2>{table}{''.join(f'<p>{html.escape(sentence)}</p>' for sentence in section.sentences)}"


def _bars(plan: Plan) -> str:
    """One bar a moment, as long as its share of the device, or of the largest moment where there is no device."""
    placement = plan.placements[0]
    whole = max(
        placement.peak_bytes, plan.device.memory_bytes if plan.device and placement.peak_bytes > plan.device.memory_bytes / 20 else 0
    )
    colours = dict(zip(placement.moments[0].components, COLOURS))
    keys = " ".join(f'<span class="key"><i style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in colours.items())
    bars = ""
    for moment in placement.moments:
        parts = "".join(
            f'<span style="width:{100 * amount / whole:.3f}%;background:{colours[name]}" title="{html.escape(name)}: {size(amount)}"></span>'
            for name, amount in moment.components.items()
        )
        bars += f'<div class="moment">{html.escape(moment.name)}: {size(moment.total)}</div><div class="bar">{parts}</div>'
    return f'{bars}<p class="note">{keys} — a whole bar is {size(whole)}</p>'
