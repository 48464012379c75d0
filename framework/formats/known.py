"""The formats that are installed, and which of them expresses a network. Must not know files."""

from __future__ import annotations

from framework.errors import CheckpointError
from framework.formats.base import Format, Sizes
from framework.networks.base import Network
from framework.networks.transformer import Transformer
from framework.registry import PluginError, registry

FORMATS = "framework.formats"


def expressing(network: Network) -> tuple[str | None, str]:
    """The name of the first format that expresses a network, or None and what each of them objects to."""
    if not isinstance(network, Transformer):
        return None, f"formats express Transformer, this is a {type(network).__name__}"
    objections: list[str] = []
    for name, form in formats().items():
        found = form.objections(network.shape)
        if not found:
            return name, ""
        objections.append(f"{name}: {', '.join(found)}")
    return None, "; ".join(objections)


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


def sizes(network: Network) -> Sizes:
    """What a config would say of a network. Raises CheckpointError for another than a Transformer."""
    if not isinstance(network, Transformer):
        raise CheckpointError(f"a format was named, and the network is no Transformer but a {type(network).__name__}")
    return Sizes(network.shape, network.vocab_size, network.context_length)
