"""A directory opens with the class that saved it, and with Hugging Face's library otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.errors import TokenizerError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte
from framework.tokenizers.character import Character
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.pretrained import pretrained
from framework.tokenizers.tiktoken import Tiktoken


@pytest.mark.parametrize("kind", [BPE, Byte, Character, HuggingFace])
def test_the_class_that_saved_it_opens_it(kind: type, bpe: BPE, tmp_path: Path) -> None:
    bpe.save(tmp_path / "bpe")
    saved: dict[type, Tokenizer] = {
        BPE: bpe,
        Byte: Byte(("<|pad|>", "<|endoftext|>")),
        Character: Character().prepare(lambda: ["abc"], "abc", tmp_path),
    }
    if kind is HuggingFace:
        config = json.loads((tmp_path / "bpe" / "tokenizer_config.json").read_text(encoding="utf-8"))
        del config["framework"]
        (tmp_path / "bpe" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        saved[HuggingFace] = HuggingFace(tmp_path / "bpe")
    saved[kind].save(tmp_path / "model")
    opened = pretrained(tmp_path / "model")
    assert type(opened) is kind
    assert opened.fingerprint == saved[kind].fingerprint
    assert opened.encode("abc") == saved[kind].encode("abc")
    assert pretrained(tmp_path / "model" / "tokenizer.json").fingerprint == opened.fingerprint


def test_tiktokens_encoding_needs_no_download_once_saved(published: Callable[[Any], Tiktoken], tmp_path: Path) -> None:
    published("gpt2").save(tmp_path)
    opened = pretrained(tmp_path)
    assert type(opened) is BPE
    assert opened.fingerprint == published("gpt2").fingerprint


def test_a_file_chooses_no_class_to_import(bpe: BPE, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["framework"] = {"tokenizer": "os.system"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert type(pretrained(tmp_path)) is HuggingFace


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="there is no tokenizer at"):
        pretrained(tmp_path / "nowhere")
