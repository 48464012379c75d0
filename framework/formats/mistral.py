"""MistralForCausalLM: Llama without biases, with a sliding window in every layer."""

from __future__ import annotations

from framework.formats.fields import Activation, Same
from framework.formats.llama_shaped import LlamaShaped
from framework.formats.rotary import Rotary


class Mistral(LlamaShaped):
    """Hugging Face's Mistral."""

    architecture = "MistralForCausalLM"
    model_type = "mistral"
    fields = (Activation(), Rotary(), Same({"sliding_window": "sliding_window"}))
    defaults = {"num_key_value_heads": 8, "sliding_window": 4096}
