"""glassllm, a small trained model of somebody else's, as a Hugging Face directory: its own forward and tokenizer are the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

NAMES = {  # the package's -> Hugging Face's, within a layer; matrices are stored [in, out] there
    "norm1.gamma": "input_layernorm.weight",
    "attn.W_Q": "self_attn.q_proj.weight",
    "attn.W_K": "self_attn.k_proj.weight",
    "attn.W_V": "self_attn.v_proj.weight",
    "attn.W_O": "self_attn.o_proj.weight",
    "norm2.gamma": "post_attention_layernorm.weight",
    "ffn.W1": "mlp.gate_proj.weight",
    "ffn.W3": "mlp.up_proj.weight",
    "ffn.W2": "mlp.down_proj.weight",
}
TEMPLATE = (
    "{% for message in messages %}{{ '<bos>' + message['role'] + '\\n' + message['content'] + '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos>assistant\\n' }}{% endif %}"
)


class Glass(NamedTuple):
    """The package's model and tokenizer, and the directory made of them."""

    model: Any
    tokenizer: Any
    directory: Path


@pytest.fixture(scope="session")
def glass(tmp_path_factory: pytest.TempPathFactory) -> Glass:
    glassllm = pytest.importorskip("glassllm")
    model, tokenizer = glassllm.load_pretrained("en")
    directory = tmp_path_factory.mktemp("published") / "glass"
    directory.mkdir()
    save_file(weights(model), directory / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.cfg.vocab_size,
        "hidden_size": model.cfg.d_model,
        "intermediate_size": model.blocks[0].ffn.W1.shape[1],
        "num_hidden_layers": model.cfg.n_layers,
        "num_attention_heads": model.cfg.n_heads,
        "num_key_value_heads": model.cfg.n_kv_heads,
        "max_position_embeddings": model.cfg.max_len,
        "rms_norm_eps": model.cfg.eps,
        "rope_theta": model.cfg.rope_base,
        "tie_word_embeddings": True,
        "eos_token_id": 3,
    }
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)))
    class_of_it = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, "add_bos_token": False}
    (directory / "tokenizer_config.json").write_text(json.dumps({**special, **class_of_it, "chat_template": TEMPLATE}))
    (directory / "README.md").write_text("---\nlicense: mit\n---\n# glass\n")
    return Glass(model, tokenizer, directory)


def weights(model: Any) -> dict[str, torch.Tensor]:
    """By Hugging Face's names."""
    tensors = {"model.embed_tokens.weight": torch.from_numpy(model.E.data), "model.norm.weight": torch.from_numpy(model.norm_f.gamma.data)}
    for layer, block in enumerate(model.blocks):
        for name, parameter in block.named_parameters().items():
            tensor = torch.from_numpy(parameter.data.T)
            turned = name in ("attn.W_Q", "attn.W_K")
            tensors[f"model.layers.{layer}.{NAMES[name]}"] = (halves(tensor, block.attn.d_k) if turned else tensor).contiguous()
    return tensors


def halves(rows: torch.Tensor, width: int) -> torch.Tensor:
    """Rows of heads: the package turns neighbours by one angle, Hugging Face the first half with the second."""
    return rows.reshape(-1, width // 2, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def tokenizer_json(tokenizer: Any) -> dict[str, Any]:
    """Its character BPE, as the tokenizers library writes one."""
    vocab = {token: number for number, token in enumerate(tokenizer.vocab)}
    added = [
        {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for number, token in enumerate(tokenizer.vocab[:4])
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
        },
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\n|▁*[^▁\n]+|▁+"}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in tokenizer.merges],
        },
    }


@pytest.fixture
def altered(glass: Glass, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the directory with one thing changed: a tensor by a function, or a field of a JSON file."""
    import shutil

    from safetensors.torch import load_file

    def alter(tensor: str | None = None, change: Any = None, file: str | None = None, **fields: Any) -> Path:
        place = tmp_path / "altered"
        shutil.copytree(glass.directory, place)
        if tensor is not None:
            tensors = load_file(place / "model.safetensors")
            tensors[tensor] = change(tensors[tensor].clone()).contiguous()
            save_file(tensors, place / "model.safetensors", {"format": "pt"})
        if file is not None:
            content = json.loads((place / file).read_text()) if (place / file).is_file() else {}
            (place / file).write_text(json.dumps(content | fields))
        return place

    return alter
