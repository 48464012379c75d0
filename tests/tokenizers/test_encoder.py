"""The fast path: long runs of one character, broken text, threads. (That it equals tiktoken: test_bpe.py, test_tiktoken.py.)"""

from __future__ import annotations

import pytest

from framework.tokenizers import encoder
from framework.tokenizers.bpe import BPE


@pytest.mark.parametrize("character", ["a", "A", " ", "\n", "!", "0", "é", "😊", "\u0301"])
def test_a_megabyte_of_one_character(character: str, bpe: BPE) -> None:
    text = character * (1_000_000 // len(character.encode())) + "b"
    (ids,) = bpe.encode_batch([text])
    assert bpe.decode(ids.tolist()) == text


def test_cuts_at_the_backtracking_limit_leave_ordinary_text_alone(bpe: BPE) -> None:
    before, after = "one two three " * 1000, "four five six " * 1000
    text = before + " " * 1_500_000 + after
    ids = bpe.encode_batch([text])[0].tolist()
    assert bpe.decode(ids) == text
    front, back = bpe.encode(before)[:-1], bpe.encode(" " + after)
    assert ids[: len(front)] == front
    assert ids[-len(back) :] == back


@pytest.mark.parametrize(
    ("text", "first"),
    [("aa bb cc", "aa bb"), ("aa bb      ", "aa"), ("aaaaaa", "aaa"), ("a   b   c", "a   "), ("ab", "a")],
)
def test_halves(text: str, first: str) -> None:
    assert encoder._halves(text) == (first, text[len(first) :])


def test_lone_surrogates_become_replacement_characters(bpe: BPE) -> None:
    assert bpe.decode(bpe.encode("a\ud800b")) == "a\ufffdb"
    assert bpe.encode("\ud83d\ude0a") == bpe.encode("😊")


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_batches_keep_their_order(cores: int, bpe: BPE, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_cores", lambda: cores)
    batch = [line for text in texts[:3] for line in text.splitlines()] + texts[:3]
    assert [ids.tolist() for ids in bpe.encode_batch(batch)] == [bpe.encode(text) for text in batch]
