"""Models that come with the package: model directories beside this file, each made by the recipe of its name.

A name flows in, a directory flows out. Imports only the standard library.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def shipped(name: str) -> Path | None:
    """The model directory called `name`; None if there is none."""
    found = HERE / name
    return found if name.isidentifier() and (found / "framework.json").is_file() else None
