"""Gemma2ForCausalLM: Gemma with norms after attention and feed-forward too, capped scores and logits, and windows in every other layer."""

from __future__ import annotations

from framework.formats import gemma
from framework.formats.fields import Activation, AttentionBias, Same, ScaleWidth
from framework.formats.layers import WindowsButEvery
from framework.formats.llama_shaped import LlamaShaped
from framework.formats.rotary import Rotary


class Gemma2(LlamaShaped):
    """Hugging Face's Gemma 2."""

    architecture = "Gemma2ForCausalLM"
    model_type = "gemma2"
    fields = (
        Activation("hidden_activation"),
        Rotary(),
        AttentionBias(),
        ScaleWidth(),
        Same({"attention_softcap": "attn_logit_softcapping", "logit_softcap": "final_logit_softcapping"}),
        WindowsButEvery(2),
    )
    settled = {**gemma.SETTLED, "output_norms": True}
    defaults = {
        **gemma.DEFAULTS,
        "num_key_value_heads": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    }
    computed = {"use_bidirectional_attention": (None, False)}
