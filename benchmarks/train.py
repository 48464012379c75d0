"""How fast training is, beside peers and the machine's own limits: medians and paired ratios of one interleaved run.

    python benchmarks/train.py [--nanogpt CHECKOUT] [--litgpt-python PYTHON] [--trainer-python PYTHON] [--only 10m,loader] [--quick]

Every contender lives in a process of its own, a persistent one: it sets up and warms up once, then sleeps until it is told to run
its round of a few steps: A B C, C B A, A B C, ... Ratios are taken between neighbouring rounds, because a machine's speed drifts.
The same for all: threads, fp32, torch's default allocator, data shape, AdamW (fused unless a row says otherwise), no dropout, no
clipping. sections.py says what is compared, harness.py how, report.py how it is printed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from harness import say
from report import lines, replace_section
from sections import SECTIONS, Options


def main() -> int:
    """Run the sections that were asked for; print and keep what they measured."""
    arguments = parser().parse_args()
    only = arguments.only.split(",") if arguments.only else [name for name in SECTIONS if name != "gpu" or shutil.which("nvidia-smi")]
    if unknown := [name for name in only if name not in SECTIONS]:
        parser().error(f"there is no section {unknown[0]}; the sections are {', '.join(SECTIONS)}")
    begun, tables = time.time(), []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        options = Options(
            arguments.nanogpt,
            arguments.litgpt_python,
            arguments.trainer_python,
            arguments.rounds,
            arguments.threads,
            arguments.quick,
            directory,
        )
        for name in only:
            table = SECTIONS[name](options)
            tables.append(table)
            say("\n".join(["", *lines(table), ""]))
    heading = [conditions(arguments, time.time() - begun), ""]
    text = "\n".join([*heading, *(line for table in tables for line in [*lines(table), ""])])
    print(text)
    if arguments.markdown:
        replace_section(arguments.markdown, "## Results", text)
    if arguments.json:
        arguments.json.write_text(json.dumps([table.to_json() for table in tables], indent=1), encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--nanogpt", help="a checkout of nanoGPT; without it its rows are left out")
    made.add_argument("--litgpt-python", help="a Python that has litgpt; without it its rows are left out")
    made.add_argument(
        "--trainer-python", default=sys.executable, help="a Python that has transformers and accelerate, for its Trainer; default: this one"
    )
    made.add_argument("--only", help=f"sections, separated by commas: {', '.join(SECTIONS)}; default: all that this machine can run")
    made.add_argument("--rounds", type=int, help="rounds of every section; default: each its own")
    made.add_argument("--threads", type=int, default=2, help="threads of every contender")
    made.add_argument("--quick", action="store_true", help="fewer rounds and rows, about 6 minutes instead of 20: to see that all works")
    made.add_argument("--json", type=Path, help="where to write every round's figures")
    made.add_argument("--markdown", type=Path, help="a Markdown file whose Results section to replace, such as benchmarks/README.md")
    return made


def conditions(arguments: argparse.Namespace, seconds: float) -> str:
    """What was run, on what, and what was left out."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "lightning", "transformers", "tiktoken"))
    missing = [name for name, given in (("nanoGPT", arguments.nanogpt), ("litgpt", arguments.litgpt_python)) if given is None]
    parts = [f"{arguments.threads} threads", f"Python {platform.python_version()}", versions, f"{seconds / 60:.0f} minutes"]
    parts += ["--quick: fewer rounds and rows than figures need"] if arguments.quick else []
    parts += [f"not given, left out: {', '.join(missing)}"] if missing else []
    return f"Conditions: {'; '.join(parts)}."


if __name__ == "__main__":
    sys.exit(main())
