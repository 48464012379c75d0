"""tiktoken's encodings: golden GPT-2 ids, tiktoken's own ids, and the error where there is no vocabulary and no network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from framework.errors import TokenizerError
from framework.testing.tokenizers import CHECKS, TEXTS, random_texts
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.tiktoken import PATTERNS, Tiktoken, downloaded

GPT2 = {
    "Hello world": [15496, 995],
    "hello  world": [31373, 220, 995],
    "usually, he would": [23073, 11, 339, 561],
    " he'll don't": [339, 1183, 836, 470],
    "😊": [47249, 232],
    "日本語": [33768, 98, 17312, 105, 45739, 252],
    "naïve café": [2616, 38776, 40304],
    "\n\n\t x": [628, 197, 2124],
    "1234567890": [10163, 2231, 30924, 3829],
    "<|endoftext|>": [27, 91, 437, 1659, 5239, 91, 29],
}

Published = Callable[[Any], Tiktoken]


@pytest.mark.parametrize("text", GPT2)
def test_golden_ids(text: str, published: Published) -> None:
    assert published("gpt2").encode(text) == GPT2[text]


def test_gpt2_ends_documents_and_begins_none(published: Published) -> None:
    tokenizer = published("gpt2")
    assert tokenizer.encode_document("Hello world") == [15496, 995, 50256]
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (50257, 50256, 50256, None)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Tokenizer], None], published: Published) -> None:
    check(published("gpt2"))


@pytest.mark.parametrize("name", PATTERNS)
def test_ids_are_tiktokens(name: str, published: Published, texts: list[str]) -> None:
    tokenizer, oracle = published(name), tiktoken.get_encoding(name)
    samples = [*TEXTS, *texts, *random_texts(2000)]
    assert [ids.tolist() for ids in tokenizer.encode_batch(samples)] == oracle.encode_ordinary_batch(samples)
    assert tokenizer.vocab_size == oracle.n_vocab
    assert tokenizer.eos_id == oracle.eot_token


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cl100k", "o200k", "p50k_base"])
def test_saved_directories_are_equal_too(name: str, published: Published) -> None:
    for check in CHECKS:
        check(published(name))


def test_nicknames(published: Published) -> None:
    assert published("cl100k").fingerprint == published("cl100k_base").fingerprint


def test_unknown_name() -> None:
    with pytest.raises(TokenizerError, match=r"no encoding 'gpt5'.*there are gpt2, r50k_base"):
        Tiktoken("gpt5")  # type: ignore[arg-type]


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken.load
    import tiktoken.registry

    def unreachable(path: str) -> bytes:
        raise ConnectionError(path)

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file", unreachable)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    assert not downloaded("gpt2")
    with pytest.raises(TokenizerError, match=r"vocabulary of gpt2 \(ConnectionError\)") as caught:
        Tiktoken("gpt2")
    message = str(caught.value)
    assert "TIKTOKEN_CACHE_DIR" in message
    assert "6d1cbeee0f20b3d9449abfede4726ed8212e3aee and 6c7ea1a7e38e3a7f062df639a5b80947f075ffe6" in message  # tiktoken's file names
    assert "\n" not in message


def test_our_module_does_not_hide_the_library() -> None:
    assert sys.modules["framework.tokenizers.tiktoken"] is not tiktoken
    assert tiktoken.Encoding.__module__ == "tiktoken.core"
