"""What a config.json says of a network's shape, in reversible pieces: some fields of theirs, some of ours, and the way between.

A family of Llama's shape (llama_shaped.py) is a list of these. Must not know tensors or files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from framework.formats.base import refuse, required
from framework.networks.shape import FeedForwardKind, NetworkShape

Config = Mapping[str, Any]


class Fields(ABC):
    """Some fields of config.json.

    Attributes:
        ours: the fields of NetworkShape that they say.
    """

    ours: tuple[str, ...]

    @abstractmethod
    def read(self, config: Config) -> dict[str, Any]:
        """Our fields. Raises CheckpointError for a value that is not computed here."""

    @abstractmethod
    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Their fields."""

    def objections(self, shape: NetworkShape) -> list[str]:
        """What these fields have no way to say."""
        return []


class Same(Fields):
    """Fields that differ in name alone.

    Args:
        names: ours -> theirs. A field that the config lacks, or has as null, is left to NetworkShape's default.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names, self.ours = names, tuple(names)

    def read(self, config: Config) -> dict[str, Any]:
        """Ours out of theirs."""
        return {ours: config[theirs] for ours, theirs in self.names.items() if config.get(theirs) is not None}

    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Theirs out of ours."""
        return {theirs: getattr(shape, ours) for ours, theirs in self.names.items()}


class Widths(Fields):
    """What every architecture of Llama's shape calls alike."""

    names: ClassVar[dict[str, str]] = {
        "num_layers": "num_hidden_layers",
        "width": "hidden_size",
        "num_heads": "num_attention_heads",
        "feedforward_width": "intermediate_size",
    }
    ours = (*names, "num_kv_heads", "head_width", "norm_eps", "tied_embeddings")

    def read(self, config: Config) -> dict[str, Any]:
        """Ours out of theirs."""
        return {
            **{ours: required(config, theirs) for ours, theirs in self.names.items()},
            "num_kv_heads": config.get("num_key_value_heads"),
            "head_width": config.get("head_dim"),
            "norm_eps": config["rms_norm_eps"],
            "tied_embeddings": config["tie_word_embeddings"],
        }

    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Theirs out of ours."""
        return {
            "hidden_size": shape.width,
            "intermediate_size": shape.inner_width,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.query_width,
            "rms_norm_eps": shape.norm_eps,
            "tie_word_embeddings": shape.tied_embeddings,
        }


class Activation(Fields):
    """The feed-forward's.

    Args:
        theirs: the field's name.
        gelu_is_tanh: "gelu" stands for the approximation, as in Gemma's first files; there is no exact one.
    """

    ours = ("feedforward",)

    def __init__(self, theirs: str = "hidden_act", gelu_is_tanh: bool = False) -> None:
        self.theirs = theirs
        self.names: dict[FeedForwardKind, str] = {"swiglu": "silu", "geglu_tanh": "gelu_pytorch_tanh"}
        self.aliases = {"swish": "silu", "gelu_new": "gelu_pytorch_tanh"}
        if gelu_is_tanh:
            self.aliases["gelu"] = "gelu_pytorch_tanh"
        else:
            self.names["geglu"] = "gelu"

    def read(self, config: Config) -> dict[str, Any]:
        """Ours out of theirs."""
        refuse(config, {self.theirs: [*self.names.values(), *self.aliases]})
        given: str = config[self.theirs]
        by_name = {theirs: ours for ours, theirs in self.names.items()}
        return {"feedforward": by_name[self.aliases.get(given, given)]}

    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Theirs out of ours."""
        return {self.theirs: self.names[shape.feedforward]}

    def objections(self, shape: NetworkShape) -> list[str]:
        """What these fields have no way to say."""
        return [] if shape.feedforward in self.names else [f"feedforward must be one of {', '.join(self.names)}"]


class AttentionBias(Fields):
    """Biases of queries, keys, values and output: all or none. Where ours are on some only, the others are zeros, which is exact."""

    ours = ("qkv_bias", "out_bias")

    def read(self, config: Config) -> dict[str, Any]:
        """Ours out of theirs."""
        bias = config.get("attention_bias", False)
        return {"qkv_bias": bias, "out_bias": bias}

    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Theirs out of ours."""
        return {"attention_bias": shape.qkv_bias or shape.out_bias}


class ScaleWidth(Fields):
    """Gemma's `query_pre_attn_scalar`, whose root divides the scores."""

    ours = ("attention_scale_width",)

    def read(self, config: Config) -> dict[str, Any]:
        """Ours out of theirs."""
        return {"attention_scale_width": config["query_pre_attn_scalar"]}

    def write(self, shape: NetworkShape) -> dict[str, Any]:
        """Theirs out of ours."""
        return {"query_pre_attn_scalar": shape.attention_scale_width or shape.query_width}
