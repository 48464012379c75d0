"""Our own form of a network: the name it is registered under, its arguments, and its state by our names.

Every model directory keeps the first two, so that a network comes back as it was trained; the third is used where no published
architecture expresses the network. Must not know files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from framework.errors import CheckpointError
from framework.formats.convert import is_finite
from framework.networks.base import Network
from framework.networks.parts import NETWORKS, class_path
from framework.networks.transformer import Transformer
from framework.registry import registry

__all__ = ["build", "class_path", "fill", "to_tensors", "without_values"]

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
        with without_values():
            network = part(**values)
        has_buffers = any(True for _ in network.buffers())  # their values may come from __init__
        return part(**values) if has_buffers else network
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"{path} cannot be built from its saved arguments: {problem}") from problem


@contextmanager
def without_values() -> Iterator[None]:
    """Modules built inside have sizes and no values (device meta). None are made: torch would load its compiler to make nothing."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Passes over what torch's tensors, torch.nn.init and `Module.to_empty` would draw or allocate."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_", "empty_like"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


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


def fill(
    network: Network,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> None:
    """Give a network the state that `to_tensors` took, as it comes; the tensors become its parameters, without a copy where they fit.

    Args:
        network: the one they are of; its own values may be missing (device meta).
        tensors: by our names, each once.
        dtype: type of the parameters; None: as given.
        device: where they go.

    Raises:
        CheckpointError: a tensor is missing, unexpected, misshapen, or holds NaN or infinity.
    """
    expected = {name: tensor.shape for name, tensor in to_tensors(network).items()}
    state = network.state_dict(keep_vars=True)
    loaded: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if name not in expected or name in loaded:
            raise CheckpointError(f"the weights do not fit the network: unexpected {name}")
        if expected[name] != tensor.shape:
            raise CheckpointError(f"the tensor {name} has shape {list(tensor.shape)}; the network says {list(expected[name])}")
        if not is_finite(tensor):
            raise CheckpointError(f"the tensor {name} holds NaN or infinite values")
        tensor = tensor.to(device, dtype if tensor.is_floating_point() else None)
        padding = len(state[name]) - len(tensor) if tensor.ndim else 0  # rows that pad the vocabulary
        padded = F.pad(tensor, (0, 0, 0, padding)) if padding else tensor
        loaded[name] = nn.Parameter(padded, state[name].requires_grad) if isinstance(state[name], nn.Parameter) else padded
    if missing := sorted(expected.keys() - loaded.keys()):
        raise CheckpointError(f"the weights do not fit the network: missing {missing[:5]}")
    network.load_state_dict({name: loaded[first] for name, first in _first_names(network).items()}, assign=True)


def _first_names(network: Network) -> dict[str, str]:
    """Each name of the state -> the first name under which the same tensor stands: itself, save for shared tensors."""
    state = network.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    return {name: first[id(tensor)] for name, tensor in state.items()}
