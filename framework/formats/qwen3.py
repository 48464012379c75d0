"""Qwen3ForCausalLM: Llama with queries and keys normalised head by head, and windows from some layer on."""

from __future__ import annotations

from framework.formats.fields import Activation, AttentionBias
from framework.formats.layers import WindowsFrom
from framework.formats.llama_shaped import LlamaShaped
from framework.formats.qwen2 import WINDOW_DEFAULTS
from framework.formats.rotary import Rotary


class Qwen3(LlamaShaped):
    """Hugging Face's Qwen3."""

    architecture = "Qwen3ForCausalLM"
    model_type = "qwen3"
    fields = (Activation(), Rotary(), AttentionBias(), WindowsFrom("use_sliding_window"))
    settled = {"qk_norm": True}
    defaults = {"num_key_value_heads": 32, "head_dim": 128, **WINDOW_DEFAULTS}
