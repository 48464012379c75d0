"""The data of byte-level BPE against transformers, a slow BPE and damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from framework.errors import TokenizerError
from framework.tokenizers import vocabulary
from framework.tokenizers.bpe import BPE
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.patterns import GPT4
from framework.tokenizers.special import number
from framework.tokenizers.vocabulary import Vocabulary

BYTES = {bytes([byte]): byte for byte in range(256)}


def test_alphabet_is_that_of_the_tokenizers_library() -> None:
    alphabet = vocabulary._alphabet()
    assert set(alphabet) == set(ByteLevel.alphabet())
    text = "".join(map(chr, range(1, 0x900)))
    ((spelled, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    assert spelled == "".join(alphabet[byte] for byte in text.encode())
    assert vocabulary.bytes_of(spelled) == text.encode()


def test_merges_by_hand() -> None:
    ranks = {**BYTES, b"ab": 256, b"bc": 257, b"abc": 258, b"abcabc": 259, b"zzz": 260}
    merges = Vocabulary(ranks, number(["<|endoftext|>"], 261), "").merges()
    # abc is ab + c because ab merges first; nothing makes zz, so zzz forms by no merge
    assert merges == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"abc", b"abc")]


def test_read_gives_what_was_written(tmp_path: Path, bpe: BPE) -> None:
    bpe.save(tmp_path)
    found = Vocabulary.read(tmp_path / "tokenizer.json")
    assert found == bpe.vocabulary
    assert found.fingerprint() == bpe.fingerprint


def test_unused_ids_keep_the_special_ones_in_place(tmp_path: Path) -> None:
    given = Vocabulary(BYTES, {"<|endoftext|>": 300, "<|other|>": 310}, GPT4)
    (tmp_path / "tokenizer.json").write_text(json.dumps(given.to_json()), encoding="utf-8")
    assert Vocabulary.read(tmp_path / "tokenizer.json") == given
    theirs = HuggingFace(tmp_path, eos_token="<|endoftext|>")
    assert (theirs.special_tokens, theirs.vocab_size) == ({"<|endoftext|>": 300, "<|other|>": 310}, 311)


@pytest.mark.parametrize(
    "change",
    [
        lambda vocabulary: {**vocabulary, b"xyz": 260},  # what the fingerprint must see: another token,
        lambda vocabulary: {**vocabulary, b"\xfe": 255, b"\xff": 254},  # another order
    ],
)
def test_fingerprint_sees_the_ranks(change: Callable[[dict[bytes, int]], dict[bytes, int]]) -> None:
    special_tokens = number(["<|endoftext|>"], 300)
    assert Vocabulary(change(BYTES), special_tokens, "").fingerprint() != Vocabulary(BYTES, special_tokens, "").fingerprint()


def test_fingerprint_sees_pattern_and_special_tokens() -> None:
    variants = [
        Vocabulary(BYTES, {"<|endoftext|>": 256}, ""),
        Vocabulary(BYTES, {"<|endoftext|>": 256}, "a"),
        Vocabulary(BYTES, {"<|endoftext|>": 257}, ""),
        Vocabulary(BYTES, {"<|endoftext|>": 256, "<|pad|>": 257}, ""),
    ]
    assert len({variant.fingerprint() for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("ranks", "special_tokens", "message"),
    [
        ({**BYTES, b"ab": 7}, {"<|endoftext|>": 256}, "share an id"),
        ({b"a": 0}, {"<|endoftext|>": 256}, "lacks some of the 256"),
        (BYTES, {"<|endoftext|>": 256, "a": 257}, "'a' is an ordinary token too"),
    ],
)
def test_refuses_what_cannot_be(ranks: dict[bytes, int], special_tokens: dict[str, int], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Vocabulary(ranks, special_tokens, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("model"), "KeyError: 'model'"),
        (lambda content: content.update(normalizer={"type": "NFC"}), "another kind of normalizer"),
        (lambda content: content["model"].update(ignore_merges=False), "another kind of model"),
        (lambda content: content["model"]["merges"].reverse(), "another kind of merges"),
        (lambda content: content["added_tokens"][0].update(lstrip=True), "another kind of added_tokens"),
        (lambda content: content["pre_tokenizer"]["pretokenizers"][0].update(invert=True), "another kind of pre_tokenizer"),
        (lambda content: content["model"]["vocab"].update({"日": 9999}), "KeyError"),
    ],
)
def test_refuses_other_files(edited: Callable[..., Path], change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        Vocabulary.read(edited(change) / "tokenizer.json")
    assert "HuggingFace opens every tokenizer.json" in str(caught.value)
