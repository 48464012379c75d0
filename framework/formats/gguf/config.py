"""GGUF's metadata <-> Hugging Face's config.json, by an architecture's table.

A layout or a config flows in, the other one's fields flow out. A field whose value the other side cannot say is refused by name.
Must not know tensors' values or tokenizers; rope.py knows the rotary positions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from framework.errors import CheckpointError
from framework.formats.gguf.architectures import ARCHITECTURES, Architecture
from framework.formats.gguf.layout import Layout, shown
from framework.formats.gguf.rope import read_rope, write_rope

Metadata = dict[str, int | float | bool | str]


def architecture_in(layout: Layout) -> Architecture:
    """The architecture of a file. Raises CheckpointError for one that is not known, or a file that is a part of a model."""
    name = layout.text("general.architecture")
    found = next((one for one in ARCHITECTURES if one.name == name), None)
    if found is None:
        layout.refuse(f"its architecture is {shown(name)}; known: {', '.join(one.name for one in ARCHITECTURES)}")
    kind = layout.text("general.type", "model")
    if kind != "model":
        layout.refuse(f"it is no model but {shown(kind)}")
    if "split.count" in layout and layout.integer("split.count") > 1:
        layout.refuse("it is one of several parts of a model; join them with llama.cpp's gguf-split --merge")
    return found


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a config.json's model is written as. Raises CheckpointError where GGUF has none."""
    theirs = (config.get("architectures") or ["(none)"])[0]
    found = next((one for one in ARCHITECTURES if theirs in (one.theirs, *one.also)), None)
    if found is None:
        known = ", ".join(name for one in ARCHITECTURES for name in (one.theirs, *one.also))
        raise CheckpointError(f"{theirs} cannot be written as GGUF here; known: {known}")
    return found


def read_config(layout: Layout, architecture: Architecture) -> dict[str, Any]:
    """The config.json of a file's model. Raises CheckpointError for metadata that is missing, contradicts itself or has no place there."""
    prefix = f"{architecture.name}."
    config: dict[str, Any] = {"architectures": [architecture.theirs], "model_type": architecture.model_type}
    heads = layout.integer(f"{prefix}attention.head_count")
    for key, field in architecture.sizes.items():
        config[field] = layout.integer(prefix + key, heads if key == "attention.head_count_kv" else None)
        if config[field] < 1:
            layout.refuse(f"{prefix}{key} is {config[field]}")
    for key, field in architecture.reals.items():
        config[field] = layout.real(prefix + key) if prefix + key in layout else None
    key, field = architecture.epsilon
    config[field] = layout.real(prefix + key)
    config |= {field: values[0] for field, values in architecture.implied.items()}
    embedding = layout.tensors.get("token_embd.weight")
    if embedding is None:
        layout.refuse("the tensor token_embd.weight is missing: it is no whole model")
    config["vocab_size"] = embedding.shape[0]
    config["tie_word_embeddings"] = "output.weight" not in layout.tensors
    if architecture.name == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in layout.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in layout.tensors
    if architecture.rotary:
        config["head_dim"] = _head_dim(layout, architecture, heads)
        config |= read_rope(layout, architecture, config["head_dim"])
    _read_windows(layout, architecture, config)
    return config


def write_config(config: Mapping[str, Any], architecture: Architecture) -> Metadata:
    """The metadata of a config.json's model; the inverse of `read_config`."""
    for field, values in architecture.implied.items():
        if field in config and config[field] not in values:
            raise CheckpointError(f"GGUF's architecture {architecture.name} has no {field} {config[field]!r}, only {values[0]!r}")
    metadata: dict[str, Any] = {}
    for key, field in architecture.sizes.items():
        value = config.get(field)
        if value is None and key == "attention.head_count_kv":
            value = config["num_attention_heads"]
        if value is None and key == "feed_forward_length":
            value = 4 * config["n_embd"]  # GPT-2's default
        if value is None:
            raise CheckpointError(f"config.json has no {field}")
        metadata[key] = int(value)
    for key, field in architecture.reals.items():
        if config.get(field) is not None:
            metadata[key] = float(config[field])
    key, field = architecture.epsilon
    metadata[key] = float(config[field])
    if architecture.rotary:
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        metadata |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
        metadata |= write_rope(config, architecture, head_dim)
    metadata |= _write_windows(config, architecture)
    return {f"{architecture.name}.{key}": value for key, value in metadata.items()} | {
        f"{architecture.name}.vocab_size": int(config["vocab_size"])
    }


def _head_dim(layout: Layout, architecture: Architecture, heads: int) -> int:
    prefix = f"{architecture.name}."
    width = layout.integer(f"{prefix}embedding_length")
    rotated = layout.integer(f"{prefix}rope.dimension_count", max(1, width // heads))
    head_dim = layout.integer(f"{prefix}attention.key_length", rotated if architecture.name == "llama" else max(1, width // heads))
    if layout.integer(f"{prefix}attention.value_length", head_dim) != head_dim:
        layout.refuse(f"{prefix}attention.value_length is not attention.key_length {head_dim}; both are one width here")
    if head_dim < 2 or head_dim % 2:
        layout.refuse(f"its heads have {head_dim} numbers; rotary positions turn pairs")
    return head_dim


def _scale(config: Mapping[str, Any], architecture: Architecture) -> float:
    """What llama.cpp divides by the root of, in an architecture whose config.json names it."""
    exceptional = config["num_hidden_layers"] == architecture.scale_exception
    return config["hidden_size"] // config["num_attention_heads"] if exceptional else config["head_dim"]


def _read_windows(layout: Layout, architecture: Architecture, config: dict[str, Any]) -> None:
    key = f"{architecture.name}.attention.sliding_window"
    window = layout.integer(key, 0)
    if window < 0:
        layout.refuse(f"{key} is {window}")
    if window and architecture.name == "llama":  # none of the architecture's own: written here for a Mistral
        if config.pop("attention_bias") or config.pop("mlp_bias"):
            layout.refuse(f"it has {key} and biases; no architecture of Hugging Face's has both")
        config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
        del config["pretraining_tp"]
    if architecture.window_every or window:
        config["sliding_window"] = window or None
    if types := architecture.layer_types(config["num_hidden_layers"]) if architecture.window_every else None:
        config["layer_types"] = types
    if architecture.scale_exception:
        config["query_pre_attn_scalar"] = _scale(config, architecture)


def _write_windows(config: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    types = config.get("layer_types") or None
    if architecture.window_every > 1 and types not in (None, architecture.layer_types(config["num_hidden_layers"])):
        raise CheckpointError(
            f"GGUF's {architecture.name} has a window on every layer but each {architecture.window_every}th; layer_types differs"
        )
    if architecture.scale_exception:
        scalar, computed = config.get("query_pre_attn_scalar"), _scale({"head_dim": 256, **config}, architecture)
        if scalar is not None and scalar != computed:
            raise CheckpointError(f"llama.cpp computes {architecture.name} with query_pre_attn_scalar {computed}; this model has {scalar}")
    if window is None:
        return {}
    if not architecture.window_every and architecture.name != "llama":
        raise CheckpointError(f"GGUF's architecture {architecture.name} has no sliding window; this model has one of {window}")
    found = {"attention.sliding_window": int(window)}
    if architecture.name == "llama" and window < config["max_position_embeddings"]:
        warnings.warn(
            f"llama.cpp computes this model without its sliding window of {window} tokens: the file's context ends there.", stacklevel=4
        )
        found["context_length"] = int(window)
    return found
