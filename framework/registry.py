"""Families of named parts, discovered through entry points: entry-point group = import path = config path.

In: the installed distributions' entry points. Out: classes (or factories), imported only when their name is used.
Built-ins and plugins enter by the same door. Imports only the standard library; must not know any part.

    PluginError
      UnknownPlugin      no installed distribution offers the name
      AmbiguousPlugin    two distributions offer the name
      BrokenPlugin       the named part cannot be imported
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any

from framework.errors import UserError

CORE = "framework"  # the distribution whose names cannot be shadowed
ALLOW_LIST = "FRAMEWORK_PLUGINS"  # comma-separated distributions that may load; empty: none but the core; unset: all


class PluginError(UserError):
    """A named part that cannot be had."""


class UnknownPlugin(PluginError, AttributeError):
    """No installed distribution offers the name."""


class AmbiguousPlugin(PluginError):
    """Two installed distributions offer the name."""


class BrokenPlugin(PluginError):
    """The distribution that offers the name cannot deliver it."""


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


@cache
def _installed() -> tuple[tuple[str, str, EntryPoint], ...]:
    """(distribution, version, entry point) of every entry in a `framework.*` group; one distribution counts once."""
    found: list[tuple[str, str, EntryPoint]] = []
    seen: set[str] = set()
    for distribution in distributions():
        name = _distribution_name(distribution)
        if name is None or name in seen:  # an editable install next to a stale egg-info: the first on sys.path wins
            continue
        seen.add(name)
        for entry in distribution.entry_points:
            if entry.group.startswith("framework."):
                found.append((name, distribution.version, entry))
    return tuple(found)


def _distribution_name(distribution: Distribution) -> str | None:
    name = distribution.metadata["Name"]
    return _normalised(name) if name else None  # half-deleted installations have no name


def _allowed(distribution: str) -> bool:
    allow_list = os.environ.get(ALLOW_LIST)
    if distribution == CORE or allow_list is None:
        return True
    return distribution in {_normalised(name.strip()) for name in allow_list.split(",")}


class Part:
    """One entry of a family: its name, the distribution and version it comes from, and how to load it."""

    def __init__(self, family: str, name: str, distribution: str, version: str, target: str, load: Callable[[], Any]) -> None:
        self.family, self.name, self.distribution, self.version, self.target = family, name, distribution, version, target
        self._load = load

    def load(self) -> Any:
        """Import the part. Raises BrokenPlugin naming distribution, version, target and cause."""
        try:
            return self._load()
        except Exception as cause:
            raise BrokenPlugin(
                f"{self.family}.{self.name} comes from {self.distribution} {self.version} ({self.target}) and cannot be "
                f"imported: {type(cause).__name__}: {cause}. Repair or uninstall {self.distribution}."
            ) from cause


class Registry(Mapping[str, Any]):
    """The parts of one family by name; a mapping that imports a part when it is asked for.

    Args:
        family: entry-point group and import path, e.g. `framework.optimizers`.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self._added: dict[str, Any] = {}

    def add(self, part: Any, name: str | None = None) -> Any:
        """Add a part to this process's registry: for notebooks, and as a decorator. Raises PluginError for a taken name."""
        name = name or part.__name__
        if name in self:
            raise AmbiguousPlugin(f"{self.family}.{name} exists already (from {self.part(name).distribution}); use another name.")
        self._added[name] = part
        return part

    def parts(self) -> Iterator[Part]:
        """Every entry, importing none, sorted by name; one name may occur twice (the conflict shows when it is used)."""
        found = [
            Part(self.family, entry.name, distribution, version, entry.value, entry.load)
            for distribution, version, entry in _installed()
            if entry.group == self.family and _allowed(distribution)
        ]
        found += [
            Part(self.family, name, "(this process)", "", f"{part.__module__}:{part.__qualname__}", _giver(part))
            for name, part in self._added.items()
        ]
        yield from sorted(found, key=lambda part: (part.name.lower(), part.distribution))

    def part(self, name: str) -> Part:
        """The entry called `name`. Raises UnknownPlugin or AmbiguousPlugin."""
        found = [part for part in self.parts() if part.name == name]
        core = [part for part in found if part.distribution == CORE]
        if core:
            return core[0]  # a built-in name cannot be shadowed
        if len(found) > 1:
            origins = " and ".join(f"{part.distribution} {part.version} ({part.target})" for part in found)
            raise AmbiguousPlugin(f"{self.family}.{name} is offered by {origins}; uninstall one of them or use its full import path.")
        if not found:
            raise UnknownPlugin(self._unknown(name))
        return found[0]

    def _unknown(self, name: str) -> str:
        names = sorted(self)
        folded = {known.lower(): known for known in names}
        near = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.5)
        hint = f" Did you mean {folded[near[0]]}?" if near else ""
        kind = self.family.rpartition(".")[2]
        return f"there is no {name} in {self.family}.{hint} Installed {kind}: {', '.join(names) or 'none'}. If you just added it to a package, reinstall that package."

    def __getitem__(self, name: str) -> Any:
        return self.part(name).load()

    def __contains__(self, name: object) -> bool:
        return any(part.name == name for part in self.parts())

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(part.name for part in self.parts()))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"Registry({self.family!r}: {', '.join(self)})"


def _giver(part: Any) -> Callable[[], Any]:
    return lambda: part


@cache
def registry(family: str) -> Registry:
    """The registry of a family such as `framework.optimizers` (one object a process)."""
    return Registry(family)


def family(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__, __dir__ = family(__name__)`: serve a family's parts as lazy module attributes (PEP 562)."""
    parts = registry(module)

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        try:
            return parts[name]
        except UnknownPlugin:
            try:
                return importlib.import_module(f"{module}.{name}")  # a submodule that was not imported yet
            except ModuleNotFoundError as missing:
                if missing.name != f"{module}.{name}":
                    raise
            raise

    def __dir__() -> list[str]:
        return sorted(parts)

    return __getattr__, __dir__


def families() -> list[str]:
    """Every entry-point group in use, sorted: `framework.commands`, `framework.datasets`, ..."""
    return sorted({entry.group for distribution, _, entry in _installed() if _allowed(distribution)})
