"""The architectures of GGUF files that are known here, each as a table: names of tensors, fields of config.json, changes of values.

Nothing flows; these are data. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# GGUF's key below the architecture's name -> field of config.json
SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Architecture:
    """One of GGUF's architectures and the one of Hugging Face's that it is.

    Args:
        name: `general.architecture`.
        theirs: in config.json's "architectures".
        model_type: config.json's "model_type".
        outside, block: GGUF's name of a tensor, without ending -> Hugging Face's; block's are below the layer.
        layer: what precedes the names of a layer's tensors in Hugging Face's.
        also: further classes of Hugging Face's that are written as this one.
        sizes: GGUF's key of a whole number -> field of config.json.
        reals: GGUF's key of a float -> field of config.json; null where the key is not there.
        epsilon: GGUF's key and config.json's field of the norms' epsilon.
        implied: fields of config.json with the values that the architecture computes, the first of which is read.
        paired: rows of queries and keys are interleaved pairs, where Hugging Face has halves.
        norm_plus_one: norms are stored with the 1 that Hugging Face adds when it computes.
        transposed: Hugging Face's names of matrices that it stores as [in, out].
        rotary: has rotary positions.
        window_every: every layer has a sliding window but each that many'th; 0: the architecture has none; 1: all have it.
        local_theta: base of the rotary wavelengths in layers with a window, where it is another; GGUF leaves it out.
        scale_exception: with so many layers attention is scaled by hidden_size / heads, not by head_dim.
        tied: has no output matrix of its own.
    """

    name: str
    theirs: str
    model_type: str
    outside: Mapping[str, str] = field(default_factory=lambda: OUTSIDE)
    block: Mapping[str, str] = field(default_factory=lambda: BLOCK)
    layer: str = "model.layers."
    also: tuple[str, ...] = ()
    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    reals: Mapping[str, str] = field(default_factory=dict)
    epsilon: tuple[str, str] = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
    implied: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    paired: bool = False
    norm_plus_one: bool = False
    transposed: tuple[str, ...] = ()
    rotary: bool = True
    window_every: int = 0
    local_theta: float | None = None
    scale_exception: int | None = None
    tied: bool = False

    def theirs_of(self, name: str) -> str | None:
        """Hugging Face's name of a tensor of GGUF's; None if the architecture has none of that name."""
        stem, _, ending = name.rpartition(".")
        if ending not in ("weight", "bias"):
            return None
        if stem.startswith("blk."):
            _, layer, *inner = stem.split(".")
            found = self.block.get(".".join(inner))
            return None if found is None or not layer.isdecimal() else f"{self.layer}{int(layer)}.{found}.{ending}"
        found = self.outside.get(stem)
        return None if found is None else f"{found}.{ending}"

    def ours_of(self, name: str) -> str | None:
        """GGUF's name of a tensor of Hugging Face's; None if the architecture has none of that name."""
        stem, _, ending = name.rpartition(".")
        if stem.startswith(self.layer):
            layer, _, inner = stem.removeprefix(self.layer).partition(".")
            found = next((ours for ours, theirs in self.block.items() if theirs == inner), None)
            return None if found is None else f"blk.{layer}.{found}.{ending}"
        found = next((ours for ours, theirs in self.outside.items() if theirs == stem), None)
        return None if found is None else f"{found}.{ending}"

    def layer_types(self, num_layers: int) -> list[str] | None:
        """config.json's "layer_types"; None for an architecture whose layers are all alike."""
        if self.window_every < 2:
            return None
        return ["full_attention" if (layer + 1) % self.window_every == 0 else "sliding_attention" for layer in range(num_layers)]


SILU = {"hidden_act": ("silu",)}
GEMMA_GELU = {"hidden_activation": ("gelu_pytorch_tanh", None), "hidden_act": ("gelu_pytorch_tanh", "gelu")}
NO_WINDOW = {"use_sliding_window": (False,)}
NO_BIAS = {"attention_bias": (False,)}

ARCHITECTURES = (
    Architecture(
        "llama",
        "LlamaForCausalLM",
        "llama",
        also=("MistralForCausalLM",),  # one of these where there is a window
        implied={**SILU, "pretraining_tp": (1,)},
        paired=True,
    ),
    Architecture("qwen2", "Qwen2ForCausalLM", "qwen2", implied={**SILU, **NO_WINDOW}),
    Architecture("qwen3", "Qwen3ForCausalLM", "qwen3", block=BLOCK | QK_NORM, implied={**SILU, **NO_WINDOW, **NO_BIAS}),
    Architecture("gemma", "GemmaForCausalLM", "gemma", implied={**GEMMA_GELU, **NO_BIAS}, norm_plus_one=True, tied=True),
    Architecture(
        "gemma2",
        "Gemma2ForCausalLM",
        "gemma2",
        block=BLOCK | FOUR_NORMS,
        reals={"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"},
        implied={**GEMMA_GELU, **NO_BIAS},
        norm_plus_one=True,
        window_every=2,
        scale_exception=46,
        tied=True,
    ),
    Architecture(
        "gemma3",
        "Gemma3ForCausalLM",
        "gemma3_text",
        block=BLOCK | FOUR_NORMS | QK_NORM,
        reals={"final_logit_softcapping": "final_logit_softcapping"},
        implied={**GEMMA_GELU, **NO_BIAS, "attn_logit_softcapping": (None,), "use_bidirectional_attention": (False,)},
        norm_plus_one=True,
        window_every=6,
        local_theta=10000.0,
        scale_exception=62,
        tied=True,
    ),
    Architecture(
        "phi3",
        "Phi3ForCausalLM",
        "phi3",
        block={
            "attn_norm": "input_layernorm",
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        implied={**SILU, **NO_BIAS},
        window_every=1,
    ),
    Architecture(
        "gpt2",
        "GPT2LMHeadModel",
        "gpt2",
        outside={
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
            "output": "lm_head",
        },
        block={
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        layer="transformer.h.",
        sizes={
            "block_count": "n_layer",
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
        },
        epsilon=("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        implied={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
        },
        transposed=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
        rotary=False,
    ),
    Architecture("smollm3", "SmolLM3ForCausalLM", "smollm3", implied={**SILU, **NO_WINDOW, "no_rope_layer_interval": (4,)}, paired=True),
)
