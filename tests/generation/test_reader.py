"""Events into chunks: streams equal wholes, whatever the tokens and stop strings; every token comes with its text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.engine.request import Event, FinishReason, Request
from framework.errors import RequestError
from framework.generation import Chunk, Reader
from framework.tokenizers.base import Tokenizer

END, HIDDEN = 0, 1


class Pieces(Tokenizer):
    """Ids 0 and 1 are special; those from 2 on stand for the given bytes."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = [b"<end>", b"<hidden>", *pieces]

    vocab_size = property(lambda self: len(self.pieces))  # type: ignore[assignment]
    eos_id = END  # type: ignore[assignment]
    fingerprint = ""  # type: ignore[assignment]

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return {"<end>": END, "<hidden>": HIDDEN}

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]

    def save(self, directory: Path) -> None:
        raise NotImplementedError


def request_of(n: int = 1, min_new_tokens: int = 0) -> Request:
    return Request([5, 6, 7], max_new_tokens=10_000, stop_ids={END}, n=n, min_new_tokens=min_new_tokens)


def read(reader: Reader, ids: Sequence[int], last: FinishReason = "length", index: int = 0) -> list[Chunk]:
    """The chunks of a reply of these ids; each is as a chunk must be."""
    chunks: list[Chunk] = []
    for place, token_id in enumerate(ids):
        reason = "stop" if token_id == END else last if place == len(ids) - 1 else None
        chunk = reader.feed(Event(7, token_id, -float(place), reason, index, ((token_id, -float(place)),)))
        if chunk is not None:
            assert chunk.text or chunk.finish_reason
            assert not any(earlier.finish_reason for earlier in chunks), "nothing comes after the end"
            chunks.append(chunk)
    assert chunks[-1].finish_reason and reader.finished
    return chunks


