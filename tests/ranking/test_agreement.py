"""Agreement against published figures and by hand."""

from __future__ import annotations

from itertools import permutations

import pytest

from framework.ranking.agreement import agreement, krippendorff_alpha, pairwise
from framework.ranking.rankings import Ranking, Reply


def ranking(rater: str, *ranks: int | None, prompt: str = "Q", texts: str = "abcdef", id: str = "") -> Ranking:
    replies = tuple(Reply(text, number, True) for number, text in enumerate(texts[: len(ranks)]))
    return Ranking(id or rater, prompt, replies, ranks, tuple(range(len(ranks))), rater, "m", "")


def test_krippendorff_s_own_example() -> None:
    """Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units, values missing; nominal: 0.743."""
    observers = ["123321412   ", "1233224125 3", " 3332342251 ", "12332441251 "]
    units = [[value for value in unit if value != " "] for unit in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_extremes() -> None:
    assert krippendorff_alpha([[1, 1], [-1, -1], [0, 0]]) == 1.0
    assert krippendorff_alpha([[1, 1], [1, 1]]) is None
    assert krippendorff_alpha([]) is None and krippendorff_alpha([[1], [2]]) is None
    assert pairwise([[1, 1, 2], [3, 3]]) == 2 / 4
    assert pairwise([[1]]) is None


def test_of_rankings_by_hand() -> None:
    """Of the pairs ab, ac, bc the raters agree on two: 1 > 2 > 3 and 1 > 3 > 2."""
    found = agreement([ranking("ann", 1, 2, 3), ranking("bob", 1, 3, 2), ranking("eve", 1, 2, prompt="other")])
    assert (found.num_raters, found.num_pairs, found.pairwise) == (2, 3, 2 / 3)
    # six units in both orders, values 1 and -1 six times each: observed 4 of 12, expected 72 of 12 * 11
    assert found.alpha == pytest.approx(1 - (4 / 12) / (72 / (12 * 11)))
    assert str(found) == "agreement: 3 pairs judged by at least 2 of 2 raters; pairwise 66.7%; Krippendorff's alpha (nominal) 0.389"


def test_ties_partial_rankings_and_skips() -> None:
    found = agreement([ranking("ann", 1, None, None), ranking("bob", 1, 2, 2), ranking("eve", None, None, None)])
    assert (found.num_raters, found.num_pairs, found.pairwise) == (2, 2, 1.0), "ann said nothing of b and c, eve nothing at all"
    assert agreement([ranking("ann", 1, 1), ranking("bob", 1, 1)]).alpha is None
    assert "no pair" in str(agreement([])) and agreement([]).pairwise is None


def test_which_reply_comes_first_means_nothing() -> None:
    ranks = {"ann": (1, 2, 3, 3), "bob": (2, 1, 3, None), "eve": (1, 4, 2, 3)}
    found = {
        agreement(
            [
                ranking(rater, *(given[place] for place in order), texts="".join("abcd"[place] for place in order))
                for rater, given in ranks.items()
            ]
        )
        for order in permutations(range(4))
    }
    renamed = agreement([ranking(rater, *given, texts="dbca") for rater, given in ranks.items()])
    assert found == {renamed}


def test_the_later_of_two_rankings_counts() -> None:
    rankings = [ranking("ann", 1, 2), ranking("bob", 2, 1), ranking("bob", 1, 2, id="again")]
    assert agreement(rankings).pairwise == 1.0
