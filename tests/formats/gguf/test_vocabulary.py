"""Tokenizers there and back: which pre-tokenizer fits, what GGUF cannot express, what is damaged."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from framework.errors import CheckpointError, TokenizerError
from framework.formats.gguf import open_gguf, write_gguf
from framework.formats.gguf.rope import llama3_factors
from framework.formats.gguf.spelled import write_tokenizer
from framework.formats.gguf.splits import SPLITS
from framework.testing.tokenizers import TEXTS, random_texts
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte
from framework.tokenizers.character import Character
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.patterns import SPLIT_PATTERNS
from framework.tokenizers.pieces import Pieces
from framework.tokenizers.sentencepiece import sentencepiece

gguf = pytest.importorskip("gguf")
LINES = ["She sells 12345 sea shells, I'M sure\n\n  x = {'a': 1}\t# naïve 日本語 é", "by the   sea-shore; HTTPServer/path"] * 20
Edit = Callable[[dict[str, Any]], None]


def write(tokenizer: Tokenizer, file: Path, edit: Edit = lambda metadata: None) -> Path:
    """The smallest model there is, with this tokenizer; its metadata changed by `edit`."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8}
    rows = tokenizer.vocab_size + 2
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": rows, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, **sizes}
    tensors = {"model.embed_tokens.weight": torch.zeros(rows, 32), "model.norm.weight": torch.zeros(32)}
    write_gguf(file, config, tensors.items(), tokenizer, None, "F32")
    reader = gguf.GGUFReader(file)
    metadata = {key: (field.contents(), field.types) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    edit(metadata)
    writer = gguf.GGUFWriter(file.with_name("edited.gguf"), "llama")
    for key, (value, types) in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType(types[0]))
    writer.add_tensor("token_embd.weight", torch.zeros(rows, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.with_name("edited.gguf")


def set_to(name: str, value: Any) -> Edit:
    return lambda metadata: metadata.update({f"tokenizer.ggml.{name}": (value, metadata.get(f"tokenizer.ggml.{name}", (0, [8]))[1])})


def test_every_pattern_of_ours_has_a_name() -> None:
    assert set(SPLIT_PATTERNS.values()) <= {split.patterns[0] for split in SPLITS.values() if len(split.patterns) == 1}


@pytest.mark.parametrize(("pattern", "name"), [("gpt2", "gpt-2"), ("gpt4", "llama-bpe"), ("gpt4o", "gpt-4o")])
def test_our_own_bpe(pattern: str, name: str, tmp_path: Path) -> None:
    tokenizer = BPE.train(LINES, 300, pattern=pattern)
    read = open_gguf(write(tokenizer, tmp_path / "x.gguf")).tokenizer()
    assert gguf.GGUFReader(tmp_path / "x.gguf").fields["tokenizer.ggml.pre"].contents() == name
    assert dict(read.special_tokens) == dict(tokenizer.special_tokens)
    for text in [*TEXTS, *LINES[:2], *random_texts(200)]:
        assert read.encode(text) == tokenizer.encode(text)


def test_bytes(tmp_path: Path) -> None:
    """No merges at all, which the format has no way to say."""
    read = open_gguf(write(Byte(), tmp_path / "x.gguf")).tokenizer()
    for text in [*TEXTS, *random_texts(50)]:
        assert read.encode(text) == Byte().encode(text)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix: bool, tmp_path: Path) -> None:
    """A model's pieces come back as they were: kinds, order of scores, defined symbols with spaces in them."""
    library = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(LINES).splitlines()),
        model_writer=model,
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        user_defined_symbols=["<tool>", "▁▁▁▁"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "x.model").write_bytes(model.getvalue())
    tokenizer = sentencepiece(tmp_path / "x.model")
    read = open_gguf(write(tokenizer, tmp_path / "x.gguf")).tokenizer()
    assert (read.bos_id, read.eos_id, dict(read.special_tokens)) == (1, 2, dict(tokenizer.special_tokens))
    original = library.SentencePieceProcessor(model_proto=model.getvalue())
    for text in [*TEXTS, *LINES[:2], "a<tool>  b", " " * 11 + "x", *random_texts(200)]:
        assert read.encode(text) == tokenizer.encode(text) == original.encode(text)


def characters(folder: Path) -> Tokenizer:
    return Character().prepare(lambda: ["abc"], "x", folder)


def other_split(folder: Path) -> Tokenizer:
    return BPE.train(LINES, 300, pattern=r"\p{L}{1,2}|[^\p{L}]+")


