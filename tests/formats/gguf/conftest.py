"""Small random models of each architecture in transformers' form, and the small tokenizer they are written with."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from framework.tokenizers.bpe import BPE

TEXT = "She sells sea shells by the sea shore; the shells she sells are sea shells, I'm sure.\n" * 5
SIZES = {
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 32
FACTORS = {"long_factor": [1.0 + i / 4 for i in range(8)], "short_factor": [1.0 + i / 16 for i in range(8)]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> class of transformers', arguments of its config
    "llama": ("Llama", {"tie_word_embeddings": False, "rms_norm_eps": 1e-5}),
    "llama-tied-bias": ("Llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "head_dim": 32}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma": ("Gemma", {"head_dim": 32}),
    "gemma2": ("Gemma2", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
    "gemma3": ("Gemma3", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "num_hidden_layers": 7}),
    "phi3": ("Phi3", {"pad_token_id": 0, "sliding_window": None}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 5, "pad_token_id": 0}),
    "gpt2": ("GPT2", {}),
}


@pytest.fixture(scope="session")
def tokenizer() -> BPE:
    return BPE.train([TEXT], vocab_size=284)  # fewer than the embedding's rows


class Model(NamedTuple):
    """A model of transformers', and what save_pretrained would write of it."""

    name: str
    network: Any
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]


@pytest.fixture(scope="session", params=CASES)
def model(request: pytest.FixtureRequest) -> Model:
    """Each of CASES, its weights drawn so that attention and norms matter."""
    transformers = pytest.importorskip("transformers")
    kind, arguments = CASES[request.param]
    sizes = SIZES if kind != "GPT2" else {"vocab_size": 288, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256}
    config_class = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    model_class = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    config = getattr(transformers, config_class)(**{**sizes, **arguments})
    torch.manual_seed(0)
    network = getattr(transformers, model_class)(config).eval()
    for name, parameter in network.named_parameters():
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        torch.nn.init.normal_(parameter, 1.0 if is_norm and "Gemma" not in kind else 0.0, 0.15)
    tensors = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return Model(request.param, network, {**config.to_dict(), "architectures": [model_class]}, tensors)
