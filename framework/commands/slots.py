"""Which keys hold parts, and what a part's name on the command line or in a YAML stands for. Imports no torch.

A key and a value as the user wrote them flow in; the value with registered names expanded to import paths flows out.
"""

from __future__ import annotations

from typing import Any

from framework.errors import ConfigError
from framework.registry import PluginError, registry

# the last word of a key -> the family that its value is a part of; plurals hold lists of parts
SLOTS = {
    "base": "framework.networks",
    "callback": "lightning.pytorch.callbacks",
    "data": "framework.batches",
    "dataset": "framework.datasets",
    "logger": "lightning.pytorch.loggers",
    "model": "framework.recipes",
    "network": "framework.networks",
    "optimizer": "framework.optimizers",
    "reward": "framework.rewards",
    "sampler": "framework.samplers",
    "scheduler": "framework.schedulers",
    "task": "framework.tasks",
    "tokenizer": "framework.tokenizers",
}
WHOLE = ("data", "model")  # of these the word itself: a reward_model is a directory
PART_KEYS = {"class_path", "init_args", "dict_kwargs"}


def family_of(key: str) -> str | None:
    """The family of the part that `key` holds: `model.teacher_network` -> `framework.networks`; None where it holds no part."""
    word = key.rpartition(".")[2].rstrip("+")
    for noun, family in SLOTS.items():
        if word in (noun, f"{noun}s") or (noun not in WHOLE and word.endswith((f"_{noun}", f"_{noun}s"))):
            return family
    return None


def is_list(key: str) -> bool:
    """Whether the slot holds a list of parts."""
    return family_of(key) is not None and key.rstrip("+").endswith("s")


def is_file(value: object) -> bool:
    """Whether a value names a YAML file."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml"))


def expand(family: str, name: str, key: str, origin: str) -> str:
    """The import path of a part: `Lion` -> `framework.optimizers.Lion`; a dotted path stays. Raises for an unknown name."""
    if "." in name:
        return name
    if not name.isidentifier():
        raise ConfigError(f"{key}: {name!r} names no part (from {origin}); give a registered name, an import path or a YAML file.")
    if family.startswith("framework."):
        try:
            registry(family).part(name)  # the registry wins over classes that merely happen to be imported
        except PluginError as error:
            raise type(error)(f"{key} (from {origin}): {error}") from None
    return f"{family}.{name}"


def normalise(key: str, value: Any, origin: str) -> Any:
    """A slot's value in full form: a name becomes `{class_path: ...}`, a list is done item by item, a mapping has its class_path expanded."""
    family = family_of(key)
    if family is None or value is None:
        return value
    if isinstance(value, str):
        return {"class_path": expand(family, value, key, origin)}
    if isinstance(value, list):
        return [normalise(key, item, origin) for item in value]
    if not isinstance(value, dict) or not value:
        return value
    if not PART_KEYS & value.keys():
        return {"init_args": value}  # an edit of the part that is there
    if isinstance(value.get("class_path"), str):
        return {**value, "class_path": expand(family, value["class_path"], key, origin)}
    return value
