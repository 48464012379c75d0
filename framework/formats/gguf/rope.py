"""GGUF's metadata of rotary positions <-> config.json's `rope_parameters`: base, and how they are stretched to longer contexts.

Llama 3's stretching is a tensor of factors in GGUF and four numbers in config.json (Dubey et al. 2024; as transformers computes it).
Must not know anything else of an architecture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework.errors import CheckpointError
from framework.formats.gguf.architectures import Architecture
from framework.formats.gguf.layout import Layout, shown

FACTORS = "rope_freqs.weight"  # a wavelength's factor, for each pair of a head
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
EXTRA = (FACTORS, LONG, SHORT)  # tensors that are settings
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # of every published Llama 3
BETAS = {"rope.scaling.yarn_beta_fast": "beta_fast", "rope.scaling.yarn_beta_slow": "beta_slow"}


def read_rope(layout: Layout, architecture: Architecture, head_dim: int) -> dict[str, Any]:
    """`rope_theta` and `rope_parameters` of config.json."""
    prefix = f"{architecture.name}."
    theta = layout.real(f"{prefix}rope.freq_base", 10000.0)
    rotated = layout.integer(f"{prefix}rope.dimension_count", head_dim)
    if not math.isfinite(theta) or theta <= 0:
        layout.refuse(f"{prefix}rope.freq_base is {theta}")
    parameters = {"rope_theta": theta, **_read_scaling(layout, prefix, theta, head_dim)}
    fields: dict[str, Any] = {"rope_theta": theta}
    if rotated != head_dim:
        if architecture.name != "phi3" or not 0 < rotated < head_dim:
            layout.refuse(f"{prefix}rope.dimension_count is {rotated} of a head's {head_dim}: only a part of it turns")
        fields["partial_rotary_factor"] = parameters["partial_rotary_factor"] = rotated / head_dim
    if parameters["rope_type"] == "longrope":
        fields["original_max_position_embeddings"] = parameters["original_max_position_embeddings"]
    if architecture.local_theta is not None:
        local = {"rope_type": "default", "rope_theta": architecture.local_theta}
        return fields | {
            "rope_local_base_freq": architecture.local_theta,
            "rope_parameters": {"full_attention": parameters, "sliding_attention": local},
        }
    return fields | {"rope_parameters": parameters}


def _read_scaling(layout: Layout, prefix: str, theta: float, head_dim: int) -> dict[str, Any]:
    kind = layout.text(f"{prefix}rope.scaling.type", "none")
    factor = layout.real(f"{prefix}rope.scaling.factor", 1.0)
    original = layout.integer(f"{prefix}rope.scaling.original_context_length", 0)
    if FACTORS in layout.tensors:
        return _llama3(layout, theta, head_dim, original)
    if LONG in layout.tensors:
        long, short = _settings(layout, LONG, head_dim), _settings(layout, SHORT, head_dim)
        if not original:
            layout.refuse(f"{prefix}rope.scaling.original_context_length is missing, and {LONG} is there")
        found = {"long_factor": long.tolist(), "short_factor": short.tolist(), "original_max_position_embeddings": original}
        return {"rope_type": "longrope", **found}
    if kind == "none" or (kind == "linear" and factor == 1):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        layout.refuse(f"{prefix}rope.scaling.type is {shown(kind)}; known: none, linear, yarn, and factors of Llama 3's or Phi 3's")
    betas = {field: layout.real(prefix + key) for key, field in BETAS.items() if prefix + key in layout}
    return {"rope_type": "yarn", "factor": factor, **({"original_max_position_embeddings": original} if original else {}), **betas}


def _settings(layout: Layout, name: str, head_dim: int) -> NDArray[np.float32]:
    info = layout.tensors.get(name)
    if info is None or info.kind != "F32" or len(info.shape) != 1 or info.shape[0] > head_dim // 2:
        layout.refuse(f"the tensor {name} is missing, or no F32 of at most {head_dim // 2} numbers")
    return np.frombuffer(layout.data, np.float32, info.shape[0], info.start)


def _llama3(layout: Layout, theta: float, head_dim: int, original: int) -> dict[str, Any]:
    """The four numbers that give the file's factors: the published ones, and what the longest wavelength's factor leaves."""
    stored = _settings(layout, FACTORS, head_dim)
    if np.all(stored == 1):
        return {"rope_type": "default"}
    parameters: dict[str, Any] = {**LLAMA3, **({"original_max_position_embeddings": original} if original else {})}
    share = _shares(parameters, theta, head_dim)[-1]
    with np.errstate(divide="ignore"):
        parameters["factor"] = float(f"{(1 - share) / (1 / stored[-1] - share):.6g}")
    if len(stored) != head_dim // 2 or not np.allclose(llama3_factors(parameters, theta, head_dim), stored, rtol=1e-5):
        layout.refuse(f"the factors in {FACTORS} are not Llama 3's: config.json has no name for them")
    return {"rope_type": "llama3", **parameters}


def llama3_factors(parameters: Mapping[str, Any], theta: float, head_dim: int) -> NDArray[np.float32]:
    """By how much each pair's wavelength grows, shape [head_dim / 2]: short ones stay, long ones by `factor`, between them smoothly."""
    shares = _shares(parameters, theta, head_dim)
    return (1 / ((1 - shares) / parameters["factor"] + shares)).astype(np.float32)


