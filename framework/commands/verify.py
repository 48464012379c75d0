"""`framework verify`: the parity gate. A table on stdout or JSON; progress goes to stderr; the exit code tells whether all agrees."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Literal


def verify(
    directory: Path,
    *,
    against: str | None = None,
    dtype: Literal["float64", "float32", "bfloat16"] = "float32",
    transformers: bool = True,
    json: bool = False,
) -> int:
    """Prove that a model gives the same answers wherever it runs.

    Hashes, the engine (cached, one prompt at a time and all together) against the training forward, transformers on the same directory
    where it is installed, and another copy: configuration, weights, tokenizer, special tokens, chat template, log-probabilities and
    greedy tokens. A difference is followed to the first layer and position where it appears. The exit code is 0 when all agrees, else 1.

    Args:
        directory: a run, a model directory, a GGUF file or ORG/NAME.
        against: another copy: what it was made from, or an exported directory or GGUF file.
        dtype: what both sides compute in; log-probabilities may differ by 1e-4 in float32.
        transformers: false: leave the comparison with transformers out.
        json: true: everything as JSON instead of the table.
    """
    from framework.commands.terminal import note, write
    from framework.parity.gate import verify

    report = verify(str(directory), against, dtype, transformers, note)
    write(dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n" if json else report.table())
    return 0 if report.passed else 1
