"""`framework import`: a published model into a model directory, a tensor at a time. The line about it goes to stdout, progress to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def import_model(source: str, directory: Path, *, dtype: Literal["float32", "bfloat16", "float16"] | None = None) -> None:
    """Bring a published model here: a Hugging Face directory or name, or a GGUF file.

    What generates and trains also takes a source as it is; a directory of its own has the weights in the type you want, and the lineage.

    Args:
        source: a directory, a .gguf file, or ORG/NAME[@REVISION] of the Hugging Face hub.
        directory: the new model directory.
        dtype: type of the weights; as stored unless given (quantised ones: float32).
    """
    import torch

    from framework.commands.progress import transfer
    from framework.formats import importing

    with transfer("import") as progress:
        summary = importing.import_model(source, directory, None if dtype is None else getattr(torch, dtype), progress)
    print(summary)
