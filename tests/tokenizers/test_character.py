"""One id per character of the training documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.errors import TokenizerError
from framework.testing.tokenizers import CHECKS
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.character import Character

DOCUMENTS = ["First Citizen:\nBefore we proceed,", "naïve 😊\r\n", ""]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Character().prepare(lambda: DOCUMENTS, "documents", tmp_path)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[Tokenizer], None], tokenizer: Tokenizer) -> None:
    check(tokenizer)


def test_ids_are_the_sorted_characters(tokenizer: Tokenizer) -> None:
    characters = sorted(set("".join(DOCUMENTS)))
    assert [tokenizer.decode([token_id]) for token_id in range(len(characters))] == characters
    assert tokenizer.special_tokens == {"<|endoftext|>": len(characters)}
    assert tokenizer.vocab_size == len(characters) + 1
    assert tokenizer.pad_id == tokenizer.eos_id == len(characters)


def test_unseen_character_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"the character 'Z' \(U\+005A\) at position 2 "):
        tokenizer.encode("weZ")
    with pytest.raises(TokenizerError, match=r"U\+1F600"):
        tokenizer.encode_batch(["we", "😀"])


def test_learns_once(tmp_path: Path) -> None:
    first = Character().prepare(lambda: DOCUMENTS, "documents", tmp_path)
    again = Character().prepare(lambda: pytest.fail("learned again"), "documents", tmp_path)
    assert first.fingerprint == again.fingerprint
    other = Character().prepare(lambda: ["abc"], "other documents", tmp_path)
    assert other.fingerprint != first.fingerprint
    assert other.prepare(lambda: pytest.fail("learned again"), "documents", tmp_path) is other


def test_empty_corpus(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="the corpus is empty"):
        Character().prepare(lambda: [""], "nothing", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unprepared_says_so() -> None:
    with pytest.raises(TokenizerError, match="knows no characters yet"):
        Character().encode("a")


def test_refuses_other_files(tmp_path: Path, bpe: BPE) -> None:
    bpe.save(tmp_path)
    with pytest.raises(TokenizerError, match="is no Character tokenizer"):
        Character(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 1, "added_tokens": []}), encoding="utf-8")
    with pytest.raises(TokenizerError, match="is no Character tokenizer"):
        Character(tmp_path)
    with pytest.raises(TokenizerError, match="give Character its path alone"):
        Character(tmp_path, special_tokens=("<|endoftext|>", "<|pad|>"))
