"""A part of a composed configuration with its class's own defaults filled in, read from the source. Imports no torch.

A mapping with `class_path` and `init_args` flows in, values flow out. What nothing reads, or what is no number where one is due, raises
ConfigError naming the key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from framework.errors import ConfigError
from framework.planner.signature import Computed, Required, signature


class Part:
    """One part.

    Args:
        value: `class_path` and `init_args`.
        key: where it stands in the configuration.

    Attributes:
        path: its import path.
        name: its class.
        arguments: those that were given.
    """

    def __init__(self, value: Any, key: str) -> None:
        if not isinstance(value, Mapping) or not isinstance(value.get("class_path"), str):
            raise ConfigError(f"the configuration has no {key}, or one that names no class: give --config FILE or --{key} NAME.")
        self.key, self.path = key, str(value["class_path"])
        self.name = self.path.rpartition(".")[2]
        self.arguments = dict(value.get("init_args") or {})
        self._defaults = signature(self.path)
        if self._defaults is not None:
            for name in self.arguments:
                known(name, self._defaults, key)

    def __getitem__(self, name: str) -> Any:
        """The value of an argument: the one given, else the default; None for a default that only the class can tell."""
        if name in self.arguments:
            return self.arguments[name]
        default = (self._defaults or {}).get(name, Required)
        if default is Required:
            raise ConfigError(f"{self.key}.{name} is not set: give it with --{self.key}.{name} VALUE.")
        return None if default is Computed else default

    def get(self, name: str) -> Any:
        """The same; None for one that the class does not have."""
        return self[name] if name in self.arguments or (self._defaults or {}).get(name, Required) is not Required else None

    def number(self, name: str, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{self.key}.{name} is {value!r}; it takes a whole number of at least {least}.")
        return value

    def part(self, name: str) -> Part | None:
        """The part in an argument; None where there is none."""
        value = self.get(name)
        return None if value is None else Part(value, f"{self.key}.{name}")

    def takes(self, name: str) -> bool:
        """Whether the class has an argument of that name."""
        return name in (self._defaults or {})


def check(value: Any, key: str) -> None:
    """Raise ConfigError for an argument, of any part inside a value, that its class does not have."""
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        value = Part(value, key).arguments
    if isinstance(value, Mapping):
        for name, inner in value.items():
            check(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for inner in value:
            check(inner, key)


def known(name: str, names: Mapping[str, Any], owner: str) -> None:
    """Raise ConfigError for a key that is none of the names."""
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    raise ConfigError(f"there is no key {name} of {owner}; {f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(sorted(names))}")
