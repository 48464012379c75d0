"""Streaming: whole characters only, nothing lost, nothing twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framework.tokenizers.byte import Byte
from framework.tokenizers.streaming import StreamDecoder

TOKENIZER = Byte()


def test_a_character_waits_for_its_last_byte() -> None:
    stream = StreamDecoder(TOKENIZER)
    first, second, third, fourth = "😊".encode()
    assert [stream.feed([token_id]) for token_id in (first, second, third, fourth)] == ["", "", "", "😊"]
    assert stream.flush() == ""


def test_flush_gives_what_is_left_and_starts_afresh() -> None:
    stream = StreamDecoder(TOKENIZER)
    assert stream.feed([ord("a"), 0xE6, 0x97]) == "a"
    assert stream.flush() == "\ufffd"
    assert stream.feed([ord("b")]) == "b"


def test_invalid_bytes_show_at_once() -> None:
    stream = StreamDecoder(TOKENIZER)
    assert stream.feed([0xFF]) == "\ufffd"
    assert stream.feed([0xE6, ord("a")]) == "\ufffda"


@given(st.lists(st.lists(st.integers(0, 259), max_size=6)))
def test_any_ids_in_any_portions(portions: list[list[int]]) -> None:
    stream = StreamDecoder(TOKENIZER)
    pieces = [stream.feed(portion) for portion in portions]
    rest = stream.flush()
    assert "".join(pieces) + rest == TOKENIZER.decode(token_id for portion in portions for token_id in portion)


@given(st.text(), st.integers(1, 5))
def test_text_never_shows_a_replacement_it_does_not_have(text: str, size: int) -> None:
    stream, ids = StreamDecoder(TOKENIZER), TOKENIZER.encode(text)
    pieces = [stream.feed(ids[start : start + size]) for start in range(0, len(ids), size)]
    assert "".join(pieces) == text
    assert all(text.startswith("".join(pieces[: index + 1])) for index in range(len(pieces)))
