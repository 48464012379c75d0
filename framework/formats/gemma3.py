"""Gemma3ForCausalLM, the text models: Gemma 2 with normalised queries and keys in place of capped scores, and two kinds of layers.

Layers with a window turn positions by a base of their own; usually every sixth layer sees everything.
"""

from __future__ import annotations

from framework.formats import gemma
from framework.formats.fields import Activation, AttentionBias, Same, ScaleWidth
from framework.formats.layers import WindowsButEvery
from framework.formats.llama_shaped import LlamaShaped
from framework.formats.rotary import LayeredRotary


class Gemma3(LlamaShaped):
    """Hugging Face's Gemma 3 for text alone."""

    architecture = "Gemma3ForCausalLM"
    model_type = "gemma3_text"
    fields = (
        Activation("hidden_activation"),
        LayeredRotary(),
        AttentionBias(),
        ScaleWidth(),
        Same({"logit_softcap": "final_logit_softcapping"}),
        WindowsButEvery("sliding_window_pattern"),
    )
    settled = {**gemma.SETTLED, "output_norms": True, "qk_norm": True}
    defaults = {
        **gemma.DEFAULTS,
        "num_key_value_heads": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0,
    }
    computed = {"attn_logit_softcapping": (None,), "use_bidirectional_attention": (None, False)}
