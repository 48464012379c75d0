"""Our own form of a network: the name it is registered under, its arguments, and its state by our names.

Every model directory keeps the first two, so that a network comes back as it was trained; the third is used where no published
architecture expresses the network. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.errors import CheckpointError
from framework.networks.base import Network
from framework.networks.parts import NETWORKS, class_path
from framework.networks.transformer import Transformer
from framework.registry import registry

__all__ = ["build", "class_path", "fill", "to_tensors"]

VOCABULARY_TABLES = ("embedding.weight", "head.weight")


def build(path: str, init_args: Mapping[str, Any]) -> Network:
    """The network of a class path, without values where its class allows that. Only registered ones: a file never chooses an import."""
    family, _, name = path.rpartition(".")
    part = registry(NETWORKS)[name] if family == NETWORKS else None
    if not (isinstance(part, type) and issubclass(part, Network)):
        raise CheckpointError(f"{path} is no registered network; networks are found as {NETWORKS}.NAME")
    hints = get_type_hints(part.__init__)
    values: dict[str, Any] = {}
    try:
        for key, value in init_args.items():
            values[key] = _value(hints.get(key), value)
        with torch.device("meta"):
            network = part(**values)
        has_buffers = any(True for _ in network.buffers())  # their values may come from __init__
        return part(**values) if has_buffers else network
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"{path} cannot be built from its saved arguments: {problem}") from problem


def _value(hint: Any, value: Any) -> Any:
    """An argument from its JSON form: dataclasses are objects of their fields, networks inside networks parts."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"class_path", "init_args"}:
        return lambda **_: build(value["class_path"], value["init_args"])
    return hint(**value) if is_dataclass(hint) else value  # type: ignore[operator]


def to_tensors(network: Network) -> dict[str, Tensor]:
    """State by our names: shared tensors once, the vocabulary's tables without padding rows."""
    state, first = network.state_dict(), _first_names(network)
    tensors = {name: tensor for name, tensor in state.items() if first[name] == name}
    if isinstance(network, Transformer):
        tensors |= {name: tensors[name][: network.vocab_size] for name in VOCABULARY_TABLES if name in tensors}
    return tensors


def fill(network: Network, tensors: Mapping[str, Tensor]) -> None:
    """Give a network the state that `to_tensors` took; the tensors become its parameters without a copy.

    Raises:
        CheckpointError: a tensor is missing, unexpected, misshapen, or holds NaN or infinity.
    """
    expected = {name: tensor.shape for name, tensor in to_tensors(network).items()}
    if expected.keys() != tensors.keys():
        missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        raise CheckpointError(f"the weights do not fit the network: missing {missing[:5] or 'none'}, unexpected {unexpected[:5] or 'none'}")
    state = network.state_dict(keep_vars=True)
    loaded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if expected[name] != tensor.shape:
            raise CheckpointError(f"the tensor {name} has shape {list(tensor.shape)}; the network says {list(expected[name])}")
        if not tensor.isfinite().all():
            raise CheckpointError(f"the tensor {name} holds NaN or infinite values")
        padding = len(state[name]) - len(tensor) if tensor.ndim else 0  # rows that pad the vocabulary
        padded = F.pad(tensor, (0, 0, 0, padding)) if padding else tensor
        loaded[name] = nn.Parameter(padded, state[name].requires_grad) if isinstance(state[name], nn.Parameter) else padded
    network.load_state_dict({name: loaded[first] for name, first in _first_names(network).items()}, assign=True)


def _first_names(network: Network) -> dict[str, str]:
    """Each name of the state -> the first name under which the same tensor stands: itself, save for shared tensors."""
    state = network.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    return {name: first[id(tensor)] for name, tensor in state.items()}
