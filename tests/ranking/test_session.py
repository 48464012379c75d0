"""Everyone's way through the prompts: random order, once each, back again after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.errors import RequestError
from framework.generation import Settings
from framework.ranking.ledger import Ledger
from framework.ranking.rankings import Reply
from framework.ranking.session import Session

PROMPTS = [f"prompt {number}" for number in range(6)]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Session]:
    """A session whose replies are there already, unless `written` is false."""

    def make(written: bool = True, prompts: list[Any] = PROMPTS, model: str = "m", replies: int = 4, **arguments: Any) -> Session:
        ledger = Ledger(tmp_path / "preferences.jsonl")
        session = Session(None, model, prompts, Settings(n=replies, seed=0), ledger, "ann", **arguments)  # type: ignore[arg-type]
        if written:
            for number, prompt in enumerate(prompts):
                texts = tuple(Reply(f"{prompt}: {index}", number * replies + index, True) for index in range(replies))
                session.writer._written.setdefault(number, texts)
        return session

    return make


def test_ranks_go_back_to_the_replies_that_had_them(start: Callable[..., Session]) -> None:
    session = start()
    for _ in PROMPTS:
        view = session.next("ann")
        assert view.state == "ready" and len(view.replies) == 4
        best_first = sorted(range(4), key=lambda place: view.replies[place].text)
        session.rank("ann", view.key, [1 + best_first.index(place) for place in range(4)])
    assert session.next("ann")[:4] == ("done", 6, 6, True)
    made = list(session._ledger.rankings.values())
    assert [ranking.prompt for ranking in made] == PROMPTS
    assert all(ranking.ranks == (1, 2, 3, 4) for ranking in made)
    assert len({ranking.order for ranking in made}) > 1, "the order is random"
    assert all([ranking.replies[reply] for reply in ranking.order] for ranking in made)
    assert session.num_ranked == 6


def test_the_order_is_one_s_own_and_stays(start: Callable[..., Session]) -> None:
    session = start()
    views = {name: session.next(name) for name in map(str, range(30))}
    assert len({view.replies for view in views.values()}) > 10
    assert all(session.next(name) == view for name, view in views.items())
    assert views["7"].replies == start().next("7").replies, "after a restart too"
    first = [view.replies[0].text[-1] for view in views.values()]
    assert set(first) == set("0123"), "no reply has a place of its own"


def test_it_goes_on_where_it_stopped(start: Callable[..., Session]) -> None:
    session = start()
    for judgement in ([1, 2, 3, 4], [None] * 4, [1, 1, 1, 1]):
        session.rank("ann", session.next("ann").key, judgement)
    again = start()
    assert again.next("ann").prompt == "prompt 3" and again.next("ann").num_done == 3 and again.num_ranked == 0
    assert again.next("bob").prompt == "prompt 0"
    assert start(model="another").next("ann").prompt == "prompt 0", "another model's replies are others"


def test_raters_see_the_same_replies_after_a_restart(start: Callable[..., Session]) -> None:
    session = start()
    session.rank("ann", (seen := session.next("ann")).key, [1, 2, 3, 4])
    again = start(written=False)
    assert set(again.next("bob").replies) == set(seen.replies), "nothing is written anew"


def test_undo(start: Callable[..., Session]) -> None:
    session = start()
    with pytest.raises(RequestError, match="nothing to take back"):
        session.undo("ann")
    first = session.next("ann")
    session.rank("ann", first.key, [1, 2, 3, 4])
    session.rank("ann", session.next("ann").key, [None] * 4)
    session.undo("ann")
    session.undo("ann")
    assert session.next("ann") == first and session.num_ranked == 0 and not session._ledger.rankings
    session.rank("ann", first.key, [4, 3, 2, 1])
    assert [ranking.rater for ranking in start()._ledger.rankings.values()] == ["ann"]
    with pytest.raises(RequestError, match="nothing to take back"):
        start().undo("ann")


@pytest.mark.parametrize("ranks", [[1, 2, 3], [1, 2, 3, 5], [0, 1, 2, 3], [1, 2, 3, 4, None]])
def test_judgements_that_do_not_fit(start: Callable[..., Session], ranks: list[int | None]) -> None:
    session = start()
    with pytest.raises(RequestError, match="rank"):
        session.rank("ann", session.next("ann").key, ranks)
    assert not session._ledger.rankings


def test_nothing_is_ranked_twice_or_unseen(start: Callable[..., Session]) -> None:
    session = start()
    key = session.next("ann").key
    session.rank("ann", key, [1, 2, 3, 4])
    for wrong in (key, "0" * 64):
        with pytest.raises(RequestError, match="ranked already"):
            session.rank("ann", wrong, [1, 2, 3, 4])
    session.rank("bob", key, [1, 2, 3, 4])
    empty = start(written=False)
    with pytest.raises(RequestError, match="ranked already, or is not"):
        empty.rank("ann", session.next("ann").key, [1, 2, 3, 4])


@pytest.mark.parametrize("name", ["", " ", "a" * 81, "a\nb", "\x00"])
def test_names(start: Callable[..., Session], name: str) -> None:
    with pytest.raises(RequestError, match="name"):
        start().next(name)


def test_what_is_wanted_comes_first_for_everyone(start: Callable[..., Session]) -> None:
    session = start(lookahead=2)
    assert session._wanted() == [0, 1, 2]
    session.rank("ann", session.next("ann").key, [1, 2, 3, 4])
    session.next("bob")
    assert session._wanted() == [1, 0, 2, 1, 3, 2], "what ann and bob are shown, then what they are shown next"
    session.writer.problems[1] = "too long"
    assert session._wanted() == [2, 0, 3, 2, 4, 3] and session.next("ann").num_prompts == 5


def test_while_the_model_writes(start: Callable[..., Session]) -> None:
    view = start(written=False).next("ann")
    assert view.state == "writing" and view.replies == () and view.key == ""
