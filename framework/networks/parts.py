"""The name under which a network's class is registered, by which it can be built again. Must not know files."""

from __future__ import annotations

from typing import Any

from framework.errors import CheckpointError
from framework.networks.base import Network
from framework.registry import registry

NETWORKS = "framework.networks"


def class_path(network: Network) -> str:
    """`framework.networks.NAME`. Raises CheckpointError for a class that is not registered: it could not be loaded again."""
    target = f"{type(network).__module__}:{type(network).__qualname__}"
    for part in registry(NETWORKS).parts():
        if part.target == target:
            return f"{NETWORKS}.{part.name}"
    raise CheckpointError(f"{target} is no registered network and could not be loaded again: add it to the entry-point group {NETWORKS}")


def as_part(network: Network) -> dict[str, Any]:
    """The network as a part of a configuration: `class_path` and `init_args`."""
    return {"class_path": class_path(network), "init_args": network.init_args}
