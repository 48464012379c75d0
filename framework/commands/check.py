"""Whether every key of a composed configuration is one that somebody reads. The signatures are the schema.

A composition flows in; nothing, or a ConfigError with the nearest known name and where the key came from, flows out.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import typing
from collections.abc import Iterable
from typing import Any

from framework.commands.compose import Composition, Keys
from framework.commands.slots import PART_KEYS, SLOTS
from framework.errors import ConfigError
from framework.registry import registry

HIDDEN = {
    "ckpt_path": "--resume auto goes on with a run, --init_from DIR starts a new one from weights",
    "weights_only": "checkpoints are always read as plain tensors and values",
}


def check(composition: Composition, sections: dict[str, Any], plain: Iterable[str]) -> None:
    """Raise ConfigError for the first key that nothing reads.

    Args:
        composition: what to check, files and arguments.
        sections: top-level key -> the class that its keys are arguments of (`trainer`, `checkpoints`).
        plain: top-level keys with a plain value.
    """
    for key in composition.config:
        _known(key, [*sections, *plain, "model", "data"], "", composition.origin((key,)))
    for name, kind in sections.items():
        section = composition.config.get(name) or {}
        if not isinstance(section, dict):
            raise ConfigError(
                f"{name} is {section!r} (from {composition.origin((name,))}); it takes settings, {name}: {{NAME: VALUE}}, or a YAML file."
            )
        _check_arguments(composition, kind, section, (name,))
    for name in ("model", "data"):
        _check_class(composition, name)
        _check_part(composition, composition.config.get(name), (name,))
    for key, _ in composition.overrides:
        _check_override(composition, key.rstrip("+").split("."), sections, [*sections, *plain, "model", "data"])


def load(class_path: str, origin: str) -> Any:
    """The class or function at an import path. Raises ConfigError naming what is missing."""
    module, _, name = class_path.rpartition(".")
    if module.startswith("framework.") and name in registry(module):
        return registry(module)[name]
    try:
        loaded = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{class_path} (from {origin}) cannot be imported: {error}.") from None
    try:
        return getattr(loaded, name)
    except AttributeError:
        near = difflib.get_close_matches(name, dir(loaded), n=1, cutoff=0.5)
        raise ConfigError(f"there is no {name} in {module} (from {origin}){f'; did you mean {near[0]}?' if near else '.'}") from None


def _check_class(composition: Composition, key: str) -> None:
    """Raise ConfigError for a model or data without a class; a question (`--help`) needs none."""
    value = composition.config.get(key)
    if (
        composition.flags
        or (isinstance(value, dict) and "class_path" in value)
        or any(name == f"{key}.class_path" for name, _ in composition.overrides)
    ):
        return
    choice = f"--config FILE, such as recipes/pretrain.yaml, or --{key} NAME, one of: {', '.join(registry(SLOTS[key]))}."
    if value is None:
        raise ConfigError(f"the configuration has no {key}: give {choice}")
    raise ConfigError(f"{key} names no class (from {composition.origin((key,))}): give {choice}")


def _check_part(composition: Composition, value: Any, at: Keys) -> None:
    if isinstance(value, list):
        for item in value:
            _check_part(composition, item, at)
    if not isinstance(value, dict) or "class_path" not in value:
        return
    for key in value:
        _known(key, list(PART_KEYS), f" of {'.'.join(at)}", composition.origin((*at, key)))
    kind = load(value["class_path"], composition.origin((*at, "class_path")))
    _check_arguments(composition, kind, value.get("init_args") or {}, (*at, "init_args"))


def _check_arguments(composition: Composition, kind: Any, arguments: dict[str, Any], at: Keys) -> None:
    accepted = _parameters(kind)
    if accepted is None:
        return
    for key, value in arguments.items():
        _known(key, list(accepted), f" of {kind.__name__}", composition.origin((*at, key)))
        fields = _fields(accepted[key])
        if fields and isinstance(value, dict) and "class_path" not in value:
            for name in value:
                _known(name, fields, f" of {key}", composition.origin((*at, key, name)))
        _check_part(composition, value, (*at, key))


def _check_override(composition: Composition, keys: list[str], sections: dict[str, Any], top: list[str]) -> None:
    value: Any = composition.config
    kind: Any = None
    for depth, key in enumerate(keys):
        if depth == 0:
            if key in HIDDEN:
                raise ConfigError(f"--{key} is not used here: {HIDDEN[key]}.")
            _known(key, top, "", "the command line")
            kind = sections.get(key)
        elif key in PART_KEYS:
            value = value.get(key) if isinstance(value, dict) else None
            continue
        elif kind is not None:
            accepted = _parameters(kind)
            if accepted is None:
                return
            _known(key, list(accepted), f" of {kind.__name__}", "the command line")
            fields = _fields(accepted[key])
            if fields and depth + 1 < len(keys) and not _part_class(_inside(value, key), composition):
                _known(keys[depth + 1], fields, f" of {key}", "the command line")
                return
            kind = None
        value = _inside(value, key)
        kind = _part_class(value, composition) or kind
        if kind is None:
            return


def _inside(value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        return None
    arguments = value.get("init_args") if "class_path" in value else value
    return arguments.get(key) if isinstance(arguments, dict) else None


def _part_class(value: Any, composition: Composition) -> Any:
    return load(value["class_path"], "the configuration") if isinstance(value, dict) and "class_path" in value else None


def _parameters(kind: Any) -> dict[str, Any] | None:
    """Parameter -> annotation; None for a signature that takes anything."""
    parameters = inspect.signature(kind).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    try:
        hints = typing.get_type_hints(kind.__init__ if inspect.isclass(kind) else kind)
    except NameError:  # a name that exists for type checkers only
        hints = {}
    return {name: hints.get(name) for name in parameters}


def _fields(annotation: Any) -> list[str]:
    """Field names of a dataclass annotation (also inside `X | None`)."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if dataclasses.is_dataclass(candidate):
            return [field.name for field in dataclasses.fields(candidate)]
    return []


def _known(key: str, names: list[str], owner: str, origin: str) -> None:
    if key in names:
        return
    if key in HIDDEN:
        raise ConfigError(f"{key} (from {origin}) is not used here: {HIDDEN[key]}.")
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(names))}."
    raise ConfigError(f"there is no key {key}{owner} (from {origin}); {hint}")
