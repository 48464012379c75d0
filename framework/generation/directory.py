"""Which directory a model or an adapter is in. A path that a user gave flows in, that directory flows out; reads no model."""

from __future__ import annotations

import difflib
from pathlib import Path

from framework.errors import CheckpointError


def model_directory(directory: Path) -> Path:
    """The model directory that `directory` is or, for a run, holds. Raises CheckpointError with the nearest name if there is none."""
    if any((directory / name).is_file() for name in ("framework.json", "config.json")):
        return directory
    if directory.is_dir():
        return directory / "model"  # loading says so if it is not there
    raise CheckpointError(f"there is no directory {directory}{_hint(directory, 'give a run or model directory')}")


def adapter_directory(directory: Path) -> Path:
    """The adapter that `directory` is or, for a run, holds. Raises CheckpointError with the nearest name if there is none."""
    for place in (directory, directory / "adapter"):
        if (place / "adapter_config.json").is_file():
            return place
    if directory.is_dir():
        raise CheckpointError(f"{directory} holds no adapter (no adapter_config.json): give a run that trained a LoRA, or its adapter/")
    raise CheckpointError(f"there is no directory {directory}{_hint(directory, 'give a run or an adapter')}")


def _hint(directory: Path, otherwise: str) -> str:
    siblings = [place.name for place in directory.parent.iterdir() if place.is_dir()] if directory.parent.is_dir() else []
    near = difflib.get_close_matches(directory.name, siblings, n=1)
    return f"; did you mean {directory.parent / near[0]}?" if near else f": {otherwise}"
