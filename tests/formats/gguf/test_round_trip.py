"""What is written is read back equal, by us, by the package's own reader and by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.chat import ChatTemplate
from framework.chat.templates import CHATML
from framework.errors import CheckpointError
from framework.formats.gguf import Contents, open_gguf, write_gguf
from framework.formats.gguf.pairs import halved, paired
from framework.tokenizers.bpe import BPE

gguf = pytest.importorskip("gguf")
NOT_SAID = {"dtype", "bos_token_id", "eos_token_id", "pad_token_id", "architectures"}  # of the tokenizer, or compared apart


def written(model: Any, tokenizer: BPE, folder: Path, kind: Any = "F32") -> Contents:
    write_gguf(folder / "model.gguf", model.config, model.tensors.items(), tokenizer, None, kind)
    return open_gguf(folder / "model.gguf")


def test_each_architecture(model: Any, tokenizer: BPE, tmp_path: Path) -> None:
    """Config and tensors are the model's: transformers makes of them what it was made of."""
    transformers = pytest.importorskip("transformers")
    read = written(model, tokenizer, tmp_path)
    assert read.config["architectures"] == ["LlamaForCausalLM" if model.name == "mistral" else model.config["architectures"][0]]
    assert sorted(read.names) == sorted(model.tensors)
    for name, tensor in model.tensors.items():
        found = read.tensor(name)
        assert read.shape(name) == tuple(tensor.shape) and read.dtype(name) == found.dtype == torch.float32
        if "gemma" in model.name and name.endswith("norm.weight"):  # stored as 1 + w: all but a rounding of that
            assert (found - tensor).abs().max() <= 2**-23
        else:
            assert torch.equal(found, tensor), name
    config = transformers.AutoConfig.for_model(**read.config)
    again = type(model.network)._from_config(type(model.network.config)(**config.to_dict()) if model.name == "mistral" else config).eval()
    again.load_state_dict({name: read.tensor(name) for name in read.names}, strict=model.config["tie_word_embeddings"] is False)
    ids = torch.randint(0, 280, (1, 96), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (again(ids).logits - model.network(ids).logits).abs().max() < 1e-5
    given = {key: value for key, value in model.config.items() if value is not None}
    for key, value in read.config.items():
        if key in given and key not in NOT_SAID and not key.startswith("rope") and model.name != "mistral":
            assert given[key] == value, key


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("model", ["llama", "qwen2"], indirect=True)
def test_each_type(kind: Any, model: Any, tokenizer: BPE, tmp_path: Path) -> None:
    """Against the package: its reader finds the bytes that its own quantize gives, and we read what its own dequantize gives."""
    read = written(model, tokenizer, tmp_path, kind)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    for theirs, tensor in model.tensors.items():
        name = read._architecture.ours_of(theirs)
        assert name is not None
        matrix = tensor.ndim > 1
        expected_type = (kind if matrix else "F32") if (kind, name) != ("Q4_0", "output.weight") else "Q8_0"
        assert stored[name].tensor_type.name == expected_type
        if model.name == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            tensor = paired(tensor, 4 if "attn_q" in name else 2)
        quantised = gguf.quantize(tensor.numpy(), stored[name].tensor_type)
        assert np.array_equal(stored[name].data.reshape(quantised.shape).view(quantised.dtype), quantised)
        back = torch.from_numpy(gguf.dequantize(stored[name].data, stored[name].tensor_type).copy())
        if model.name == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            back = halved(back, 4 if "attn_q" in name else 2)
        assert torch.equal(read.tensor(theirs).float(), back)
        assert read.dtype(theirs) == {"F16": torch.float16, "BF16": torch.bfloat16}.get(expected_type, torch.float32)


@pytest.mark.parametrize("model", ["llama", "qwen2", "qwen3"], indirect=True)
def test_transformers_opens_it(model: Any, tokenizer: BPE, tmp_path: Path) -> None:
    """Its own reader of GGUF, as far as that knows the architecture."""
    loading = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    written(model, tokenizer, tmp_path)
    again = type(model.network)(model.network.config).eval()
    read = loading.load_gguf_checkpoint(str(tmp_path / "model.gguf"), return_tensors=True, model_to_load=again)
    again.load_state_dict(read["tensors"], strict=not model.config["tie_word_embeddings"])
    for field in ("hidden_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "vocab_size", "max_position_embeddings"):
        assert read["config"][field] == pytest.approx(model.config[field])
    ids = torch.randint(0, 280, (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (again(ids).logits - model.network(ids).logits).abs().max() < 1e-4


def test_the_order_of_rows() -> None:
    """Halves and pairs by hand: two heads of four rows."""
    rows = torch.arange(8.0)[:, None]
    assert paired(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(halved(paired(rows, 2), 2), rows)


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_tokenizer_and_template(model: Any, tokenizer: BPE, tmp_path: Path) -> None:
    template = ChatTemplate.named("chatml", tokenizer)
    write_gguf(tmp_path / "model.gguf", model.config, model.tensors.items(), tokenizer, template, "F32")
    read = open_gguf(tmp_path / "model.gguf")
    found, again = read.tokenizer(), read.template()
    assert again is not None and again.source == CHATML
    assert dict(found.special_tokens) == dict(tokenizer.special_tokens)
    assert (found.eos_id, found.pad_id, found.bos_id, found.vocab_size) == (tokenizer.eos_id, tokenizer.pad_id, None, 284)
    assert read.generation["eos_token_id"] == sorted([tokenizer.eos_id, tokenizer.special_tokens["<|im_end|>"]])
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "llama-bpe"
    assert fields["tokenizer.ggml.tokens"].contents()[-1] == "[PAD287]"  # llama.cpp wants as many as the embedding has rows


def refused(model: Any, tokenizer: BPE, folder: Path, message: str, kind: Any = "F32", **changed: Any) -> None:
    tensors = changed.pop("tensors", model.tensors)
    (folder / "model.gguf").write_bytes(b"before")
    with pytest.raises(CheckpointError, match=message):
        write_gguf(folder / "model.gguf", {**model.config, **changed}, tensors.items(), tokenizer, None, kind)
    assert [file.name for file in folder.iterdir()] == ["model.gguf"] and (folder / "model.gguf").read_bytes() == b"before"


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_what_cannot_be_written(model: Any, tokenizer: BPE, tmp_path: Path) -> None:
    large = {**model.tensors, "lm_head.weight": model.tensors["lm_head.weight"] * 1e6}
    nan = {**model.tensors, "model.norm.weight": torch.full((64,), float("nan"))}
    without = {name: tensor for name, tensor in model.tensors.items() if name != "lm_head.weight"}
    refused(model, tokenizer, tmp_path, "BloomForCausalLM cannot be written as GGUF", architectures=["BloomForCausalLM"])
    refused(model, tokenizer, tmp_path, "has no hidden_act 'relu'", hidden_act="relu")
    refused(model, tokenizer, tmp_path, "cannot say the rope_parameters dynamic", rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    refused(model, tokenizer, tmp_path, "no place for the tensor visual.weight", tensors={**model.tensors, "visual.weight": torch.ones(2)})
    refused(model, tokenizer, tmp_path, "tie_word_embeddings false, and the tensor lm_head.weight is missing", tensors=without)
    refused(model, tokenizer, tmp_path, "more than F16 can; write BF16 or F32", kind="F16", tensors=large)
    refused(model, tokenizer, tmp_path, "model.norm.weight holds NaN", tensors=nan)
    refused(model, tokenizer, tmp_path, "are written in F32, F16, .*, not in Q4_K", kind="Q4_K")
    refused(model, tokenizer, tmp_path, "284 ids and the embedding 100 rows", vocab_size=100)


@pytest.mark.parametrize("model", ["mistral"], indirect=True)
def test_a_window_that_llama_cpp_does_not_know(model: Any, tokenizer: BPE, tmp_path: Path) -> None:
    """A Mistral's: the context ends where the window does, so that nothing is computed otherwise; it reads back as a Mistral."""
    with pytest.warns(UserWarning, match="without its sliding window of 32 tokens"):
        write_gguf(tmp_path / "m.gguf", {**model.config, "sliding_window": 32}, model.tensors.items(), tokenizer, None, "F32")
    read = open_gguf(tmp_path / "m.gguf").config
    assert (read["architectures"], read["sliding_window"], read["max_position_embeddings"]) == (["MistralForCausalLM"], 32, 32)


@pytest.mark.parametrize("number", sorted(gguf.quants._type_traits))
@pytest.mark.parametrize("model", ["qwen2"], indirect=True)
def test_every_quantised_type(number: int, model: Any, tokenizer: BPE, tmp_path: Path) -> None:
    """Random bytes in each type that the package dequantises: the same numbers bit for bit."""
    kind = gguf.GGMLQuantizationType(number)
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(0).integers(0, 256, (3, 2 * block_bytes), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "qwen2")
    metadata = gguf.GGUFReader(_any(model, tokenizer, tmp_path)).fields
    for key, field in metadata.items():
        if key.startswith("qwen2."):
            writer.add_key_value(key, field.contents(), field.types[0])
    writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with np.errstate(all="ignore"):
        found = open_gguf(tmp_path / "one.gguf").tensor("model.embed_tokens.weight")
        expected = gguf.dequantize(data, kind)
    assert found.shape == (3, 2 * per_block)
    assert np.array_equal(found.float().numpy(), expected, equal_nan=True)


def _any(model: Any, tokenizer: BPE, folder: Path) -> Path:
    write_gguf(folder / "any.gguf", model.config, model.tensors.items(), tokenizer, None, "F32")
    return folder / "any.gguf"
