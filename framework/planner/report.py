"""A plan in words and tables, which a terminal and a page draw alike. A plan flows in, sections flow out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from framework.planner.estimate import Placement, Plan, Scaling, total_parameters
from framework.planner.memory import HEADROOM

SMALLEST_FITTED = 70e6  # parameters of the smallest network in Hoffmann et al. 2022


class Section(NamedTuple):
    """A part of the report.

    Attributes:
        title: in a few words.
        rows: a table, its head first; none: there is no table.
        sentences: below it.
    """

    title: str
    rows: Sequence[Sequence[str]]
    sentences: Sequence[str]


def sections(plan: Plan) -> Iterator[Section]:
    """The whole plan, part by part."""
    yield Section("run", [], [headline(plan), *plan.run.notes])
    yield Section("parameters", _parameters(plan), [])
    yield _operations(plan)
    yield _memory(plan)
    yield Section("time", [], _time(plan))
    if plan.scaling is not None:
        yield _scaling(plan, plan.scaling)


def text(sections: Iterable[Section]) -> str:
    """Sections as a terminal shows them."""
    blocks = ["\n".join([section.title, *(f"  {line}" for line in [*aligned(section.rows), *section.sentences])]) for section in sections]
    return "\n\n".join(blocks)


def headline(plan: Plan) -> str:
    """The run in a line."""
    run = plan.run
    each = f"{run.items} {run.served}" + ("" if run.accumulate == 1 else f" x {run.accumulate} micro-batches")
    each += "" if run.devices == 1 else f" x {run.devices} devices"
    return f"{run.recipe}: {run.steps:,} steps of {run.tokens_per_step:,} tokens ({each}, {run.batch.length:,} long), {run.tokens:,} in all"


def _parameters(plan: Plan) -> list[tuple[str, ...]]:
    total, trained = total_parameters(plan.parts)
    several = len({part.network for part in plan.parts}) > 1
    rows: list[tuple[str, ...]] = [("", "parameters", "share", "trained")]
    for part in plan.parts:
        name = f"{part.network}: {part.part}" if several else part.part
        rows.append((name, f"{part.parameters:,}", f"{part.parameters / total:.1%}", f"{part.trained:,}"))
    return [*rows, ("all", f"{total:,}", "", f"{trained:,}")]


def _operations(plan: Plan) -> Section:
    found = plan.operations
    rows: list[tuple[str, ...]] = [("", "tokens", "FLOPs")]
    rows += [(work.name, f"{work.tokens:,}", f"{work.flops:.4g}") for work in found.work]
    if found.recomputed:
        rows.append(("checkpointing, again", "", f"{found.recomputed:.4g}"))
    sentences = [
        f"a training token takes {found.per_token:,} (6 N + 12 L H Q T)",
        f"the run takes {found.total:.4g} FLOPs, {number(found.petaflop_days)} petaflop/s-days",
    ]
    return Section("operations", rows, sentences)


def _memory(plan: Plan) -> Section:
    placement, *others = plan.placements
    rows: list[tuple[str, ...]] = [("", *(moment.name for moment in placement.moments))]
    for name in placement.moments[0].components:
        rows.append((name, *(size(moment.components[name]) for moment in placement.moments)))
    rows.append(("all", *(size(moment.total) for moment in placement.moments)))
    title = f"memory of a device ({plan.run.precision.name}, {placement.name})"
    return Section(title, rows, [_fitting(plan, placement), *(f"{other.name}: {_fitting(plan, other)}" for other in others)])


def _fitting(plan: Plan, placement: Placement) -> str:
    """Whether it fits, and what would."""
    if plan.device is None or placement.largest_rows is None:
        return f"at most {size(placement.peak_bytes)} of tensors; --hardware NAME says whether they fit"
    largest = placement.largest_rows // (plan.run.batch.rows // plan.run.items)
    which = f"the largest micro-batch is {largest:,} {plan.run.served}" if largest else "not even the smallest micro-batch does"
    return (
        f"{size(placement.peak_bytes)} of tensors {'fit' if placement.fits else 'do not fit'} on {plan.device.name} with "
        f"{size(plan.device.memory_bytes)}, of which {1 - HEADROOM:.0%} stay free; {which}"
    )


def _time(plan: Plan) -> list[str]:
    found = plan.duration
    if found is None:
        if plan.device is None:
            return ["--hardware NAME [--gpus N] [--price P] estimates it, --probe 20 measures it on this machine"]
        return [f"nothing is known of how fast {plan.device.name} is at {plan.run.precision.name}: --probe 20 measures it there"]
    assert plan.device is not None
    cost = "" if found.cost is None else f", {found.cost:,.2f} in money" if found.cost >= 0.01 else ", under 0.01 in money"
    sentences = [f"{hours(found.hours)} on {plan.run.devices} x {plan.device.name}{cost}", found.assumption]
    if found.generation_hours:
        sentences.append(
            f"{hours(found.generation_hours)} of it for writing replies: each of their tokens reads all weights once for all that run"
        )
    return sentences


def _scaling(plan: Plan, found: Scaling) -> Section:
    """The optima, and where the run stands."""
    rows: list[tuple[str, ...]] = [("", "parameters", "tokens", "tokens a parameter")]
    rows += [(each.approach, count(each.parameters), count(each.tokens), f"{each.tokens_a_parameter:.1f}") for each in found.optima]
    rows.append(("this run", count(plan.run.network.num_parameters), count(plan.run.tokens), f"{found.tokens_a_parameter:.1f}"))
    nats = " or ".join(f"{excess:.3f} ({name})" for name, excess in found.excess.items())
    sentences = [
        verdict(found.tokens_a_parameter),
        f"by the fitted losses it gives away {nats} nats a token against the best division of its own 6 N D: on other data the sign holds, not the size",
        "approach 3 as printed disagrees with the other two; the refit of Besiroglu et al. 2024 (arXiv 2404.10102) does not",
    ]
    if min(plan.run.network.num_parameters, found.optima[0].parameters) < SMALLEST_FITTED:
        sentences.append(f"all were fitted on networks of at least {count(SMALLEST_FITTED)} parameters: here they are carried on far below")
    whose = "this run's own" if found.is_own else "the given"
    return Section(f"compute-optimal sizes for {whose} {found.flops:.4g} FLOPs (Hoffmann et al. 2022)", rows, sentences)


def verdict(ratio: float) -> str:
    """A run's tokens a parameter in words."""
    if ratio < 10:
        return f"{ratio:.2g} tokens a parameter are few: a smaller network on more tokens would reach a lower loss with as many FLOPs"
    if ratio > 40:
        return (
            f"{ratio:,.0f} tokens a parameter are many: a larger network would reach a lower loss with as many FLOPs, and cost more to use"
        )
    return f"{ratio:.0f} tokens a parameter are near the rule of 20"


# numbers


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns set flush, the first left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]


def size(num_bytes: float) -> str:
    """Bytes in decimal units."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:,.1f} {unit}"
    return f"{num_bytes:.0f} B" if num_bytes else "-"


def count(amount: float) -> str:
    """A large number with three digits."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if amount >= scale:
            return f"{amount / scale:.3g}{unit}"
    return f"{amount:.3g}"


def number(value: float) -> str:
    """As many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def hours(value: float) -> str:
    """A time in the unit that suits it."""
    if value >= 48:
        return f"{value / 24:,.1f} days"
    if value >= 1:
        return f"{value:.1f} hours"
    return f"{value * 60:.1f} minutes" if value * 60 >= 1 else f"{value * 3600:.1f} seconds"
