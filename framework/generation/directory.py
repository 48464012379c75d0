"""Which directory an adapter is in. A path that a user gave flows in, that directory flows out; reads no model."""

from __future__ import annotations

import difflib
from pathlib import Path

from framework.errors import CheckpointError


def adapter_directory(directory: Path) -> Path:
    """The adapter that `directory` is or, for a run, holds. Raises CheckpointError with the nearest name if there is none."""
    for place in (directory, directory / "adapter"):
        if (place / "adapter_config.json").is_file():
            return place
    if directory.is_dir():
        raise CheckpointError(f"{directory} holds no adapter (no adapter_config.json): give a run that trained a LoRA, or its adapter/")
    raise CheckpointError(f"there is no directory {directory}{_hint(directory)}")


def _hint(directory: Path) -> str:
    siblings = [place.name for place in directory.parent.iterdir() if place.is_dir()] if directory.parent.is_dir() else []
    near = difflib.get_close_matches(directory.name, siblings, n=1)
    return f"; did you mean {directory.parent / near[0]}?" if near else ": give a run or an adapter"
