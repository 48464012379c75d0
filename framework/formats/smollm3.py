"""SmolLM3ForCausalLM: Llama with layers that leave positions out, usually every fourth."""

from __future__ import annotations

from framework.formats.fields import Activation, AttentionBias, Same
from framework.formats.layers import Unrotated, WindowsUnrotated
from framework.formats.llama_shaped import LlamaShaped
from framework.formats.rotary import Rotary


class SmolLM3(LlamaShaped):
    """Hugging Face's SmolLM3."""

    architecture = "SmolLM3ForCausalLM"
    model_type = "smollm3"
    fields = (
        Activation(),
        Rotary(),
        AttentionBias(),
        Same({"feedforward_bias": "mlp_bias"}),
        Unrotated(),
        WindowsUnrotated("use_sliding_window"),
    )
    defaults = {"num_key_value_heads": 4, "no_rope_layer_interval": 4, "rope_theta": 2e6, "tie_word_embeddings": True}
