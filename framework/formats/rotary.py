"""Rotary positions as config.json says them: `rope_parameters` in transformers 5, `rope_theta` and `rope_scaling` before and elsewhere.

Both are written, so that transformers of either age, vLLM and llama.cpp's converter read the same. Must not know tensors or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.errors import CheckpointError
from framework.formats.base import required
from framework.formats.fields import Config, Fields
from framework.networks.rotary import yarn_attention_factor
from framework.networks.shape import NetworkShape, RotaryScaling

TRAINED = {"original_context_length": "original_max_position_embeddings"}
FIELDS: dict[str, dict[str, str]] = {  # of RotaryScaling, by kind: ours -> theirs
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        **TRAINED,
        "low_frequency_factor": "low_freq_factor",
        "high_frequency_factor": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        **TRAINED,
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
        "truncate": "truncate",
    },
}
UNSUPPORTED = {  # what a cache of keys cannot follow, because it turns earlier tokens otherwise once a sequence has grown
    "dynamic": "its rotation of a token changes with the length of the sequence",
    "longrope": "its rotation of a token changes with the length of the sequence",
}
FULL, SLIDING = "full_attention", "sliding_attention"


class Rotary(Fields):
    """One base and one scaling for all layers.

    Args:
        scales: whether the architecture knows scaled frequencies (Phi-3 knows only one kind, which is not computed here).
    """

    def __init__(self, scales: bool = True) -> None:
        self.scales = scales
        self.ours = ("rotary_theta", "rotary_scaling") if scales else ("rotary_theta",)

    def read(self, config: Config) -> dict[str, Any]:
        """Ours out of theirs."""
        _check_whole(config, "config.json")
        name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        theta, scaling = _read(config, name, config.get(name) or {}, config["rope_theta"])
        if scaling is not None and not self.scales:
            raise CheckpointError(f"config.json has {name}: {dict(config[name])!r}; supported here: rope_type 'default'")
        return {"rotary_theta": theta, "rotary_scaling": scaling} if self.scales else {"rotary_theta": theta}

    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Theirs out of ours."""
        scaling = _scaling_fields(shape.rotary_scaling)
        fields = {"rope_theta": shape.rotary_theta, "rope_parameters": {**_kind(scaling), "rope_theta": shape.rotary_theta}}
        return fields | {"rope_scaling": scaling} if scaling else fields


class LayeredRotary(Fields):
    """A base of their own for the layers with a window, and a scaling for the others (Gemma 3)."""

    ours = ("rotary_theta", "rotary_scaling", "local_rotary_theta")

    def read(self, config: Config) -> dict[str, Any]:
        """Ours out of theirs."""
        _check_whole(config, "config.json")
        nested = config.get("rope_parameters") or {}
        if surplus := nested.keys() - {FULL, SLIDING}:
            raise CheckpointError(f"config.json has rope_parameters: {sorted(surplus)}; supported: {FULL} and {SLIDING}")
        full = {**(nested.get(FULL) or {}), **(config.get("rope_scaling") or {})}
        theta, scaling = _read(config, f"the rotary positions of {FULL}", full, config["rope_theta"])
        local, local_scaling = _read(
            config, f"the rotary positions of {SLIDING}", nested.get(SLIDING) or {}, config["rope_local_base_freq"]
        )
        if local_scaling is not None:
            raise CheckpointError(f"config.json has rope_parameters: {nested!r}; supported for {SLIDING}: rope_type 'default'")
        return {"rotary_theta": theta, "rotary_scaling": scaling, "local_rotary_theta": local}

    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Theirs out of ours."""
        local, scaling = shape.local_rotary_theta or shape.rotary_theta, _scaling_fields(shape.rotary_scaling)
        nested = {
            FULL: {**_kind(scaling), "rope_theta": shape.rotary_theta},
            SLIDING: {"rope_type": "default", "rope_theta": local},
        }
        fields = {"rope_theta": shape.rotary_theta, "rope_local_base_freq": local, "rope_parameters": nested}
        return fields | {"rope_scaling": scaling} if scaling else fields

    def objections(self, shape: NetworkShape) -> list[str]:
        """What these fields have no way to say."""
        all_scaled = shape.rotary_scaling is not None and shape.sliding_window is not None and shape.local_rotary_theta is None
        return ["local_rotary_theta must be given: layers with a window are not scaled"] if all_scaled else []


def _read(config: Config, where: str, given: Mapping[str, Any], default_theta: float) -> tuple[float, RotaryScaling | None]:
    """Base and scaling out of one object of rotary parameters."""
    parameters = dict(given)
    theta = float(parameters.pop("rope_theta", None) or default_theta)
    older = parameters.pop("type", None)
    kind = parameters.pop("rope_type", None) or older or "default"
    _check_whole(parameters, where)
    parameters.pop("partial_rotary_factor", None)
    if kind == "default" and not parameters:
        return theta, None
    if kind not in FIELDS:
        reason = f" ({UNSUPPORTED[kind]})" if kind in UNSUPPORTED else ""
        supported = ", ".join(map(repr, ["default", *FIELDS]))
        raise CheckpointError(f"config.json has {where} with rope_type {kind!r}{reason}; supported: {supported}")
    if kind == "yarn":
        parameters = _yarn(parameters, config)
    if "original_context_length" in FIELDS[kind]:  # transformers: the one of the whole config goes first
        trained = config.get("original_max_position_embeddings") or parameters.get("original_max_position_embeddings")
        parameters["original_max_position_embeddings"] = trained or required(config, "max_position_embeddings")
    found = {ours: parameters.pop(theirs) for ours, theirs in FIELDS[kind].items() if theirs in parameters}
    parameters.pop("finetuned", None)  # says where the weights come from
    if parameters:
        raise CheckpointError(f"config.json has {where} with {sorted(parameters)}, which {kind!r} has no use for here")
    if found.get("factor") is None or (kind == "llama3" and len(found) < len(FIELDS[kind])):
        raise CheckpointError(f"config.json has {where} of rope_type {kind!r}, which needs {', '.join(FIELDS[kind].values())}")
    return theta, RotaryScaling(kind, **{name: value for name, value in found.items() if value is not None})  # type: ignore[arg-type]


def _yarn(parameters: dict[str, Any], config: Config) -> dict[str, Any]:
    """With the factors that transformers works out written down."""
    numerator, denominator = parameters.pop("mscale", None), parameters.pop("mscale_all_dim", None)
    trained = parameters.get("original_max_position_embeddings")
    if parameters.get("factor") is None and trained:
        parameters["factor"] = required(config, "max_position_embeddings") / trained
    factor = parameters.get("factor")
    if parameters.get("attention_factor") is None and numerator and denominator and factor is not None:
        parameters["attention_factor"] = yarn_attention_factor(factor, numerator) / yarn_attention_factor(factor, denominator)
    return parameters


def _scaling_fields(scaling: RotaryScaling | None) -> dict[str, Any]:
    """Their fields of a scaling; none where nothing is scaled."""
    if scaling is None:
        return {}
    values = {theirs: getattr(scaling, ours) for ours, theirs in FIELDS[scaling.kind].items()}
    return {"rope_type": scaling.kind, **{name: value for name, value in values.items() if value is not None}}


def _kind(scaling: dict[str, Any]) -> dict[str, Any]:
    return scaling or {"rope_type": "default"}


def _check_whole(fields: Mapping[str, Any], where: str) -> None:
    """Refuse to turn only a part of each head."""
    if fields.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise CheckpointError(f"{where} has partial_rotary_factor: {fields['partial_rotary_factor']!r}; supported: 1.0")
