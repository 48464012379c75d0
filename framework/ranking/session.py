"""Who is shown what: each person's way through the prompts, and what becomes of a judgement.

Names and judgements flow in, replies in random order flow out; judgements go to the ledger. Must not know HTTP. Any thread may call it.
"""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from framework.datasets.records import Turns
from framework.errors import DataError, RequestError
from framework.ranking.ledger import Ledger
from framework.ranking.rankings import Ranking, Reply, check_ranks, key_of
from framework.ranking.writer import Writer

if TYPE_CHECKING:
    from framework.generation import Generator, Settings

LONGEST_NAME = 80  # characters
MOST_RATERS = 1000


class View(NamedTuple):
    """What a person is shown.

    Attributes:
        state: `ready`: replies to rank; `writing`: they come in a moment; `done`: nothing is left.
        num_done, num_prompts: how far this person is; prompts that have no replies to rank are not among them.
        can_undo: whether this person has ranked something in this session.
        key: tells what is ranked; "" unless ready.
        prompt: a text or the turns of a chat.
        replies: in this person's random order.
    """

    state: Literal["ready", "writing", "done"]
    num_done: int
    num_prompts: int
    can_undo: bool
    key: str = ""
    prompt: Turns = ""
    replies: tuple[Reply, ...] = ()


class Session:
    """One run of `framework rank`.

    Args:
        generator: writes the replies; this session's alone until it is closed.
        model: its fingerprint.
        prompts: no two the same.
        settings: of the replies, with a seed and n of at least 2.
        ledger: takes the rankings.
        rater: who is expected: replies for this one are written before anyone asks.
        lookahead: so many prompts beyond the one that is shown are replied to.

    Attributes:
        num_ranked: rankings made in this session that count.
    """

    def __init__(
        self,
        generator: Generator,
        model: str,
        prompts: Sequence[Turns],
        settings: Settings,
        ledger: Ledger,
        rater: str,
        lookahead: int = 3,
    ) -> None:
        self._model, self._prompts, self._ledger, self._lookahead = model, prompts, ledger, lookahead
        self._keys = [key_of(prompt, model) for prompt in prompts]
        self._lock = threading.RLock()
        self._made: dict[str, list[Ranking]] = {rater: []}  # by rater, in this session
        earlier = {ranking.key: ranking.replies for ranking in ledger.rankings.values()}
        known = {number: earlier[key] for number, key in enumerate(self._keys) if key in earlier}
        self.writer = Writer(generator, prompts, settings, self._wanted, known)

    @property
    def num_ranked(self) -> int:
        """Rankings made in this session that count."""
        return sum(map(len, self._made.values()))

    def next(self, rater: str) -> View:
        """What to show a person now. Raises RequestError for a name that is none."""
        with self._lock:
            made = self._of(rater)
            todo = list(self._todo(rater))
            num_prompts = len(self._prompts) - len(self.writer.problems)
            state = (num_prompts - len(todo), num_prompts, bool(made))
            if not todo:
                return View("done", *state)
            replies = self.writer.replies(todo[0])
            self.writer.wake()
            if replies is None:
                return View("writing", *state)
            order = self._order(rater, todo[0], len(replies))
            return View("ready", *state, self._keys[todo[0]], self._prompts[todo[0]], tuple(replies[number] for number in order))

    def rank(self, rater: str, key: str, ranks: Sequence[int | None]) -> None:
        """Take a judgement in; it is on the disk when this returns.

        Args:
            rater: a person's name.
            key: of the `View`.
            ranks: of the replies as they were shown, 1 for the best; equal ones are a tie, None is worse than any; all None: skipped.

        Raises:
            RequestError: this person has ranked it before, it was not shown, or the ranks do not fit.
            StorageError: it could not be written, and does not count.
        """
        with self._lock:
            made = self._of(rater)
            number = next((number for number in self._todo(rater) if self._keys[number] == key), None)
            replies = None if number is None else self.writer.replies(number)
            if number is None or replies is None:
                raise RequestError("this was ranked already, or is not to be ranked here")
            try:
                check_ranks(ranks, len(replies))
            except DataError as wrong:
                raise RequestError(str(wrong)) from None
            order = self._order(rater, number, len(replies))
            shown_at = {reply: place for place, reply in enumerate(order)}
            ranking = Ranking(
                id=secrets.token_hex(8),
                prompt=self._prompts[number],
                replies=replies,
                ranks=tuple(ranks[shown_at[reply]] for reply in range(len(replies))),
                order=order,
                rater=rater,
                model=self._model,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            self._ledger.add(ranking)
            made.append(ranking)
        self.writer.wake()

    def undo(self, rater: str) -> None:
        """Take back this person's last judgement of this session. Raises RequestError if there is none, StorageError."""
        with self._lock:
            made = self._of(rater)
            if not made:
                raise RequestError("there is nothing to take back")
            self._ledger.take_back(made[-1])
            made.pop()

    def close(self) -> None:
        """End the writing."""
        self.writer.stop()

    def _of(self, rater: str) -> list[Ranking]:
        if not rater.strip() or len(rater) > LONGEST_NAME or not rater.isprintable():
            raise RequestError(f"a rater needs a name of 1 to {LONGEST_NAME} printable characters")
        if rater not in self._made and len(self._made) >= MOST_RATERS:
            raise RequestError(f"there are {MOST_RATERS} raters already")
        return self._made.setdefault(rater, [])

    def _todo(self, rater: str) -> Iterator[int]:
        done = {ranking.key for ranking in self._ledger.rankings.values() if ranking.rater == rater}
        return (number for number, key in enumerate(self._keys) if key not in done and number not in self.writer.problems)

    def _wanted(self) -> list[int]:
        """What everyone is shown first, then what everyone is shown next, and so on."""
        with self._lock:
            ahead = [list(islice(self._todo(rater), 1 + self._lookahead)) for rater in self._made]
        return [numbers[place] for place in range(1 + self._lookahead) for numbers in ahead if place < len(numbers)]

    def _order(self, rater: str, number: int, num_replies: int) -> tuple[int, ...]:
        """Random, and the same whenever this person sees this."""
        order = list(range(num_replies))
        random.Random(f"{rater}\0{self._keys[number]}").shuffle(order)
        return tuple(order)
