"""How fast fine-tuning is, beside TRL and peft: medians and paired ratios of one interleaved run.

    python benchmarks/finetune.py --trl-python PYTHON --trl019-python PYTHON [--only sft-10m,ppo-10m] [--quick]

Contenders are processes that take turns, as in train.py. All begin with the same weights, tokenizer and data, in fp32 with AdamW and
the same number of threads, and clip nothing. finetune_sections.py says what is compared, harness.py how, report.py how it is printed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

from finetune_sections import SECTIONS, Options
from generate import peer_versions
from harness import say
from report import lines, replace_section


def main() -> int:
    """Run the sections that were asked for; print and keep what they measured."""
    arguments = parser().parse_args()
    only = arguments.only.split(",") if arguments.only else list(SECTIONS)
    if unknown := [name for name in only if name not in SECTIONS]:
        parser().error(f"there is no section {unknown[0]}; the sections are {', '.join(SECTIONS)}")
    begun, tables = time.time(), []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        options = Options(arguments.trl_python, arguments.trl019_python, arguments.rounds, arguments.threads, arguments.quick, directory)
        for name in only:
            tables.append(SECTIONS[name](options))
            say("\n".join(["", *lines(tables[-1]), ""]))
    heading = [conditions(arguments, time.time() - begun), ""]
    text = "\n".join([*heading, *(line for table in tables for line in [*lines(table), ""])])
    print(text)
    if arguments.markdown:
        replace_section(arguments.markdown, "## Results of fine-tuning", text)
    if arguments.json:
        arguments.json.write_text(json.dumps([table.to_json() for table in tables], indent=1), encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--trl-python", help="a Python that has trl 1.16, peft and datasets; without it their rows are left out")
    made.add_argument("--trl019-python", help="a Python that has trl 0.19.1, the last one with PPO; without it its rows are left out")
    made.add_argument("--only", help=f"sections, separated by commas: {', '.join(SECTIONS)}; default: all")
    made.add_argument("--rounds", type=int, help="rounds of every section; default: each its own")
    made.add_argument("--threads", type=int, default=2, help="threads of every contender")
    made.add_argument("--quick", action="store_true", help="fewer rounds, steps and rows than figures need: to see that all works")
    made.add_argument("--json", type=Path, help="where to write every round's figures")
    made.add_argument("--markdown", type=Path, help="a Markdown file whose section `Results of fine-tuning` to replace")
    return made


def conditions(arguments: argparse.Namespace, seconds: float) -> str:
    """What was run, on what, and what was left out."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "lightning", "transformers")]
    versions += peer_versions(arguments.trl_python, "trl", "peft", "accelerate")
    versions += peer_versions(arguments.trl019_python, "trl", "transformers")
    absent = [option for option in ("trl_python", "trl019_python") if getattr(arguments, option) is None]
    parts = [f"{arguments.threads} threads", f"Python {platform.python_version()}", ", ".join(versions), f"{seconds / 60:.0f} minutes"]
    parts += ["--quick: fewer rounds, steps and rows than figures need"] if arguments.quick else []
    parts += [f"not given, their rows left out: {', '.join(absent)}"] if absent else []
    return f"Conditions: {'; '.join(parts)}."


if __name__ == "__main__":
    sys.exit(main())