def _shares(parameters: Mapping[str, Any], theta: float, head_dim: int) -> NDArray[np.float64]:
    """How much of each pair's frequency stays: 1 of short wavelengths, 0 of long ones."""
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    return np.clip((parameters["original_max_position_embeddings"] / wavelengths - low) / (high - low), 0, 1)


def rope_of(config: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """The base and the other parameters, wherever transformers 4 or 5 writes them; of layers without a window where these differ."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if "full_attention" in parameters:
        parameters = dict(parameters["full_attention"])
    parameters["rope_type"] = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    theta = parameters.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    return float(theta), parameters


def write_rope(config: Mapping[str, Any], architecture: Architecture, head_dim: int) -> dict[str, Any]:
    """The metadata below the architecture's name. Raises CheckpointError for parameters that GGUF cannot say."""
    theta, parameters = rope_of(config)
    _check_local(config, architecture)
    kind = parameters.pop("rope_type")
    share = parameters.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or 1.0
    metadata: dict[str, Any] = {"rope.freq_base": theta, "rope.dimension_count": int(head_dim * share)}
    original = parameters.pop("original_max_position_embeddings", None) or config.get("original_max_position_embeddings")
    if kind == "llama3":
        low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
        if high == 4 * low:  # then these are the published numbers in another unit, and the factors read back
            metadata["rope.scaling.original_context_length"] = round(original / low)
        return metadata
    if kind == "longrope":
        return metadata | {"rope.scaling.original_context_length": int(original or config["max_position_embeddings"])}
    factor = parameters.pop("factor", None)
    betas = {key: float(parameters.pop(field)) for key, field in BETAS.items() if parameters.get(field) is not None}
    parameters = {field: value for field, value in parameters.items() if value is not None}
    if kind not in ("default", "linear", "yarn") or parameters or (betas and kind != "yarn"):
        raise CheckpointError(f"GGUF cannot say the rope_parameters {kind}{f' with {parameters}' if parameters else ''}")
    if kind == "default":
        return metadata
    metadata |= {"rope.scaling.type": kind, "rope.scaling.factor": float(factor), **betas}
    return metadata | ({"rope.scaling.original_context_length": int(original)} if original else {})


def rope_tensors(config: Mapping[str, Any], head_dim: int) -> dict[str, NDArray[np.float32]]:
    """The tensors that are settings."""
    theta, parameters = rope_of(config)
    if parameters["rope_type"] == "llama3":
        return {FACTORS: llama3_factors(parameters, theta, head_dim)}
    if parameters["rope_type"] == "longrope":
        return {LONG: np.array(parameters["long_factor"], np.float32), SHORT: np.array(parameters["short_factor"], np.float32)}
    return {}


def _check_local(config: Mapping[str, Any], architecture: Architecture) -> None:
    """Layers with a window must turn as llama.cpp computes them."""
    if architecture.local_theta is None:
        return
    local = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    theta = local.get("rope_theta", config.get("rope_local_base_freq", architecture.local_theta))
    if theta != architecture.local_theta or local.get("rope_type", "default") != "default":
        raise CheckpointError(
            f"llama.cpp turns {architecture.name}'s layers with a window by a base of {architecture.local_theta}; this model by {theta}"
        )
