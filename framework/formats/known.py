"""The formats that are installed, and which of them expresses a network. Must not know files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.errors import CheckpointError
from framework.formats.base import Format, Sizes
from framework.networks.base import Network
from framework.networks.transformer import Transformer
from framework.registry import PluginError, registry

FORMATS = "framework.formats"


def expressing(network: Network) -> tuple[str | None, str]:
    """The name of the format for a network, the one it was published as before others; or None and what the nearest objects to."""
    if not isinstance(network, Transformer):
        return None, f"formats express Transformer, this is a {type(network).__name__}"
    nearest: list[str] | None = None
    about = "no format is installed"
    for name, form in sorted(formats().items(), key=lambda item: item[0] != network.published_as):
        found = form.objections(network.shape)
        if not found:
            return name, ""
        if nearest is None or len(found) < len(nearest):
            nearest, about = found, f"the nearest is {name}: {', '.join(found)}"
    return None, about


def formats() -> dict[str, Format]:
    """Every format that can be had: a broken plugin's harms nobody who does not name it."""
    forms: dict[str, Format] = {}
    for name in registry(FORMATS):
        try:
            forms[name] = named(name)
        except PluginError:
            continue
    return forms


def named(name: str) -> Format:
    """The format of a name."""
    form: Format = registry(FORMATS)[name]()
    return form


def described(config: Mapping[str, Any]) -> tuple[str, Format, Sizes]:
    """The name of the format, the format and the sizes of a config.json. Raises CheckpointError for an architecture or a field that is not computed here."""
    architecture = (config.get("architectures") or ["(none)"])[0]
    forms = {form.architecture: (name, form) for name, form in formats().items()}
    if architecture not in forms:
        raise CheckpointError(f"config.json has the architecture {architecture}; known: {', '.join(forms)}")
    name, form = forms[architecture]
    try:
        return name, form, form.from_config(config)
    except ValueError as problem:
        raise CheckpointError(f"config.json: {problem}") from problem


def sizes(network: Network) -> Sizes:
    """What a config would say of a network. Raises CheckpointError for another than a Transformer."""
    if not isinstance(network, Transformer):
        raise CheckpointError(f"a format was named, and the network is no Transformer but a {type(network).__name__}")
    return Sizes(network.shape, network.vocab_size, network.context_length)
