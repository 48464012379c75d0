"""Rewards that tests need: another process must be able to import them."""

from __future__ import annotations

import time

from framework.rewards.base import Reward, Sample


class CountOf(Reward):
    """Share of one character in the reply."""

    def __init__(self, character: str) -> None:
        self.character = character

    def score(self, sample: Sample) -> float:
        return sample.reply.count(self.character) / 6


class Hangs(Reward):
    """Never answers for some replies."""

    def score(self, sample: Sample) -> float:
        if len(sample.prompt) and sample.prompt.startswith("3"):
            time.sleep(3600)
        return float(len(sample.reply))


class Raises(Reward):
    """Judges nothing."""

    def score(self, sample: Sample) -> float:
        raise RuntimeError("no idea")
