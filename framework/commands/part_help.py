"""What `--KEY.help [NAME]` shows: the settings of one part, or the names of a family. Imports the part that it is about, nothing else.

A key and a name flow in, text flows out.
"""

from __future__ import annotations

import inspect
from typing import Any

from framework.commands.check import load
from framework.commands.slots import expand, family_of
from framework.errors import ConfigError
from framework.registry import registry

GIVEN_BY_US = {"params"}  # an optimizer's first argument is no setting


def part_help(key: str, name: str | None, kind: Any = None) -> str:
    """The settings of a part as options under `key`.

    Args:
        key: where the part goes, `model.network`.
        name: which part: a registered name or an import path; None: `kind`, or the family's names.
        kind: the class that is there already.

    Raises:
        ConfigError, PluginError: a key that holds no part, or an unknown name.
    """
    family = family_of(key)
    if name is not None:
        if family is None:
            raise ConfigError(f"{key} holds no part of a family: --{key}.help takes no name.")
        kind = load(expand(family, name, key, "the command line"), "the command line")
    if kind is not None:
        return _settings(key, kind)
    if family is None or not family.startswith("framework."):
        raise ConfigError(f"--{key}.help needs the name of a class: --{key}.help NAME.")
    return f"--{key} NAME, one of: {', '.join(registry(family))}\n--{key}.help NAME shows its settings."


def _settings(key: str, kind: Any) -> str:
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog=f"--{key} {kind.__name__}", usage="%(prog)s [settings]", add_help=False)
    add = parser.add_class_arguments if inspect.isclass(kind) else parser.add_function_arguments
    skipped: set[str | int] = {name for name in GIVEN_BY_US if name in inspect.signature(kind).parameters}
    add(kind, key, fail_untyped=False, skip=skipped, sub_configs=True)
    return parser.format_help().rstrip()
