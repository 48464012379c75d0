"""Published kinds of tokenizer.json against transformers; special tokens in user text; what cannot be opened."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from framework.errors import TokenizerError
from framework.testing.tokenizers import CHECKS, random_texts
from framework.tokenizers import base
from framework.tokenizers.bpe import BPE
from framework.tokenizers.hugging_face import FLAGS, HuggingFace

SENTENCES = ["She sells sea shells by the sea shore.", "The shells she sells are sea shells, I'm sure."] * 10


def write(folder: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def byte_level(special_tokens: list[str]) -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special_tokens, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    """As Llama 2, Mistral and Gemma: ▁ for spaces, bytes for what is not in the vocabulary, BOS in front."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=80, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *fallback, *learned["vocab"]])}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


def oracle_ids(folder: Path, text: str) -> list[int]:
    transformers = pytest.importorskip("transformers")
    ids: list[int] = transformers.AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[base.Tokenizer], None], tmp_path: Path) -> None:
    check(HuggingFace(write(tmp_path, byte_level(["<|eot|>", "<|pad|>"]), {"eos_token": "<|eot|>", "pad_token": "<|pad|>"})))


def test_sentencepiece_bpe(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}, "unk_token": "<unk>"}
    tokenizer = HuggingFace(write(tmp_path, sentencepiece_bpe(), config))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    for text in ["sea shells", "</s><s> naïve 😊\n", *random_texts(50)]:
        assert tokenizer.encode(text) == oracle_ids(tmp_path, text)
        assert tokenizer.decode(tokenizer.encode(text)) == (" " + text if text else "")  # in the middle of a text the space counts
    assert tokenizer.encode_document("sea")[0] == 1
    assert tokenizer.encode_document("sea").count(1) == 1
    assert tokenizer.token_bytes(3 + 0xF0) == b"\xf0"
    with pytest.raises(TokenizerError, match="outside the vocabulary"):
        tokenizer.token_bytes(tokenizer.vocab_size)


@pytest.mark.parametrize(("stated", "bos_id"), [({}, None), ({"add_bos_token": True}, 0), ({"add_bos_token": False}, None)])
def test_a_bos_token_that_nothing_adds_is_not_added(stated: dict[str, bool], bos_id: int | None, tmp_path: Path) -> None:
    tokenizer = HuggingFace(write(tmp_path, byte_level(["<s>", "</s>"]), {"bos_token": "<s>", "eos_token": "</s>", **stated}))
    assert tokenizer.bos_id == bos_id
    assert tokenizer.encode_prompt("") == ([] if bos_id is None else [bos_id])


def test_special_tokens_that_only_the_configuration_names(tmp_path: Path) -> None:
    inner = byte_level(["<|eot|>"])
    inner.add_tokens([AddedToken("<|end|>", special=False), AddedToken("<think>", special=False)])
    tokenizer = HuggingFace(write(tmp_path, inner, {"eos_token": "<|end|>"}))
    assert set(tokenizer.special_tokens) == {"<|eot|>", "<|end|>"}
    assert tokenizer.eos_id not in tokenizer.encode("a<|end|>")
    assert len(tokenizer.encode("<think>")) == 1  # added, but not special: vocabulary, as in transformers


def test_older_directories_name_special_tokens_in_a_map(tmp_path: Path) -> None:
    write(tmp_path, byte_level(["</s>"]), {})
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}', encoding="utf-8")
    assert HuggingFace(tmp_path).eos_id == 0


def test_truncation_and_padding_in_the_file_are_not_obeyed(tmp_path: Path) -> None:
    inner = byte_level(["</s>"])
    inner.enable_truncation(3)
    inner.enable_padding(length=50)
    tokenizer = HuggingFace(write(tmp_path, inner, {"eos_token": "</s>"}))
    assert tokenizer.decode(tokenizer.encode(SENTENCES[0])) == SENTENCES[0]


def test_a_model_that_leaks_special_ids_is_refused(tmp_path: Path) -> None:
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), *((character, -9.0) for character in "</s>abc▁")]
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    inner.add_special_tokens(["</s>"])
    with pytest.raises(TokenizerError, match=r"plain text '</s>' would become the special id 1"):
        HuggingFace(write(tmp_path, inner, {"eos_token": "</s>"}))


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    tokenizer = HuggingFace(write(tmp_path, byte_level(["</s>"]), {"eos_token": "</s>"}))
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_eos_by_argument(tmp_path: Path, bpe: BPE) -> None:
    bpe.save(tmp_path)
    tokenizer = HuggingFace(tmp_path, eos_token="<|im_end|>")
    assert tokenizer.eos_id == bpe.special_tokens["<|im_end|>"]
    assert tokenizer.fingerprint != HuggingFace(tmp_path).fingerprint
    tokenizer.save(tmp_path / "again")
    assert HuggingFace(tmp_path / "again").eos_id == tokenizer.eos_id


