"""Which directory a model is in. A path that a user gave flows in, a model directory flows out; reads no model."""

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
    siblings = [place.name for place in directory.parent.iterdir() if place.is_dir()] if directory.parent.is_dir() else []
    near = difflib.get_close_matches(directory.name, siblings, n=1)
    hint = f"; did you mean {directory.parent / near[0]}?" if near else ": give a run or model directory"
    raise CheckpointError(f"there is no directory {directory}{hint}")
