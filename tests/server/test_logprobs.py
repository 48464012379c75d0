"""Tokens as OpenAI writes them."""

from __future__ import annotations

import math

import pytest

from framework.generation import Token
from framework.server.logprobs import LOWEST, TextTokens, chat_logprobs, joined, token_text
from framework.tokenizers.byte import Byte

TOKENIZER = Byte()


@pytest.mark.parametrize(
    ("spelling", "text"),
    [(b"hi", "hi"), (b"", ""), ("é".encode(), "é"), (b"\xc3", "bytes:\\xc3"), (b"a\xe2\x82", "bytes:\\x61\\xe2\\x82"), (b"\x00", "\x00")],
)
def test_token_text(spelling: bytes, text: str) -> None:
    assert token_text(spelling) == text


def tokens(text: bytes) -> list[Token]:
    return [Token(byte, bytes([byte]), -1.0, ((104, -0.5), (105, -math.inf))) for byte in text]


def test_offsets_count_characters_and_special_tokens_none() -> None:
    end = TOKENIZER.eos_id
    writer = TextTokens(TOKENIZER)
    first = writer.reply([*tokens("hé".encode()), Token(end, b"<|endoftext|>", -1.0, ())])
    second = writer.reply(tokens("€x".encode()))
    told = joined(first, second)
    assert told["text_offset"] == [0, 1, 1, 2, 2, 2, 2, 3]
    assert told["tokens"][3] == "<|endoftext|>" and told["tokens"][-1] == "x"


def test_the_token_itself_is_among_the_likeliest_and_nothing_is_infinite() -> None:
    told = TextTokens(TOKENIZER).reply(tokens(b"x"))
    assert told["top_logprobs"] == [{"h": -0.5, "i": LOWEST, "x": -1.0}]


def test_a_prompt_begins_without_a_log_probability() -> None:
    told = TextTokens(TOKENIZER).prompt(list(b"ab"), [(-2.0, ((97, -0.1),))])
    assert told == {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -2.0],
        "top_logprobs": [None, {"a": -0.1, "b": -2.0}],
        "text_offset": [0, 1],
    }


def test_chats() -> None:
    told = chat_logprobs(tokens(b"\xc3"), TOKENIZER)["content"]
    top = [{"token": "h", "logprob": -0.5, "bytes": [104]}, {"token": "i", "logprob": LOWEST, "bytes": [105]}]
    assert told == [{"token": "bytes:\\xc3", "logprob": -1.0, "bytes": [195], "top_logprobs": top}]


def test_ids_that_only_the_network_has_are_nothing() -> None:
    told = chat_logprobs([Token(10**6, b"", -1.0, ((10**6, -1.0),))], TOKENIZER)["content"][0]
    assert told["token"] == "" and told["top_logprobs"][0]["bytes"] == []