def test_saving_drops_references_to_code(tmp_path: Path) -> None:
    folder = write(tmp_path, byte_level(["</s>"]), {"eos_token": "</s>", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    HuggingFace(folder).save(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no tokenizer at"),
        ({"tokenizer.json": "{"}, "cannot be read as JSON"),
        ({"tokenizer.json": "[]"}, "holds no JSON object"),
        ({"tokenizer.json": "{}"}, "is no tokenizer that the tokenizers library can open"),
    ],
)
def test_what_cannot_be_opened(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=message):
        HuggingFace(tmp_path)


def test_no_end_token(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"names no end-of-document token; give eos_token, one of <\|eot\|>"):
        HuggingFace(write(tmp_path, byte_level(["<|eot|>"]), {}))


def test_configuration_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="names special tokens that its vocabulary lacks: <none>"):
        HuggingFace(write(tmp_path, byte_level(["</s>"]), {"eos_token": "<none>"}))


AROUND = [
    "a<tool> b",
    "a <tool>b",
    " <tool>  <tool>\n x",
    "x<TOOL>y <Tool> ",
    "sea <end>\n\n sells",
    "sea<end>",
    "a tool b",
    "toolbox tool.",
]


@pytest.mark.parametrize("make", [lambda: byte_level(["</s>"]), sentencepiece_bpe], ids=["byte level", "sentencepiece"])
@pytest.mark.parametrize("flags", itertools.product([False, True], repeat=4), ids=str)
def test_flags_of_added_tokens(flags: tuple[bool, ...], make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    """Spaces around a token, whole words, normalised text: all sixteen, as transformers has it; special ones are no text's anyway."""
    tool, word, end = (AddedToken(text, **dict(zip(FLAGS[:4], flags, strict=True))) for text in ("<tool>", "tool", "<end>"))
    inner = make()
    inner.add_tokens([tool, word])
    inner.add_special_tokens([end])
    folder = write(tmp_path, inner, {"eos_token": "</s>"})
    for text in AROUND:
        assert HuggingFace(folder).encode(text) == oracle_ids(folder, text)


@pytest.mark.parametrize("special", [False, True])
def test_the_configuration_s_flags_win(special: bool, tmp_path: Path) -> None:
    """`added_tokens_decoder` changes a token's flags and adds tokens, as transformers has it; what is saved holds them."""
    inner = byte_level(["</s>"])
    inner.add_tokens([AddedToken("<tool>", normalized=False)])
    first = inner.token_to_id("<tool>")
    flags = {"lstrip": False, "rstrip": True, "single_word": False, "normalized": False}
    stated = {
        str(first): {"content": "<tool>", **flags, "special": special},
        str(first + 1): {"content": "<new>", **flags, "special": False},
    }
    folder = write(tmp_path, inner, {"eos_token": "</s>", "added_tokens_decoder": stated})
    tokenizer = HuggingFace(folder)
    tokenizer.save(tmp_path / "saved")
    assert (first in tokenizer.encode("<tool>")) is not special
    assert tokenizer.encode("<new>") == [first + 1] and tokenizer.vocab_size == first + 2
    for text in ["a<tool>  b<new> \n c", *AROUND]:
        assert tokenizer.encode(text) == HuggingFace(tmp_path / "saved").encode(text) == oracle_ids(folder, text)


@pytest.mark.parametrize("name", ["additional_special_tokens", "extra_special_tokens"])
@pytest.mark.parametrize("stated", [["<tool>"], [{"content": "<tool>"}], {"tool_token": "<tool>"}], ids=["list", "objects", "names"])
def test_what_the_configuration_calls_special_comes_from_no_text(name: str, stated: Any, tmp_path: Path) -> None:
    inner = byte_level(["</s>"])
    inner.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer = HuggingFace(write(tmp_path, inner, {"eos_token": "</s>", name: stated}))
    assert set(tokenizer.special_tokens) == {"</s>", "<tool>"}
    assert tokenizer.special_tokens["<tool>"] not in tokenizer.encode("<tool>")


def test_damaged_added_tokens(tmp_path: Path) -> None:
    config = {"eos_token": "</s>", "added_tokens_decoder": {"x": {"content": "<tool>"}}}
    with pytest.raises(TokenizerError, match=r"added_tokens_decoder in the configuration beside .* is damaged"):
        HuggingFace(write(tmp_path, byte_level(["</s>"]), config))


def test_an_unknown_token_is_what_text_may_become(tmp_path: Path) -> None:
    """Its own spelling too, where the vocabulary lacks the characters: that is no leak."""
    inner = Tokenizer(models.BPE({"<unk>": 0, "</s>": 1, "a": 2, "s": 3, "/": 4, ">": 5, "<": 6}, [], unk_token="<unk>"))
    inner.add_special_tokens(["<unk>", "</s>"])
    tokenizer = HuggingFace(write(tmp_path, inner, {"eos_token": "</s>", "unk_token": "<unk>"}))
    assert tokenizer.encode("ab") == [2, 0] and tokenizer.encode("</s>") == [6, 4, 3, 5]
