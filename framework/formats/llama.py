"""LlamaForCausalLM: rotary positions (half-split, as ours), RMSNorm, gated feed-forward, grouped key-value heads.

Biases that only some of its matrices have here are expressed by zero biases on the others, which is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from framework.errors import CheckpointError
from framework.formats.base import Entry, Format, Sizes, refuse, required
from framework.networks.shape import FeedForwardKind, NetworkShape

ACTIVATIONS: dict[FeedForwardKind, str] = {"swiglu": "silu", "geglu": "gelu"}
COMPUTED = {  # fields that change the function, and the values we compute
    "hidden_act": tuple(ACTIVATIONS.values()),
    "rope_scaling": (None, {"rope_type": "default"}, {"type": "default"}),
    "pretraining_tp": (1,),
    "attention_dropout": (0,),  # ours drops at GPT-2's places
}


class Llama(Format):
    """Hugging Face's Llama: Llama, SmolLM, TinyLlama and others of that shape."""

    architecture = "LlamaForCausalLM"
    model_type = "llama"
    embedding = "model.embed_tokens.weight"
    disregarded = (r"\.rotary_emb\.inv_freq$",)  # a table that old files hold

    def objections(self, shape: NetworkShape) -> list[str]:
        """What Llama has no way to say."""
        wanted = {
            "positions must be rotary": shape.positions == "rotary",
            "norm must be rms": shape.norm == "rms",
            f"feedforward must be one of {', '.join(ACTIVATIONS)}": shape.feedforward in ACTIVATIONS,
            "qk_norm must be off": not shape.qk_norm,
            "sliding_window must be null": shape.sliding_window is None,
        }
        return [objection for objection, met in wanted.items() if not met]

    def to_config(self, sizes: Sizes) -> dict[str, Any]:
        """Llama's fields."""
        shape = sizes.shape
        return {
            "vocab_size": sizes.vocab_size,
            "max_position_embeddings": sizes.context_length,
            "hidden_size": shape.width,
            "intermediate_size": shape.inner_width,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.query_width,
            "hidden_act": ACTIVATIONS[shape.feedforward],
            "rms_norm_eps": shape.norm_eps,
            "rope_theta": shape.rotary_theta,  # where transformers 4, vLLM and llama.cpp look
            "rope_parameters": {"rope_type": "default", "rope_theta": shape.rotary_theta},  # where transformers 5 looks
            "attention_bias": shape.qkv_bias or shape.out_bias,
            "mlp_bias": shape.feedforward_bias,
            "tie_word_embeddings": shape.tied_embeddings,
        }

    def from_config(self, config: Mapping[str, Any]) -> Sizes:
        """From Llama's fields; those that change the function must have a value we compute."""
        refuse(config, COMPUTED)
        bias = config.get("attention_bias", False)
        shape = NetworkShape(
            num_layers=required(config, "num_hidden_layers"),
            width=required(config, "hidden_size"),
            num_heads=required(config, "num_attention_heads"),
            num_kv_heads=config.get("num_key_value_heads"),
            head_width=config.get("head_dim"),
            feedforward={theirs: ours for ours, theirs in ACTIVATIONS.items()}[config.get("hidden_act", "silu")],
            feedforward_width=required(config, "intermediate_size"),
            norm="rms",
            norm_eps=config.get("rms_norm_eps", 1e-6),
            positions="rotary",
            rotary_theta=_rotary_theta(config),
            qkv_bias=bias,
            out_bias=bias,
            feedforward_bias=config.get("mlp_bias", False),
            tied_embeddings=config.get("tie_word_embeddings", False),
        )
        return Sizes(shape, required(config, "vocab_size"), required(config, "max_position_embeddings"))

    def table(self, sizes: Sizes) -> Iterator[Entry]:
        """Llama's tensors, in the order of the forward pass."""
        shape, width, inner = sizes.shape, sizes.shape.width, sizes.shape.inner_width
        query, key = shape.num_heads * shape.query_width, shape.kv_heads * shape.query_width

        def entry(ours: str, theirs: str, *size: int, present: bool = True) -> Entry:
            return Entry(ours, size, (theirs,), size[:1], absent=not present)

        yield entry("embedding.weight", self.embedding, sizes.vocab_size, width)
        for layer in range(shape.num_layers):
            ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
            rows = (query, key, key)
            yield entry(f"{ours}attention_norm.weight", f"{theirs}input_layernorm.weight", width)
            names = tuple(f"{theirs}self_attn.{part}_proj.weight" for part in "qkv")
            yield Entry(f"{ours}attention.qkv.weight", (sum(rows), width), names, rows)
            yield entry(f"{ours}attention.out.weight", f"{theirs}self_attn.o_proj.weight", width, query)
            if shape.qkv_bias or shape.out_bias:
                names = tuple(f"{theirs}self_attn.{part}_proj.bias" for part in "qkv")
                yield Entry(f"{ours}attention.qkv.bias", (sum(rows),), names, rows, absent=not shape.qkv_bias)
                yield entry(f"{ours}attention.out.bias", f"{theirs}self_attn.o_proj.bias", width, present=shape.out_bias)
            yield entry(f"{ours}feedforward_norm.weight", f"{theirs}post_attention_layernorm.weight", width)
            for part, size in {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}.items():
                yield entry(f"{ours}feedforward.{part}.weight", f"{theirs}mlp.{part}_proj.weight", *size)
                if shape.feedforward_bias:
                    yield entry(f"{ours}feedforward.{part}.bias", f"{theirs}mlp.{part}_proj.bias", size[0])
        yield entry("norm.weight", "model.norm.weight", width)
        if not shape.tied_embeddings:
            yield entry("head.weight", self.head, sizes.vocab_size, width)


def _rotary_theta(config: Mapping[str, Any]) -> float:
    """The base, from transformers 5's `rope_parameters` or the `rope_theta` of those before it; 10,000 when neither is there."""
    parameters = dict(config.get("rope_parameters") or {})
    theta = parameters.pop("rope_theta", config.get("rope_theta", 10000.0))
    if parameters.pop("rope_type", "default") != "default" or parameters:
        raise CheckpointError(f"config.json has rope_parameters: {config['rope_parameters']!r}; supported: rope_type 'default'")
    return float(theta)