def normalized(folder: Path) -> Tokenizer:
    BPE.train(LINES, 300).save(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    return HuggingFace.of({**content, "normalizer": {"type": "NFC"}}, {"eos_token": "<|endoftext|>"}, "test")


def unigram(folder: Path) -> Tokenizer:
    pieces = Pieces(["<unk>", "</s>", "a", "b", "▁"], [0.0, 0.0, -1.0, -1.0, -1.0], [2, 3, 1, 1, 1], "unigram", False)
    return HuggingFace.of(pieces.to_json(), {"eos_token": "</s>", "unk_token": "<unk>"}, "test")


def other_order(folder: Path) -> Tokenizer:
    """A BPE over characters in which two merges make one token, with another's between them: no scores say that."""
    vocab = {"</s>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}, "a": 257, "aa": 258, "b": 259, "ab": 260, "aaa": 261}
    library = Library(models.BPE(vocab, [("a", "aa"), ("a", "b"), ("a", "a"), ("aa", "a")], byte_fallback=True))
    library.normalizer, library.decoder = normalizers.Replace(" ", "▁"), decoders.ByteFallback()
    library.add_special_tokens(["</s>"])
    return HuggingFace.of(json.loads(library.to_str()), {"eos_token": "</s>"}, "test")


def punctuation(folder: Path) -> Tokenizer:
    found = other_order(folder)
    assert isinstance(found, HuggingFace)
    library = Library.from_str(json.dumps({**found._content, "model": {**found._content["model"], "merges": []}}))
    library.pre_tokenizer = pre_tokenizers.Punctuation()
    return HuggingFace.of(json.loads(library.to_str()), {"eos_token": "</s>"}, "test")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (characters, "its tokens are neither bytes nor SentencePiece's; train BPE, or take Byte"),
        (other_split, "GGUF has no name for how this tokenizer splits text"),
        (normalized, "it changes texts first, by NFC"),
        (unigram, "cannot express a Unigram tokenizer"),
        (other_order, "its merges are not in the order of one score for each token"),
        (punctuation, "it changes texts first, by Replace"),
    ],
)
def test_what_cannot_be_expressed(make: Callable[[Path], Tokenizer], message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=message):
        write_tokenizer(make(tmp_path), 1000, None)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_to("model", "t5"), "its tokenizer is of the model t5; known: gpt2"),
        (set_to("pre", "kimi-k2"), "its pre-tokenizer is kimi-k2; known: gpt-2, llama-bpe"),
        (set_to("merges", ["", "xyz zyx"]), "has xyz zyx, which are no two tokens that make one"),
        (set_to("merges", ["ab"]), "has ab, which are no two tokens"),
        (set_to("tokens", ["a"] * 302), "token.* twice|outside the 302 tokens"),
        (set_to("token_type", [1, 2]), "token_type has 2 numbers, tokenizer.ggml.tokens 302"),
        (set_to("token_type", [9] * 302), "token_type holds 9, which is no kind of token"),
        (set_to("eos_token_id", 5000), "eos_token_id is 5000, outside the 302 tokens"),
        (lambda metadata: metadata.pop("tokenizer.ggml.tokens"), "it has no tokenizer.ggml.tokens"),
        (lambda metadata: metadata.pop("tokenizer.ggml.eos_token_id"), "names no end-of-document token"),
    ],
)
def test_damaged_metadata(edit: Edit, message: str, tmp_path: Path) -> None:
    contents = open_gguf(write(BPE.train(LINES, 300), tmp_path / "x.gguf", edit))
    with pytest.raises(TokenizerError, match=message):
        contents.tokenizer()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda metadata: metadata.update({"general.architecture": ("bloom", [8])}), "its architecture is bloom; known: llama, qwen2"),
        (lambda metadata: metadata.update({"general.type": ("adapter", [8])}), "it is no model but adapter"),
        (lambda metadata: metadata.update({"split.count": (3, [4])}), "one of several parts of a model"),
        (lambda metadata: metadata.pop("llama.block_count"), "the metadata has no llama.block_count"),
        (lambda metadata: metadata.update({"llama.embedding_length": (0, [4])}), "llama.embedding_length is 0"),
        (lambda metadata: metadata.update({"llama.rope.scaling.type": ("su", [8])}), "rope.scaling.type is su; known: none, linear, yarn"),
        (lambda metadata: metadata.update({"llama.rope.dimension_count": (16, [4])}), "only a part of it turns"),
    ],
)
def test_models_that_are_refused(edit: Edit, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_gguf(write(BPE.train(LINES, 300), tmp_path / "x.gguf", edit))


def test_the_factors_of_llama_3() -> None:
    """Against transformers' own frequencies."""
    transformers = pytest.importorskip("transformers")
    parameters = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=2, head_dim=64, rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **parameters}
    )
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1 / 5e5 ** (torch.arange(0, 64, 2) / 64)
    assert torch.allclose(plain / scaled, torch.from_numpy(llama3_factors(parameters, 5e5, 64)), rtol=1e-5)
