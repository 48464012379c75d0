"""Training and validation documents: deterministic, nothing lost, nothing on both sides."""

from __future__ import annotations

import hashlib

import pytest

from framework.batches.split import SplitDocuments
from framework.errors import DataError
from framework.testing.datasets import Texts


def side(split: SplitDocuments, name: str) -> list[str]:
    return [piece.text for piece in split if piece.side == name]


def test_hash_puts_whole_documents_on_the_side_their_content_says() -> None:
    texts = [f"document {number}" for number in range(5000)]
    split = SplitDocuments(Texts(texts), validation_fraction=0.1)
    held_out = side(split, "validation")
    assert sorted(side(split, "train") + held_out) == sorted(texts)
    assert 400 < len(held_out) < 600  # 500 +- 4.7 standard deviations
    assert held_out == [text for text in texts if int(hashlib.sha256(text.encode()).hexdigest(), 16) < 0.1 * 2**256]
    elsewhere = SplitDocuments(Texts([*texts[::-1], "more"]), validation_fraction=0.1)
    assert set(held_out) <= set(side(elsewhere, "validation"))  # order and neighbours do not matter


def test_hash_keeps_copies_together() -> None:
    split = SplitDocuments(Texts([f"document {number % 50}" for number in range(500)]), validation_fraction=0.2)
    assert not set(side(split, "train")) & set(side(split, "validation"))


def test_tail_is_nanogpts_split() -> None:
    text = "".join(chr(97 + number % 26) for number in range(1115))
    split = SplitDocuments(Texts([text]), method="tail", validation_fraction=0.1)
    cut = int(1115 * 0.9)
    assert side(split, "train") == [text[:cut]]
    assert side(split, "validation") == [text[cut:]]


def test_tail_cuts_the_document_in_which_it_begins() -> None:
    split = SplitDocuments(Texts(["aaaa", "bbbb", "cccc", "dddd"]), method="tail", validation_fraction=0.4)
    assert [tuple(piece) for piece in split] == [
        ("train", "aaaa"),
        ("train", "bbbb"),
        ("train", "c"),
        ("validation", "ccc"),
        ("validation", "dddd"),
    ]
    at_border = SplitDocuments(Texts(["aaaa", "bbbb"]), method="tail", validation_fraction=0.5)
    assert [tuple(piece) for piece in at_border] == [("train", "aaaa"), ("validation", "bbbb")]


def test_one_document_and_an_unlucky_hash_are_split_by_tail() -> None:
    one = SplitDocuments(Texts(["x" * 100]), validation_fraction=0.05)
    assert (side(one, "train"), side(one, "validation")) == (["x" * 95], ["x" * 5])
    unlucky = SplitDocuments(Texts(["a" * 50, "b" * 50]), validation_fraction=1e-9)
    assert len("".join(side(unlucky, "validation"))) == 1


def test_no_validation_and_a_validation_dataset() -> None:
    nothing = SplitDocuments(Texts(["a", "b"]), validation_fraction=0)
    assert (side(nothing, "train"), side(nothing, "validation")) == (["a", "b"], [])
    given = SplitDocuments(Texts(["a", "b"]), Texts(["c"]))
    assert (side(given, "train"), side(given, "validation")) == (["a", "b"], ["c"])
    assert list(given.training_texts()) == ["a", "b"]


def test_the_size_is_in_bytes_of_utf8() -> None:
    assert SplitDocuments(Texts(["é", "日本"]), Texts(["x"])).num_bytes == 9


def test_the_training_fingerprint_follows_what_is_trained_on() -> None:
    texts = Texts(["a", "b"])
    splits = [
        SplitDocuments(texts),
        SplitDocuments(texts, method="tail"),
        SplitDocuments(texts, validation_fraction=0.2),
        SplitDocuments(Texts(["a", "c"])),
        SplitDocuments(texts, Texts(["c"])),
    ]
    assert len({split.training_fingerprint() for split in splits}) == len(splits)
    assert SplitDocuments(texts, Texts(["d"])).training_fingerprint() == splits[-1].training_fingerprint()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5])
def test_a_fraction_that_cannot_be(fraction: float) -> None:
    with pytest.raises(ValueError, match="validation_fraction"):
        SplitDocuments(Texts(["a"]), validation_fraction=fraction)


def test_an_empty_dataset_and_half_a_surrogate_are_named() -> None:
    with pytest.raises(DataError, match="Texts holds no text"):
        list(SplitDocuments(Texts([])))
    with pytest.raises(DataError, match="text 1 is no valid Unicode: character 2"):
        list(SplitDocuments(Texts(["fine", "ab\ud800"])))
