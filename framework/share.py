"""Where the recipes/ and configs/ that ship with an installation are. Imports only the standard library.

In: a path as a user writes it (`recipes/pretrain.yaml`). Out: the file: in the working directory, else in the share of
the core (the checkout, or `framework/share` inside a wheel), else in that of an installed plugin.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from framework.errors import ConfigError

FOLDERS = ("recipes", "configs")


@cache
def roots() -> tuple[Path, ...]:
    """Directories that hold recipes/ or configs/: the core's first, then each plugin's (entry-point group `framework.share`)."""
    here = Path(__file__).resolve().parent
    core = here / "share" if (here / "share").is_dir() else here.parent
    found = [core]
    for entry in importlib.metadata.entry_points(group="framework.share"):
        spec = importlib.util.find_spec(entry.value)
        found += [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    return tuple(found)


def find(path: str) -> Path:
    """The file that `path` names. Raises ConfigError listing where it was looked for."""
    given = Path(path)
    if given.is_file():
        return given
    shared = [] if given.is_absolute() or given.parts[:1] not in [(folder,) for folder in FOLDERS] else [root / given for root in roots()]
    for candidate in shared:
        if candidate.is_file():
            return candidate
    looked = ", ".join(str(place) for place in [given.absolute(), *shared])
    raise ConfigError(f"there is no file {path} (looked for {looked}){_suggestion(given)}")


def _suggestion(given: Path) -> str:
    import difflib

    near = difflib.get_close_matches(given.name, [file.name for file in files(str(given.parent))], n=1)
    return f"; did you mean {given.parent / near[0]}?" if near else ""


def files(folder: str) -> Iterator[Path]:
    """Every YAML in `folder` of the working directory and of the shares; the first of a name wins."""
    seen: set[str] = set()
    for root in (Path(), *roots()):
        for file in sorted((root / folder).glob("*.yaml")):
            if file.name not in seen:
                seen.add(file.name)
                yield file
