"""LlamaForCausalLM: Llama 2 and 3, SmolLM2, TinyLlama and others of that shape."""

from __future__ import annotations

from framework.formats.fields import Activation, AttentionBias, Same
from framework.formats.llama_shaped import LlamaShaped
from framework.formats.rotary import Rotary


class Llama(LlamaShaped):
    """Hugging Face's Llama."""

    architecture = "LlamaForCausalLM"
    model_type = "llama"
    fields = (Activation(), Rotary(), AttentionBias(), Same({"feedforward_bias": "mlp_bias"}))
    computed = {"pretraining_tp": (1,)}
