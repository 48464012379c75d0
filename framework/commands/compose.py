"""Config files and command-line arguments made into one configuration, before jsonargparse sees it. Imports no torch.

The words after `fit` flow in; one nested mapping (every part in full form, with where each key came from) and the
remaining scalar arguments flow out. The rules:

- Naming a part, by class or by file, replaces the old part whole; a dotted key edits it. Nothing leaks from the old one.
- A part may be a YAML file; paths inside a YAML (parts, and keys called path or paths) are relative to that YAML.
- What comes later wins, whether file or argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from framework import share
from framework.commands.slots import PART_KEYS, family_of, is_file, is_list, normalise
from framework.errors import ConfigError

Keys = tuple[str, ...]
SECTIONS = ("adapt", "model", "data", "trainer", "checkpoints")  # top-level keys whose value may be a YAML file
PATH_KEYS = ("path", "paths", "shards")
RUN_KEYS = ("init_from", "reward_model")  # name runs, which live in the working directory, whatever file says so
FLAGS = ("--help", "-h", "--print_config", "--debug")  # arguments that take no value


@dataclass
class Composition:
    """One configuration and the arguments still to be applied to it.

    Attributes:
        config: nested mapping, parts in full form (`class_path`, `init_args`).
        origins: key path -> `file:line` or `the command line`.
        overrides: (key, value) of scalar arguments in order, values as typed; a key may end in `+`.
        flags: arguments without a value, passed through: `--help` and the like, `--KEY.help=NAME`.
    """

    config: dict[str, Any] = field(default_factory=dict)
    origins: dict[Keys, str] = field(default_factory=dict)
    overrides: list[tuple[str, str]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    def origin(self, keys: Keys) -> str:
        """Where a key, or the nearest key above it, came from."""
        while keys:
            if keys in self.origins:
                return self.origins[keys]
            keys = keys[:-1]
        return "the command line"

    def get(self, dotted: str) -> Any:
        """The value at a dotted key, `init_args` left out as on the command line; None where there is none."""
        value: Any = self.config
        for key in self.full_path(dotted):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def full_path(self, dotted: str) -> Keys:
        """`model.network` -> `(model, init_args, network)`: the path into `config`."""
        keys: list[str] = []
        value: Any = self.config
        for key in dotted.split("."):
            in_part = (isinstance(value, dict) and ("class_path" in value or "init_args" in value)) or keys in (["model"], ["data"])
            if in_part and key not in PART_KEYS:
                keys.append("init_args")
                value = value.get("init_args") if isinstance(value, dict) else None
            keys.append(key)
            value = value.get(key) if isinstance(value, dict) else None
        return tuple(keys)

    def set(self, dotted: str, value: Any, origin: str) -> None:
        """Put a whole value at a dotted key, and forget earlier arguments to anything inside it."""
        keys = self.full_path(dotted)
        node = self.config
        for key in keys[:-1]:
            if not isinstance(node.get(key), dict):
                node[key] = {}
            node = node[key]
        node[keys[-1]] = value
        self.origins = {known: where for known, where in self.origins.items() if known[: len(keys)] != keys}
        self.origins[keys] = origin
        self.forget(dotted)

    def forget(self, dotted: str) -> None:
        """Drop earlier arguments at or inside a key: what comes later wins."""
        plain = dotted.replace("init_args.", "")
        self.overrides = [
            (key, value) for key, value in self.overrides if not f"{key.rstrip('+').replace('init_args.', '')}.".startswith(f"{plain}.")
        ]

    def merge(self, new: dict[str, Any], origins: dict[Keys, str]) -> None:
        """Lay a config file over what is there: parts replace, mappings merge, everything else replaces."""
        self._merge(self.config, new, origins, ())

    def _merge(self, old: dict[str, Any], new: dict[str, Any], origins: dict[Keys, str], at: Keys) -> None:
        for key, value in new.items():
            keys = (*at, key)
            if isinstance(value, dict) and "class_path" not in value:
                if not isinstance(old.get(key), dict):
                    old[key] = {}
                self._merge(old[key], value, origins, keys)
            else:
                old[key] = value
                self.origins = {known: where for known, where in self.origins.items() if known[: len(keys)] != keys}
                self.forget(".".join(keys))
        self.origins.update({keys: where for keys, where in origins.items() if keys[: len(at)] == at})


def compose(arguments: list[str]) -> Composition:
    """Compose configuration files and arguments, in the order they are given.

    Raises ConfigError (or a PluginError) naming the key, where it came from and the fix.
    """
    composition = Composition()
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            raise ConfigError(f"unexpected argument {word!r}: options are written --key value.")
        name, equals, value = word.partition("=")
        if name.endswith(".help") and not equals and queue and not queue[0].startswith("-"):
            word = f"{name}={queue.pop(0)}"
        if name in FLAGS or name.endswith(".help"):
            composition.flags.append(word)
            continue
        if not equals:
            if not queue or (queue[0].startswith("--") and len(queue[0]) > 2):
                raise ConfigError(f"{name} needs a value: {name} VALUE.")
            value = queue.pop(0)
        _apply(composition, "--config" if name == "-c" else name, value)
    return composition


def _apply(composition: Composition, name: str, value: str) -> None:
    key = name.removeprefix("--")
    if key == "config":
        composition.merge(*load(share.find(value)))
        return
    if not (family_of(key) or key in SECTIONS):
        composition.overrides.append((key, value))
        return
    origin = "the command line"
    if key.endswith("+"):
        _append(composition, key[:-1], value, origin)
        return
    if is_file(value):
        path = share.find(value)
        part, origins = load_part(key, path)
        composition.set(key, part, str(path))
        at = composition.full_path(key)
        composition.origins.update({(*at, *keys): where for keys, where in origins.items()})
        return
    given = yaml.safe_load(value)
    if isinstance(given, str) and not family_of(key):
        raise ConfigError(f"--{key} takes a YAML file or a mapping, not {value!r}; its settings are written --{key}.NAME VALUE.")
    if is_list(key) and isinstance(given, str):
        given = [given]
    composition.set(key, normalise(key, given, origin), origin)


def _append(composition: Composition, key: str, value: str, origin: str) -> None:
    """Add a part, or several, to a list of parts. Earlier arguments that edited its last element go on doing so."""
    there = composition.get(key)
    found = there if isinstance(there, list) else [there] if isinstance(there, dict) else []
    for edited, new in composition.overrides:
        if found and edited.startswith(f"{key}."):
            node = found[-1]
            *path, last = edited.removeprefix(f"{key}.").replace("init_args.", "").split(".")
            for name in ("init_args", *path):
                node = node.setdefault(name, {})
            node[last] = yaml.safe_load(new)
    given = load_part(key, share.find(value))[0] if is_file(value) else normalise(key, yaml.safe_load(value), origin)
    composition.set(key, [*found, *(given if isinstance(given, list) else [given])], origin)


def load(path: Path) -> tuple[dict[str, Any], dict[Keys, str]]:
    """A config file as a mapping with all parts inlined, and the origin of each key."""
    value, origins = _read(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values: a config file begins with lines such as `model:`.")
    return value, origins


def load_part(key: str, path: Path) -> tuple[Any, dict[Keys, str]]:
    """The value of `key` from a file that holds exactly that value."""
    value, origins = _read(path, key)
    return normalise(key, value, str(path)), origins


def _read(path: Path, key: str = "") -> tuple[Any, dict[Keys, str]]:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if node is None:
        return {}, {}
    origins: dict[Keys, str] = {}
    return _build(node, path, key, (), origins), origins


def _build(node: yaml.Node, path: Path, key: str, at: Keys, origins: dict[Keys, str]) -> Any:
    """The value of a YAML node, with parts inlined from their files and paths made relative to this one."""
    origin = f"{path}:{node.start_mark.line + 1}"
    if at:
        origins[at] = origin
    if isinstance(node, yaml.MappingNode):
        value: Any = {}
        for name_node, value_node in node.value:
            name = str(name_node.value)
            if name in value:
                raise ConfigError(f"{path}:{name_node.start_mark.line + 1} gives {name} a second time.")
            value[name] = _build(value_node, path, name, (*at, name), origins)
    elif isinstance(node, yaml.SequenceNode):
        value = [_build(item, path, key, (), {}) for item in node.value]
    else:
        value = yaml.SafeLoader("").construct_object(node)
    if is_file(value) and (family_of(key) or key in SECTIONS):
        part_path = path.parent / value
        part, part_origins = load_part(key, part_path if part_path.is_file() else share.find(value))
        origins.update({(*at, *keys): where for keys, where in part_origins.items()})
        return part
    if key in PATH_KEYS and isinstance(value, str):
        return _relative(value, path)
    return normalise(key, value, origin) if key else value


def _relative(value: str, path: Path) -> str:
    return value if Path(value).is_absolute() or "://" in value or value.startswith("~") else str(path.parent / value)


def absolute_paths(value: Any, key: str = "") -> Any:
    """A configuration that means the same from anywhere: the inverse of writing paths relative to a file."""
    if isinstance(value, dict):
        return {name: absolute_paths(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [absolute_paths(item, key) for item in value]
    return _relative(value, Path.cwd() / "_") if key in (*PATH_KEYS, *RUN_KEYS) and isinstance(value, str) else value
