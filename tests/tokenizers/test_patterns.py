"""The split patterns mean the same to both engines: on every character, and beside every kind of neighbour."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import product

import pytest
import tiktoken
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from framework.testing.tokenizers import TEXTS, random_texts
from framework.tokenizers.patterns import GPT2, GPT4, GPT4O, SPLIT_PATTERNS, split_pattern

PATTERNS = pytest.mark.parametrize("pattern", [GPT2, GPT4, GPT4O], ids=list(SPLIT_PATTERNS))


def fancy_regex(pattern: str, tokens: Iterable[str]) -> tiktoken.Encoding:
    """tiktoken with these tokens: a piece that is one of them is one token, so that the ids show the split."""
    singles = [bytes([byte]) for byte in range(256)]
    others = sorted({token.encode() for token in tokens} - set(singles))
    ranks = {token: rank for rank, token in enumerate([*singles, *others])}
    return tiktoken.Encoding("pieces", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def fancy_regex_pieces(encoding: tiktoken.Encoding, text: str) -> list[str]:
    return [token.decode() for token in encoding.decode_tokens_bytes(encoding.encode_ordinary(text))]


@cache
def oniguruma(pattern: str) -> Split:
    return Split(Regex(pattern), behavior="isolated")


def oniguruma_pieces(pattern: str, text: str) -> list[str]:
    return [piece for piece, _ in oniguruma(pattern).pre_tokenize_str(text)]


@PATTERNS
def test_engines_agree_on_texts(pattern: str) -> None:
    for text in [*TEXTS[:-1], *random_texts(150, longest=20), "I'll I'LL 'Twas 'ſ ab'Vec'de xDoneX HTTPServer's"]:
        stretches = [text[start:end] for start in range(len(text)) for end in range(start + 1, len(text) + 1)]
        assert fancy_regex_pieces(fancy_regex(pattern, stretches), text) == oniguruma_pieces(pattern, text), repr(text)


@PATTERNS
def test_engines_agree_around_space_and_marks(pattern: str) -> None:
    texts = ["".join(characters) for length in (1, 2, 3, 4) for characters in product("a1 \n\r'/", repeat=length)]
    encoding = fancy_regex(pattern, texts)
    for text in texts:
        assert fancy_regex_pieces(encoding, text) == oniguruma_pieces(pattern, text), repr(text)


@pytest.mark.parametrize("neighbour", ["a", "1"])
def test_engines_agree_on_every_script(neighbour: str) -> None:
    """Letter (of which case), number, mark, space or none: does `neighbour + character` stay one piece?"""
    # every character outside the big uniform blocks (CJK, Hangul, private use), assigned or not, and every 97th inside them
    codes = [*range(0x80, 0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x17000), *range(0x18D00, 0x20000), *range(0x3400, 0x110000, 97)]
    pairs = [neighbour + chr(code) for code in codes if not 0xD800 <= code < 0xF900]
    encoding = fancy_regex(GPT4O, pairs)
    differing = [pair for pair in pairs if (len(encoding.encode_ordinary(pair)) == 1) != (len(oniguruma_pieces(GPT4O, pair)) == 1)]
    assert differing == []


def test_names_and_expressions() -> None:
    assert split_pattern("gpt4") == GPT4
    assert split_pattern(r"\w+|\W+") == r"\w+|\W+"
