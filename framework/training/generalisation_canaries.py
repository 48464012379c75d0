"""Canaries: strings that were planted in the training data to see whether a network gives them away.

A planted text flows in, texts to compare it with flow out, and how exposed it is. Must not know networks.

Source: Carlini et al., "The Secret Sharer: Evaluating and Testing Unintended Memorization in Neural Networks" (2019).
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from framework.batches.split import drawn
from framework.errors import ConfigError

MARKED = re.compile(r"\{([^{}]+)\}")
ALPHABETS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)


class Canary(NamedTuple):
    """A planted text: what stands before its secret, and the secret."""

    before: str
    secret: str

    @classmethod
    def marked(cls, text: str) -> Canary:
        """From a text whose secret stands between braces at its end. Raises ConfigError where none does, or nothing in it can vary."""
        found = MARKED.search(text)
        if found is None or found.end() != len(text):
            raise ConfigError(
                f"canary {text!r} marks no secret: put what was drawn at random between braces at its end, 'The code is {{4921}}'"
            )
        if not any(_alphabet(character) for character in found[1]):
            raise ConfigError(f"canary {text!r}: its secret has no digit and no letter a-z that another canary could have in its place")
        return cls(text[: found.start()], found[1])

    def rivals(self, count: int, seed: int) -> list[str]:
        """Up to `count` other secrets of the same form, each digit and letter drawn anew; fewer where the form does not allow so many."""
        possible = math.prod(len(_alphabet(character) or " ") for character in self.secret) - 1
        found: dict[str, None] = {}
        draws = 0
        while len(found) < min(count, possible // 2 if possible > 3 else possible):
            draws += 1
            rival = "".join(self._drawn(character, f"{seed}:{draws}:{place}") for place, character in enumerate(self.secret))
            if rival != self.secret:
                found[rival] = None
        return list(found)

    def _drawn(self, character: str, key: str) -> str:
        alphabet = _alphabet(character)
        return alphabet[int(drawn(key.encode()) * len(alphabet))] if alphabet else character


def exposure(nats: float, rivals: Sequence[float]) -> float:
    """Bits by which a secret stands out: log2(n) - log2(rank) among itself and its rivals, the likeliest first.

    About 1.44 for one that was never seen (on average), log2(n) for one that is likelier than every rival; more cannot be told from n.

    Args:
        nats: -log p of the secret.
        rivals: of the others; one as likely as the secret counts as likelier.
    """
    rank = 1 + sum(rival <= nats for rival in rivals)
    return math.log2(len(rivals) + 1) - math.log2(rank)


def _alphabet(character: str) -> str:
    return next((alphabet for alphabet in ALPHABETS if character in alphabet), "")
