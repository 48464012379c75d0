"""One id per byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from framework.errors import TokenizerError
from framework.testing.tokenizers import CHECKS
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.byte import Byte


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("tokenizer", [Byte(), Byte(("<|pad|>", "<|endoftext|>"))], ids=["default", "own special tokens"])
def test_conformance(check: Callable[[Tokenizer], None], tokenizer: Byte) -> None:
    check(tokenizer)


def test_ids_are_the_bytes() -> None:
    tokenizer = Byte()
    assert tokenizer.encode("Aé\0") == [65, 0xC3, 0xA9, 0]
    assert tokenizer.encode_document("A") == [65, 256]
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (260, 256, 259)
    assert tokenizer.decode([0xC3]) == "\ufffd"


def test_special_tokens_change_the_fingerprint() -> None:
    assert Byte(("<|endoftext|>",)).fingerprint != Byte().fingerprint


def test_needs_an_end_token() -> None:
    with pytest.raises(TokenizerError, match="must contain"):
        Byte(("<|pad|>",))
