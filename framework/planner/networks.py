"""The blueprint of a network that a configuration or a model directory describes. Imports no torch.

A part flows in, a blueprint flows out; of a model directory only its JSON files are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from framework.errors import CheckpointError, ConfigError
from framework.networks.shape import NetworkShape
from framework.planner.blueprint import Adapter, Blueprint
from framework.planner.settings import Part, known
from framework.registry import PluginError, registry

NETWORKS = "framework.networks"


def blueprint(part: Part, vocab_size: int | None, context_length: int | None) -> Blueprint:
    """Of the network that a part makes.

    Args:
        part: Transformer, Pretrained, or LoRA and ScalarHead around one.
        vocab_size: the tokenizer's, where it is known.
        context_length: the data's.

    Raises:
        ConfigError: another network, or arguments that do not fit.
        CheckpointError: a model directory that does not say what it holds.
    """
    if part.path.rpartition(".")[0] != NETWORKS:
        raise ConfigError(
            f"{part.key} is {part.path}, whose parameters only it can count; plan knows Transformer, LoRA, ScalarHead, Pretrained."
        )
    if part.name == "Transformer":
        return _transformer(part, vocab_size, context_length)
    if part.name == "Pretrained":
        return _adapted(stored(Path(part["path"])), part.get("adapt") or {})
    if part.name in ("LoRA", "ScalarHead"):
        base = part.part("base")
        if base is None:
            raise ConfigError(f"{part.key} has no base: start from a model with --init_from DIR, or give --{part.key}.base.")
        inside = blueprint(base, part["vocab_size"] or vocab_size, part["context_length"] or context_length)
        if part.name == "ScalarHead":
            return replace(inside, scalar_head=True)
        return replace(inside, adapter=Adapter(part.number("rank"), part["targets"], bool(part["dropout"]), part["quantize"]))
    raise ConfigError(
        f"{part.key} is {part.name}, whose parameters only it can count; plan knows Transformer, LoRA, ScalarHead, Pretrained."
    )


def _adapted(network: Blueprint, adapt: Mapping[str, Any]) -> Blueprint:
    """With room for new tokens, and for longer sequences."""
    return replace(
        network,
        vocab_size=network.vocab_size + len(adapt.get("new_tokens") or ()),
        context_length=adapt.get("context_length") or network.context_length,
    )


def _transformer(part: Part, vocab_size: int | None, context_length: int | None) -> Blueprint:
    explicit = part["vocab_size"]
    if explicit is not None and vocab_size is not None and explicit < vocab_size:
        raise ConfigError(
            f"{part.key}.vocab_size is {explicit} and the tokenizer has {vocab_size} ids; leave it out or make it at least that."
        )
    vocab_size, context_length = explicit or vocab_size, part["context_length"] or context_length
    if vocab_size is None or context_length is None:
        missing = "vocab_size" if vocab_size is None else "context_length"
        raise ConfigError(
            f"the {missing} of {part.key} is known only once the tokenizer is trained; say --{part.key}.{missing} N to plan without it."
        )
    return Blueprint(
        shape=_shape(part["shape"], f"{part.key}.shape"),
        vocab_size=vocab_size,
        context_length=context_length,
        vocab_multiple=part.number("vocab_multiple"),
        checkpointing=bool(part["activation_checkpointing"]),
    )


def _shape(value: Any, key: str) -> NetworkShape:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} is {value!r}; it takes the fields of a NetworkShape.")
    for name in value:
        known(name, {field.name: None for field in fields(NetworkShape)}, key)
    try:
        return NetworkShape(**value)
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"{key}: {problem}") from None


def stored(directory: Path) -> Blueprint:
    """Of a model directory: ours by framework.json, another by config.json."""
    ours, theirs = directory / "framework.json", directory / "config.json"
    if ours.is_file():
        part = Part(_read(ours).get("network"), f"{directory}'s network")
        return blueprint(part, None, None)
    if not theirs.is_file():
        raise CheckpointError(f"{directory} is no model directory: it has neither framework.json nor config.json.")
    config = _read(theirs)
    architectures = config.get("architectures") or ["none"]
    for form in _formats():
        if form.architecture in architectures:
            sizes = form().from_config(config)
            return Blueprint(sizes.shape, sizes.vocab_size, sizes.context_length)
    raise CheckpointError(f"{theirs} is of the architecture {architectures[0]}, which no installed format reads.")


def _formats() -> Iterator[Any]:
    """The formats that can be had: a broken plugin's harms nobody who does not name it."""
    formats = registry("framework.formats")
    for name in formats:
        with suppress(PluginError):
            yield formats[name]


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{file} cannot be read: {problem}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no object.")
    return value
