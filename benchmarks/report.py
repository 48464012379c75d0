"""Tables as text: for a terminal or, with pipes, for a README. Tables flow in, lines flow out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from harness import Table, Target


def lines(table: Table) -> Iterator[str]:
    """The table, the machine's limits, the targets and the notes, as Markdown that also reads well in a terminal."""
    yield f"### {table.title}"
    yield ""
    if table.rates:
        yield from aligned([header(table), *(row(table, name) for name in table.rates)])
        yield ""
    if table.gemm:
        shapes = ", ".join(f"{shape} {median(rates) / 1e9:,.0f}" for shape, rates in table.gemm.items())
        yield f"- GEMM, GFLOP/s by shape: {shapes}; the peak is the best shape's median, {table.peak_flops / 1e9:,.0f}."
    yield from (f"- {verdict(table, target)}" for target in table.targets if target.ours in table.rates)
    yield from (f"- {note}" for note in table.notes)


def header(table: Table) -> list[str]:
    """Column names; what a table has no figures for is left out."""
    names = ["", f"{table.unit} (min-max)", f"x {next(iter(table.rates), '')} (min-max)"]
    return [
        *names,
        *(["of GEMM peak"] if table.peak_flops else []),
        *(["parameters"] if any(table.parameters.values()) else []),
        *table.columns,
        "peak MiB",
    ]


def row(table: Table, name: str) -> list[str]:
    """One contender: its rate, its rate over the first row's by round, its part of the machine's peak, its size, its memory."""
    rates = table.rates[name]
    cells = [name, spread(rates, ",.0f" if median(rates) >= 100 else ",.1f"), spread(table.ratios(name, next(iter(table.rates))), ".3f")]
    if table.peak_flops:
        cells.append(f"{median(table.rates[name]) * table.flops / table.peak_flops:.0%}")
    if any(table.parameters.values()):
        cells.append(f"{table.parameters[name]:,}" if table.parameters[name] else "")
    return [*cells, *(texts.get(name, "") for texts in table.columns.values()), f"{table.peak_mib[name]:,.0f}"]


def spread(values: list[float], form: str) -> str:
    """Median (min-max)."""
    return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def verdict(table: Table, target: Target) -> str:
    """Whether a target is met, and by how much."""
    if target.memory:
        peers = [peer for peer in target.peers if peer in table.peak_mib]
        if not peers:
            return f"{target.ours}: no peer to compare memory with"
        least = min(peers, key=lambda peer: table.peak_mib[peer])
        share = table.peak_mib[target.ours] / table.peak_mib[least]
        return f"{word(share <= target.factor)}: {target.ours} takes {share:.2f} x the memory of {least}; target at most {target.factor}"
    fastest = table.fastest(target.peers)
    if fastest is None:
        return f"{target.ours}: no peer to compare with ({', '.join(target.peers)})"
    ratios = table.ratios(target.ours, fastest)
    met = median(ratios) >= target.factor
    return f"{word(met)}: {target.ours} is {spread(ratios, '.3f')} x {fastest}; target at least {target.factor}"


def replace_section(file: Path, heading: str, text: str) -> None:
    """Put the tables under the heading of a Markdown file, in place of all that is there up to the next heading of its level."""
    before, found, after = file.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    if not found:
        raise SystemExit(f"{file} has no section {heading!r}")
    _, next_heading, rest = after.partition("\n## ")
    file.write_text(f"{before}\n{heading}\n\n{text.rstrip()}\n{next_heading}{rest}", encoding="utf-8")


def word(met: bool) -> str:
    """In a word."""
    return "met" if met else "MISSED"


def aligned(rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table, columns as wide as their widest cell."""
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(rows[0]))]
    for number, cells in enumerate(rows):
        padded = [
            cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        yield "| " + " | ".join(padded) + " |"
        if number == 0:
            yield "|" + "|".join("-" * (width + 2) if column == 0 else "-" * (width + 1) + ":" for column, width in enumerate(widths)) + "|"
