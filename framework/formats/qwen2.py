"""Qwen2ForCausalLM (Qwen2, Qwen2.5): Llama with biases on queries, keys and values, and windows from some layer on."""

from __future__ import annotations

from framework.formats.fields import Activation
from framework.formats.layers import WindowsFrom
from framework.formats.llama_shaped import LlamaShaped
from framework.formats.rotary import Rotary

WINDOW_DEFAULTS = {"sliding_window": 4096, "max_window_layers": 28}


class Qwen2(LlamaShaped):
    """Hugging Face's Qwen2."""

    architecture = "Qwen2ForCausalLM"
    model_type = "qwen2"
    fields = (Activation(), Rotary(), WindowsFrom("use_sliding_window"))
    settled = {"qkv_bias": True}
    defaults = {"num_key_value_heads": 32, **WINDOW_DEFAULTS}
