"""The split patterns mean the same to both engines: on every character, and beside every kind of neighbour."""

from __future__ import annotations

import unicodedata
from itertools import product

import pytest
import tiktoken
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from framework.testing.tokenizers import TEXTS, random_texts
from framework.tokenizers.patterns import GPT2, GPT4, GPT4O, SPLIT_PATTERNS, split_pattern

PATTERNS = pytest.mark.parametrize("pattern", [GPT2, GPT4, GPT4O], ids=list(SPLIT_PATTERNS))


def fancy_regex_pieces(pattern: str, text: str) -> list[str]:
    """tiktoken's split, seen through an encoding whose tokens are all stretches of the text: each piece is one token."""
    stretches = {text[start:end].encode() for start in range(len(text)) for end in range(start + 1, len(text) + 1)}
    singles = [bytes([byte]) for byte in range(256)]
    ranks = {token: rank for rank, token in enumerate([*singles, *sorted(stretches - set(singles))])}
    encoding = tiktoken.Encoding("pieces", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return [token.decode() for token in encoding.decode_tokens_bytes(encoding.encode_ordinary(text))]


def oniguruma_pieces(pattern: str, text: str) -> list[str]:
    return [piece for piece, _ in Split(Regex(pattern), behavior="isolated").pre_tokenize_str(text)]


@PATTERNS
def test_engines_agree_on_texts(pattern: str) -> None:
    for text in [*TEXTS[:-1], *random_texts(150, longest=20), "I'll I'LL 'Twas 'ſ ab'Vec'de xDoneX HTTPServer's"]:
        assert fancy_regex_pieces(pattern, text) == oniguruma_pieces(pattern, text), repr(text)


@PATTERNS
def test_engines_agree_around_space_and_marks(pattern: str) -> None:
    for letters in product("a1 \n\r'/", repeat=4):
        text = "".join(letters)
        assert fancy_regex_pieces(pattern, text) == oniguruma_pieces(pattern, text), repr(text)


@pytest.mark.parametrize("neighbour", ["a", "A", "1", " ", "!"])
def test_engines_agree_on_every_character(neighbour: str) -> None:
    """Letter, number, mark, space or none, for all of Unicode: does `neighbour + character` stay one piece?"""
    characters = [chr(code) for code in range(0x80, 0x110000) if unicodedata.category(chr(code)) not in ("Cs", "Co")]
    pairs = [(neighbour + character).encode() for character in characters]
    ranks = {bytes([byte]): byte for byte in range(256)} | {pair: 256 + index for index, pair in enumerate(pairs)}
    encoding = tiktoken.Encoding("pairs", pat_str=GPT4O, mergeable_ranks=ranks, special_tokens={})
    ours = [len(encoding.encode_ordinary(neighbour + character)) == 1 for character in characters]
    split = Split(Regex(GPT4O), behavior="isolated")
    theirs = [len(split.pre_tokenize_str(neighbour + character)) == 1 for character in characters]
    assert [hex(ord(c)) for c, mine, other in zip(characters, ours, theirs, strict=True) if mine != other] == []


def test_names_and_expressions() -> None:
    assert split_pattern("gpt4") == GPT4
    assert split_pattern(r"\w+|\W+") == r"\w+|\W+"