def cut_up(text: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


def first_stop(text: str, stops: Sequence[str]) -> tuple[str, str]:
    """Plain and slow: the text before the first stop string to be complete, and that."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, ""


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("aé😊\n", min_size=1, max_size=14),
    cuts=st.lists(st.integers(0, 60), max_size=30),
    stop_at=st.tuples(st.integers(0, 13), st.integers(1, 4)),
    include=st.booleans(),
)
def test_any_tokens_any_stop_string(text: str, cuts: list[int], stop_at: tuple[int, int], include: bool) -> None:
    """Tokens end inside characters and inside stop strings; the text and its tokens are those of the whole."""
    pieces = cut_up(text.encode(), cuts)
    stops = [stop for stop in (text[stop_at[0] : sum(stop_at)], "never") if stop]
    before, stop = first_stop(text, stops)
    expected = before + (stop if include else "")
    chunks = read(Reader(Pieces(pieces), request_of(), stops, include), [place + 2 for place in range(len(pieces))])
    assert "".join(chunk.text for chunk in chunks) == expected
    assert chunks[-1].finish_reason == ("stop" if stop else "length")
    starts = [sum(map(len, pieces[:place])) for place in range(len(pieces))]
    theirs = [place + 2 for place, start in enumerate(starts) if start < len(expected.encode())]
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert [token.token_id for token in tokens] == theirs
    assert all(token.text_bytes == pieces[token.token_id - 2] and token.logprob == -float(token.token_id - 2) for token in tokens)
    given_out, given_bytes = 0, 0
    for chunk in chunks[:-1]:  # a chunk's tokens are those that end with it at the latest
        given_out += len(chunk.text.encode())
        given_bytes += sum(len(token.text_bytes) for token in chunk.tokens)
        assert given_bytes <= given_out and chunk.text


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=12), hidden=st.sets(st.integers(0, 12)))
def test_broken_characters_are_those_of_the_whole(pieces: list[bytes], hidden: set[int]) -> None:
    """Random bytes, special tokens among them: U+FFFD exactly where decoding everything at once has it; no token is lost."""
    ids = [id_ for place in range(len(pieces)) for id_ in ([HIDDEN] if place in hidden else []) + [place + 2]]
    chunks = read(Reader(Pieces(pieces), request_of()), ids)
    assert "".join(chunk.text for chunk in chunks) == b"".join(pieces).decode(errors="replace")
    assert [token.token_id for chunk in chunks for token in chunk.tokens] == ids


def test_one_emoji_in_two_tokens() -> None:
    reader = Reader(Pieces([b"a", "😊".encode()[:2], "😊".encode()[2:]]), request_of())
    chunks = [reader.feed(Event(0, token_id, None, None)) for token_id in (2, 3, 4)]
    assert [chunk and chunk.text for chunk in chunks] == ["a", None, "😊"]
    assert [token.token_id for token in chunks[2].tokens] == [3, 4]  # type: ignore[union-attr]


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_id_is_counted_and_is_no_text(include: bool) -> None:
    reader = Reader(Pieces([b"yes", b"E"]), request_of(), ["Enough"], include)
    chunks = read(reader, [2, 3, HIDDEN, END])
    assert "".join(chunk.text for chunk in chunks) == "yesE", "what only began a stop string is given out"
    assert chunks[-1].finish_reason == "stop" and reader.num_reply_tokens == 4 and reader.num_prompt_tokens == 3
    assert [token.token_id for chunk in chunks for token in chunk.tokens] == [2, 3, HIDDEN] + [END] * include


def test_an_ordinary_stop_id_is_text_where_it_is_included() -> None:
    request = Request([5], max_new_tokens=9, stop_ids={3})
    for include, text in ((False, "ab"), (True, "ab\n")):
        reader = Reader(Pieces([b"ab", b"\n"]), request, (), include)
        chunks = [chunk for event in (Event(0, 2, None, None), Event(0, 3, None, "stop")) if (chunk := reader.feed(event))]
        assert "".join(chunk.text for chunk in chunks) == text and chunks[-1].finish_reason == "stop"


def test_nothing_follows_a_stop_string() -> None:
    """What the engine had drawn already is passed over, and not counted."""
    reader = Reader(Pieces([b"ab", b"XY", b"cd"]), request_of(), ["X"])
    chunks = [reader.feed(Event(0, token_id, None, None)) for token_id in (2, 3, 4)]
    assert chunks[1] == Chunk("", "stop") and chunks[2] is None
    assert reader.finished and reader.num_reply_tokens == 2


def test_stop_strings_wait_for_the_fewest_tokens() -> None:
    reader = Reader(Pieces([b"X"]), request_of(min_new_tokens=2), ["X"])
    chunks = [reader.feed(Event(0, 2, None, None)) for _ in range(3)]
    assert [chunk and chunk.text for chunk in chunks] == ["X", "X", ""]
    assert chunks[2] is not None and chunks[2].finish_reason == "stop"


def test_replies_side_by_side() -> None:
    """Two replies of one request keep apart their unfinished characters, stop strings and ends."""
    first, second = "é".encode()[:1], "é".encode()[1:]
    reader = Reader(Pieces([first, second, b"S", b"T"]), request_of(n=2), ["ST"])
    script = [(0, 2), (1, 2), (1, 3), (0, 3), (0, 4), (1, 5), (0, 5), (1, 4)]
    texts = ["", ""]
    for index, token_id in script:
        chunk = reader.feed(Event(0, token_id, None, None, index))
        if chunk:
            assert chunk.index == index
            texts[index] += chunk.text
    assert texts == ["é", "éT"] and not reader.finished
    last = reader.feed(Event(0, END, None, "stop", 1))
    assert last is not None and (last.text, last.finish_reason) == ("S", "stop") and reader.finished
    assert reader.num_reply_tokens == 9


def test_the_prompt_s_log_probabilities_come_once_and_first() -> None:
    reader = Reader(Pieces(["é".encode()[:1], "é".encode()[1:]]), request_of())
    scores = ((-1.0, ((2, -0.5),)), (-2.0, ()))
    assert reader.feed(Event(0, 2, None, None, prompt_logprobs=scores)) is None
    assert reader.feed(Event(0, 3, None, None)).prompt_logprobs == scores  # type: ignore[union-attr]
    assert reader.feed(Event(0, END, None, "stop")).prompt_logprobs is None  # type: ignore[union-attr]


def test_an_error_ends_every_reply() -> None:
    reader = Reader(Pieces([b"S"]), request_of(n=2), ["ST"])
    assert reader.feed(Event(0, 2, None, None)) is None
    last = reader.feed(Event(0, -1, None, "error", error=RequestError("logits")))
    assert last is not None and (last.text, last.finish_reason) == ("S", "error") and reader.finished


def test_an_id_beyond_the_tokenizer_is_no_text() -> None:
    reader = Reader(Pieces([b"a"]), request_of())
    chunks = read(reader, [2, 99])
    assert "".join(chunk.text for chunk in chunks) == "a" and chunks[-1].tokens[-1].text_bytes == b""
