"""GemmaForCausalLM: Llama with norms that scale by 1 + weight, scaled embeddings and a feed-forward gated by GELU."""

from __future__ import annotations

from typing import Any

from framework.formats.fields import Activation, AttentionBias
from framework.formats.llama_shaped import LlamaShaped
from framework.formats.rotary import Rotary

SETTLED: dict[str, Any] = {"norm": "rms_plus_one", "scaled_embeddings": True}  # in every Gemma
DEFAULTS: dict[str, Any] = {"head_dim": 256, "tie_word_embeddings": True}


class Gemma(LlamaShaped):
    """Hugging Face's Gemma."""

    architecture = "GemmaForCausalLM"
    model_type = "gemma"
    fields = (Activation(gelu_is_tanh=True), Rotary(), AttentionBias())
    settled = SETTLED
    defaults = {**DEFAULTS, "num_key_value_heads": 16, "hidden_act": "gelu_pytorch_tanh"}
    computed = {"hidden_activation": (None, "gelu_pytorch_tanh"), "use_bidirectional_attention": (None, False)}
