"""Mixtures keep their shares, from the first document to the last."""

from __future__ import annotations

import random

import pytest

from framework.datasets.base import Document
from framework.datasets.mixture import Mixture
from framework.testing.datasets import Texts


def component(letter: str, documents: int, seed: int) -> Texts:
    draw = random.Random(seed)
    return Texts([letter * draw.randint(1, 200) for _ in range(documents)])


def characters(documents: list[Document]) -> dict[str, int]:
    text = "".join(document.text for document in documents)
    return {letter: text.count(letter) for letter in sorted(set(text))}


def test_every_prefix_keeps_the_shares_to_within_one_document() -> None:
    mixture = list(Mixture([component("a", 2000, 1), component("b", 2000, 2), component("c", 2000, 3)], [5, 3, 2]))
    for length in (10, 100, 1000, len(mixture)):
        counts = characters(mixture[:length])
        total = sum(counts.values())
        for letter, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
            assert abs(counts[letter] - share * total) <= 2 * 200


def test_without_repeat_it_ends_with_the_first_that_runs_out() -> None:
    mixture = list(Mixture([component("a", 50, 1), component("b", 5000, 2)], [1, 1]))
    counts = characters(mixture)
    assert counts["a"] == sum(len(document.text) for document in component("a", 50, 1))
    assert abs(counts["a"] - counts["b"]) <= 200


def test_with_repeat_each_is_read_once_and_the_shorter_ones_start_over() -> None:
    long = component("b", 500, 2)
    mixture = list(Mixture([component("a", 50, 1), long], [1, 1], repeat=True))
    counts = characters(mixture)
    assert counts["b"] == sum(len(text) for text in long.texts)
    assert abs(counts["a"] - counts["b"]) <= 200


def test_the_order_is_by_need_and_ties_go_to_the_first() -> None:
    mixture = Mixture([Texts(["aaaa", "aaaa"]), Texts(["bb", "bb", "bb"])], [2, 1])
    assert [document.text for document in mixture] == ["aaaa", "bb", "aaaa", "bb"]


def test_the_fingerprint_follows_parts_weights_and_repeat() -> None:
    a, b = Texts(["a"]), Texts(["b"])
    mixtures = [Mixture([a, b], [1, 1]), Mixture([b, a], [1, 1]), Mixture([a, b], [1, 2]), Mixture([a, b], [1, 1], repeat=True)]
    assert len({mixture.fingerprint() for mixture in mixtures}) == 4


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")]])
def test_weights_that_cannot_be(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"(?i)weight"):
        Mixture([Texts(["a"]), Texts(["b"])], weights)
