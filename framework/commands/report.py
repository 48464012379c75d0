"""`framework report`: what runs left behind, as one page, as text and as JSON. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from framework.commands.terminal import note, tolerate_encodings, write
from framework.errors import ConfigError


def report(*runs: str, output: Path | None = None, json: bool = False) -> int:
    """Show runs: curves, texts over time, settings and where they differ, cost, lineage; several are laid over each other.

    Without an output there is a table on stdout, with the curves in small.

    Args:
        runs: directories of runs (`runs/pretrain`).
        output: gets the page (a name that ends in .html), or everything as JSON (.json).
        json: print everything as JSON instead of the table, every point of every curve.
    """
    from json import dumps

    from framework.files import write_durably
    from framework.inspection.report import page as pages
    from framework.inspection.report import terminal
    from framework.inspection.report.facts import as_json
    from framework.inspection.report.logs import read_runs

    if not runs:
        raise ConfigError("name at least one run: framework report runs/pretrain --output report.html")
    if output is not None and output.suffix not in (".html", ".json"):
        raise ConfigError(f"--output {output}: name a file that ends in .html (the page) or .json (all numbers)")
    tolerate_encodings()
    found = read_runs([Path(run) for run in runs])
    for problem in (problem for run in found for problem in run.problems):
        note(f"warning: {problem}")
    if output is not None:
        text = pages.page(found) if output.suffix == ".html" else dumps(as_json(found), ensure_ascii=False, allow_nan=False, default=str)
        write_durably(output, lambda file: file.write(text.encode("utf-8", errors="replace")))
        note(f"wrote {output}")
    if json:
        write(f"{dumps(as_json(found), ensure_ascii=False, allow_nan=False, indent=1, default=str)}\n")
    elif output is None:
        write("".join(f"{line}\n" for line in terminal.lines(found)))
    return 0
