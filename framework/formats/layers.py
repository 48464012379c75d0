"""Layers that are not alike, as config.json says them: which have a sliding window, and which leave positions out.

Must not know tensors or files.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from framework.errors import CheckpointError
from framework.formats.base import required
from framework.formats.fields import Config, Fields
from framework.networks.shape import NetworkShape


class Windows(Fields):
    """A sliding window in some of the layers: `layer_types` says which; where it is missing, an older rule.

    Args:
        switch: the field that turns windows on; None: they are on where `sliding_window` is a number.
    """

    ours = ("sliding_window", "windowed_layers")

    def __init__(self, switch: str | None = None) -> None:
        self.switch = switch

    @abstractmethod
    def has_window(self, config: Config, layer: int) -> bool:
        """The older rule."""

    @abstractmethod
    def rule(self, windowed: tuple[int, ...], num_layers: int) -> dict[str, Any]:
        """The older rule's own fields, for readers that know no `layer_types`."""

    def read(self, config: Config) -> dict[str, Any]:
        """Ours out of theirs."""
        window, num_layers = config.get("sliding_window"), required(config, "num_hidden_layers")
        if window is None or (self.switch is not None and not config.get(self.switch, False)):
            return {}
        kinds = config.get("layer_types")
        if kinds is None:
            windowed = [layer for layer in range(num_layers) if self.has_window(config, layer)]
        elif len(kinds) != num_layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
            raise CheckpointError(
                f"config.json has layer_types: {kinds!r}; supported: sliding_attention or full_attention for each of {num_layers} layers"
            )
        else:
            windowed = [layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"]
        return {"sliding_window": window, "windowed_layers": None if len(windowed) == num_layers else tuple(windowed)}

    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Theirs out of ours."""
        windowed = tuple(layer for layer in range(shape.num_layers) if shape.layer_kind(layer).window is not None)
        kinds = ["sliding_attention" if layer in windowed else "full_attention" for layer in range(shape.num_layers)]
        fields = {"layer_types": kinds, **self.rule(windowed, shape.num_layers)}
        if self.switch is not None:
            return {self.switch: bool(windowed), "sliding_window": shape.sliding_window, **fields}
        return fields if shape.sliding_window is None else {"sliding_window": shape.sliding_window, **fields}  # null would not run


class WindowsFrom(Windows):
    """From layer `max_window_layers` on (Qwen)."""

    def has_window(self, config: Config, layer: int) -> bool:
        """The rule for a layer."""
        return bool(layer >= config["max_window_layers"])

    def rule(self, windowed: tuple[int, ...], num_layers: int) -> dict[str, Any]:
        """Its fields, where the layers follow it."""
        first = num_layers - len(windowed)
        return {"max_window_layers": first} if windowed == tuple(range(first, num_layers)) else {}


class WindowsButEvery(Windows):
    """In all layers but every n-th (Gemma).

    Args:
        period: n, or the name of the field that has it.
    """

    def __init__(self, period: int | str) -> None:
        super().__init__()
        self.period = period

    def has_window(self, config: Config, layer: int) -> bool:
        """The rule for a layer."""
        period = config[self.period] if isinstance(self.period, str) else self.period
        return bool((layer + 1) % period)

    def rule(self, windowed: tuple[int, ...], num_layers: int) -> dict[str, Any]:
        """Its fields, where the layers follow it."""
        if not isinstance(self.period, str):
            return {}
        first = next((layer for layer in range(num_layers) if layer not in windowed), num_layers)
        follows = windowed == tuple(layer for layer in range(num_layers) if (layer + 1) % (first + 1))
        return {self.period: first + 1} if follows else {}


class WindowsUnrotated(Windows):
    """In the layers that leave positions out (SmolLM3)."""

    def has_window(self, config: Config, layer: int) -> bool:
        """The rule for a layer."""
        return layer in Unrotated().read(config).get("unrotated_layers", ())

    def rule(self, windowed: tuple[int, ...], num_layers: int) -> dict[str, Any]:
        """Its fields, where the layers follow it."""
        return {}


class Unrotated(Fields):
    """The layers that leave positions out: zeros in `no_rope_layers`; where it is missing, every n-th (SmolLM3)."""

    ours = ("unrotated_layers",)

    def read(self, config: Config) -> dict[str, Any]:
        """Ours out of theirs."""
        num_layers, rotated = required(config, "num_hidden_layers"), config.get("no_rope_layers")
        if rotated is None:
            rotated = [(layer + 1) % config["no_rope_layer_interval"] for layer in range(num_layers)]
        elif len(rotated) < num_layers:
            raise CheckpointError(f"config.json has no_rope_layers: {rotated!r}; supported: a number for each of {num_layers} layers")
        layers = tuple(layer for layer, does in enumerate(rotated[:num_layers]) if not does)
        return {"unrotated_layers": layers} if layers else {}

    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Theirs out of ours."""
        return {"no_rope_layers": [int(layer not in (shape.unrotated_layers or ())) for layer in range(shape.num_layers)]}
