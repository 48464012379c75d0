"""Pairs follow from ranks, are rows that our reader takes, and say where they come from."""

from __future__ import annotations

import json
from typing import Any

import pytest

from framework.datasets.base import Message, Row
from framework.datasets.records import Preference, preference
from framework.errors import DataError
from framework.ranking.rankings import Ranking, Reply, key_of

CHAT = (Message("system", "Be brief."), Message("user", "2 + 2?"))


def ranking(*ranks: int | None, prompt: Any = "Q", rater: str = "ann", **changes: Any) -> Ranking:
    replies = tuple(Reply(f"reply {number}", 7 + number, number % 2 == 0) for number in range(len(ranks)))
    fields = {"id": "a1", "prompt": prompt, "replies": replies, "ranks": ranks, "order": tuple(range(len(ranks))), "rater": rater}
    return Ranking(**{**fields, "model": "m", "time": "2024-01-01T00:00:00+00:00", **changes})


def pairs(given: Ranking) -> set[tuple[str, str]]:
    return {(row["chosen"][-1], row["rejected"][-1]) for row in given.preferences()}


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ((1, 2, 3), {"01", "02", "12"}),
        ((3, 1, 2), {"10", "12", "20"}),
        ((1, 1, 3), {"02", "12"}),
        ((1, 1, 1), set()),
        ((None, 1, None), {"10", "12"}),
        ((2, 1, None, None), {"10", "12", "13", "02", "03"}),
        ((None, None), set()),
    ],
)
def test_pairs(ranks: tuple[int | None, ...], expected: set[str]) -> None:
    assert pairs(ranking(*ranks)) == {tuple(pair) for pair in expected}
    assert ranking(*ranks).skipped == all(rank is None for rank in ranks)


def test_rows_read_as_preferences() -> None:
    (row,) = ranking(2, 1).preferences()
    assert row == {
        "prompt": "Q",
        "chosen": "reply 1",
        "rejected": "reply 0",
        "ranking": "a1",
        "rater": "ann",
        "ranks": [1, 2],
        "seeds": [8, 7],
        "model": "m",
    }
    assert preference(Row(row, "f:1")) == Preference("Q", "reply 1", "reply 0", None, "f:1")
    (row,) = ranking(1, None, prompt=CHAT).preferences()
    said = [(Message("assistant", f"reply {number}"),) for number in range(2)]
    assert preference(Row(json.loads(json.dumps(row)), "f:1")) == Preference(CHAT, *said, None, "f:1")


@pytest.mark.parametrize("prompt", ["Q \ud800 é\n", CHAT])
def test_there_and_back(prompt: Any) -> None:
    given = ranking(1, None, 2, prompt=prompt)
    assert Ranking.from_json(json.loads(json.dumps(given.to_json()))) == given


@pytest.mark.parametrize(
    "changes", [{"ranks": [1]}, {"ranks": [0, 1]}, {"ranks": [1, 3]}, {"ranks": [1, True]}, {"prompt": 3}, {"more": 1}, {"replies": None}]
)
def test_what_is_no_ranking(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Ranking.from_json({**ranking(1, 2).to_json(), **changes})
    with pytest.raises(DataError):
        Ranking.from_json({})


def test_keys_tell_prompts_and_models_apart() -> None:
    keys = {key_of(prompt, model) for prompt in ("Q", "R", CHAT, CHAT[:1]) for model in ("m", "n")}
    assert len(keys) == 8 and ranking(1, 2).key == key_of("Q", "m")
