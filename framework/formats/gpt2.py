"""GPT2LMHeadModel: learned positions, LayerNorm, biases, matrices stored [in, out] (Conv1D) and query, key, value fused as ours.

A GPT-2-shaped network without biases is expressed by zero biases, which is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from framework.errors import CheckpointError
from framework.formats.base import Entry, Format, Sizes, refuse, required, unexpressed
from framework.networks.shape import FeedForwardKind, NetworkShape

ACTIVATIONS: dict[FeedForwardKind, str] = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "relu2": "relu2"}
ALIASES = {"gelu_pytorch_tanh": "gelu_new"}
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
SAID = {  # fields of the shape that its config has words for, or that its tensors show
    *("num_layers", "width", "num_heads", "num_kv_heads", "head_width", "feedforward", "feedforward_width", "norm_eps", "rotary_theta"),
    *("qkv_bias", "out_bias", "feedforward_bias", "norm_bias", "tied_embeddings", "dropout"),
}
COMPUTED = {  # fields that change the function, and the values we compute
    "activation_function": (*ACTIVATIONS.values(), *ALIASES),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


class GPT2(Format):
    """Hugging Face's GPT-2."""

    architecture = "GPT2LMHeadModel"
    model_type = "gpt2"
    embedding = "transformer.wte.weight"
    disregarded = (r"\.attn\.(masked_)?bias$",)  # the causal mask, which old files hold

    def objections(self, shape: NetworkShape) -> list[str]:
        """What GPT-2 has no way to say."""
        wanted = {
            f"feedforward must be one of {', '.join(ACTIVATIONS)}": shape.feedforward in ACTIVATIONS,
            "every head must have its own keys and values": shape.kv_heads == shape.num_heads,
            "head_width must be width / num_heads": shape.query_width * shape.num_heads == shape.width,
        }
        return [objection for objection, met in wanted.items() if not met] + unexpressed(shape, SAID, {})

    def to_config(self, sizes: Sizes) -> dict[str, Any]:
        """GPT-2's fields."""
        shape = sizes.shape
        return {
            "vocab_size": sizes.vocab_size,
            "n_positions": sizes.context_length,
            "n_embd": shape.width,
            "n_layer": shape.num_layers,
            "n_head": shape.num_heads,
            "n_inner": shape.inner_width,
            "activation_function": ACTIVATIONS[shape.feedforward],
            "layer_norm_epsilon": shape.norm_eps,
            "tie_word_embeddings": shape.tied_embeddings,
            **dict.fromkeys(DROPOUTS, shape.dropout),
        }

    def from_config(self, config: Mapping[str, Any]) -> Sizes:
        """From GPT-2's fields; those that change the function must have a value we compute."""
        refuse(config, COMPUTED)
        dropouts = {config.get(name, 0.1) for name in DROPOUTS}  # 0.1 is what the architecture takes for a missing one
        if len(dropouts) > 1:
            raise CheckpointError(f"config.json has different {', '.join(DROPOUTS)}; supported: one value for all three")
        activation = config.get("activation_function", "gelu_new")
        shape = NetworkShape(
            num_layers=required(config, "n_layer"),
            width=required(config, "n_embd"),
            num_heads=required(config, "n_head"),
            feedforward={theirs: ours for ours, theirs in ACTIVATIONS.items()}[ALIASES.get(activation, activation)],
            feedforward_width=config.get("n_inner"),
            norm_eps=config.get("layer_norm_epsilon", 1e-5),
            qkv_bias=True,
            out_bias=True,
            feedforward_bias=True,
            norm_bias=True,
            tied_embeddings=config.get("tie_word_embeddings", True),
            dropout=dropouts.pop(),
        )
        return Sizes(shape, required(config, "vocab_size"), required(config, "n_positions"))

    def table(self, sizes: Sizes) -> Iterator[Entry]:
        """GPT-2's tensors, in the order of the forward pass."""
        shape, width, inner = sizes.shape, sizes.shape.width, sizes.shape.inner_width

        def entry(ours: str, theirs: str, *size: int, present: bool = True) -> Entry:
            transposed = theirs.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
            return Entry(ours, size, (theirs,), size[:1], transposed, absent=not present)

        yield entry("embedding.weight", self.embedding, sizes.vocab_size, width)
        yield entry("position_embedding.weight", "transformer.wpe.weight", sizes.context_length, width)
        for layer in range(shape.num_layers):
            ours, theirs = f"blocks.{layer}.", f"transformer.h.{layer}."
            yield entry(f"{ours}attention_norm.weight", f"{theirs}ln_1.weight", width)
            yield entry(f"{ours}attention_norm.bias", f"{theirs}ln_1.bias", width, present=shape.norm_bias)
            yield entry(f"{ours}attention.qkv.weight", f"{theirs}attn.c_attn.weight", 3 * width, width)
            yield entry(f"{ours}attention.qkv.bias", f"{theirs}attn.c_attn.bias", 3 * width, present=shape.qkv_bias)
            yield entry(f"{ours}attention.out.weight", f"{theirs}attn.c_proj.weight", width, width)
            yield entry(f"{ours}attention.out.bias", f"{theirs}attn.c_proj.bias", width, present=shape.out_bias)
            yield entry(f"{ours}feedforward_norm.weight", f"{theirs}ln_2.weight", width)
            yield entry(f"{ours}feedforward_norm.bias", f"{theirs}ln_2.bias", width, present=shape.norm_bias)
            yield entry(f"{ours}feedforward.up.weight", f"{theirs}mlp.c_fc.weight", inner, width)
            yield entry(f"{ours}feedforward.up.bias", f"{theirs}mlp.c_fc.bias", inner, present=shape.feedforward_bias)
            yield entry(f"{ours}feedforward.down.weight", f"{theirs}mlp.c_proj.weight", width, inner)
            yield entry(f"{ours}feedforward.down.bias", f"{theirs}mlp.c_proj.bias", width, present=shape.feedforward_bias)
        yield entry("norm.weight", "transformer.ln_f.weight", width)
        yield entry("norm.bias", "transformer.ln_f.bias", width, present=shape.norm_bias)
        if not shape.tied_embeddings:
            yield entry("head.weight", self.head, sizes.vocab_size, width)

    def renamed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With the prefix that OpenAI's own files leave out."""
        bare = "wte.weight" in tensors
        return {f"transformer.{name}" if bare and name != self.head else name: tensor for name, tensor in tensors.items()}
