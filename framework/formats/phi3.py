"""Phi3ForCausalLM: Llama with query, key and value in one matrix, gate and up in another, and a sliding window in every layer.

Its scaled frequencies (longrope) turn a token otherwise once the sequence has grown, which no cache of keys can follow: refused.
"""

from __future__ import annotations

from framework.formats.fields import Activation, Same
from framework.formats.llama_shaped import LlamaShaped
from framework.formats.rotary import Rotary


class Phi3(LlamaShaped):
    """Hugging Face's Phi-3."""

    architecture = "Phi3ForCausalLM"
    model_type = "phi3"
    fields = (Activation(), Rotary(scales=False), Same({"sliding_window": "sliding_window"}))
    defaults = {"rms_norm_eps": 1e-5}
    computed = {"resid_pdrop": (0,), "embd_pdrop": (0,)}
    is_fused = True
