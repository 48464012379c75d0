"""What a person said of several replies, and the preferences that follow from it.

Plain data and JSON flow in and out. Must not know files, models or how a ranking was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any, NamedTuple

from framework.datasets.base import Message
from framework.datasets.records import Turns
from framework.errors import DataError


class Reply(NamedTuple):
    """What a model wrote.

    Attributes:
        text: without the token that ends it.
        seed: it was drawn with.
        finished: whether it ended by itself; false: it was cut off at its greatest length.
    """

    text: str
    seed: int
    finished: bool


@dataclass(frozen=True)
class Ranking:
    """One person's judgement of the replies to one prompt.

    Args:
        id: tells this ranking from all others.
        prompt: a text, or the turns of a chat.
        replies: in the order of their seeds, no two with the same text.
        ranks: of each, 1 for the best; equal ranks are a tie. None: not ranked, which is worse than every rank. All None: skipped.
        order: the replies' numbers as they stood side by side.
        rater: who judged.
        model: fingerprint of the model that wrote the replies.
        time: when, ISO 8601 in UTC.
    """

    id: str
    prompt: Turns
    replies: tuple[Reply, ...]
    ranks: tuple[int | None, ...]
    order: tuple[int, ...]
    rater: str
    model: str
    time: str

    @property
    def skipped(self) -> bool:
        """Whether nothing was said."""
        return all(rank is None for rank in self.ranks)

    @property
    def key(self) -> str:
        """What was judged."""
        return key_of(self.prompt, self.model)

    def better(self, one: int, other: int) -> int | None:
        """1 where reply `one` is better than reply `other`, -1 where it is worse, 0 for a tie; None where nothing was said of either."""
        first, second = self.ranks[one], self.ranks[other]
        if first is None and second is None:
            return None
        worst = len(self.ranks) + 1
        first, second = first or worst, second or worst
        return (first < second) - (first > second)

    def preferences(self) -> list[dict[str, Any]]:
        """A row for each pair of which one is better, in TRL's format; what our reader and TRL's ignore says where it comes from."""
        kind = (lambda text: text) if isinstance(self.prompt, str) else (lambda text: [{"role": "assistant", "content": text}])
        return [
            {
                "prompt": _plain(self.prompt),
                "chosen": kind(self.replies[one].text),
                "rejected": kind(self.replies[other].text),
                "ranking": self.id,
                "rater": self.rater,
                "ranks": [self.ranks[one], self.ranks[other]],
                "seeds": [self.replies[one].seed, self.replies[other].seed],
                "model": self.model,
            }
            for one, other in permutations(range(len(self.replies)), 2)
            if self.better(one, other) == 1
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "prompt": _plain(self.prompt), "replies": [reply._asdict() for reply in self.replies]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Ranking:
        """What `to_json` gave. Raises DataError for anything else."""
        try:
            prompt = fields["prompt"]
            ranking = cls(
                **{
                    **fields,
                    "prompt": prompt if isinstance(prompt, str) else tuple(Message(turn["role"], turn["content"]) for turn in prompt),
                    "replies": tuple(Reply(**reply) for reply in fields["replies"]),
                    "ranks": tuple(fields["ranks"]),
                    "order": tuple(fields["order"]),
                }
            )
        except (KeyError, TypeError) as problem:
            raise DataError(f"it is no ranking ({problem})") from None
        check_ranks(ranking.ranks, len(ranking.replies))
        return ranking


def key_of(prompt: Turns, model: str) -> str:
    """SHA-256 (hex) of a prompt and the model that replied to it: what a person ranks once."""
    return hashlib.sha256(json.dumps([_plain(prompt), model]).encode()).hexdigest()


def check_ranks(ranks: Sequence[int | None], num_replies: int) -> None:
    """Raise DataError unless there is a rank from 1 on, or None, for each reply."""
    if len(ranks) != num_replies:
        raise DataError(f"there are {len(ranks)} ranks for {num_replies} replies")
    wrong = [rank for rank in ranks if rank is not None and (type(rank) is not int or not 1 <= rank <= num_replies)]
    if wrong:
        raise DataError(f"the rank {wrong[0]} is no number from 1 to {num_replies}")


def _plain(prompt: Turns) -> str | list[dict[str, str]]:
    return prompt if isinstance(prompt, str) else [message._asdict() for message in prompt]
