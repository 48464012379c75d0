"""A reward for form: whether a reply matches a regular expression. Must not know where the expression comes from."""

from __future__ import annotations

import re

from framework.errors import ConfigError
from framework.rewards.base import Reward, Sample


class MatchesPattern(Reward):
    r"""Pays for replies that a regular expression matches.

    Some expressions backtrack for hours on some texts; the time limit that rewards are run with ends that, and the sample counts as failed.

    Args:
        pattern: in Python's syntax; `.` is any character but a line break unless it begins with `(?s)`.
        whole: the whole reply must match; false: some part of it.
        match: reward of a reply that matches.
        no_match: reward of any other.

    Raises:
        ConfigError: the pattern is no regular expression.
    """

    def __init__(self, pattern: str, whole: bool = True, match: float = 1.0, no_match: float = 0.0) -> None:
        try:
            self._compiled = re.compile(pattern)
        except re.error as problem:
            raise ConfigError(f"the pattern {pattern!r} is no regular expression: {problem}") from None
        self.pattern, self.whole, self.match, self.no_match = pattern, whole, match, no_match

    def score(self, sample: Sample) -> float:
        """`match` or `no_match`."""
        find = self._compiled.fullmatch if self.whole else self._compiled.search
        return self.match if find(sample.reply) else self.no_match
