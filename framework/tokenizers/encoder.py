"""tiktoken at work on a vocabulary: text to ids, one text or many over all cores.

A `Vocabulary` and texts flow in, uint32 arrays flow out. Never yields a special id. Must not know files or training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import tiktoken
from numpy.typing import NDArray

from framework.tokenizers.special import EOS
from framework.tokenizers.text import well_formed
from framework.tokenizers.vocabulary import Vocabulary

WORTH_THREADS = 1 << 16  # characters; starting threads costs more than encoding less than this
BETWEEN_WORDS = re.compile(r"(?<=\w) (?=\w)")


class Encoder:
    """Encodes with the ranks, the pattern and none of the special tokens of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __getstate__(self) -> dict[str, Vocabulary]:
        return {"_vocabulary": self._vocabulary}  # the other side builds its own encoding

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        # encode_to_numpy looks for special tokens even where none is allowed: one to look for is cheapest (none is not: its empty
        # expression matches everywhere); what it finds is encoded as text.
        special_tokens = {EOS: self._vocabulary.special_tokens[EOS]}
        return tiktoken.Encoding(
            "framework", pat_str=self._vocabulary.pattern, mergeable_ranks=dict(self._vocabulary.ranks), special_tokens=special_tokens
        )

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Ids of plain text, shape [tokens]; read-only."""
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            return self.encode(well_formed(text))
        except ValueError:
            if len(text) < 2:
                raise
            # The expression's backtracking limit: a run of some hundred thousand spaces before a word. The halves meet between two
            # words, where every pattern splits anyway; only inside one endless piece does the cut itself end a token.
            first, second = _halves(text)
            return np.concatenate([self.encode(first), self.encode(second)])

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Ids of each text, over all cores (tiktoken releases the GIL); threads take a few texts at a time."""
        cores = _cores()
        if cores == 1 or len(texts) == 1 or sum(map(len, texts)) < WORTH_THREADS:
            return [self.encode(text) for text in texts]
        size = max(1, min(32, len(texts) // (4 * cores)))
        with ThreadPoolExecutor(cores) as threads:
            groups = threads.map(lambda first: [self.encode(text) for text in texts[first : first + size]], range(0, len(texts), size))
            return [ids for group in groups for ids in group]


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _halves(text: str) -> tuple[str, str]:
    """The text cut between two words near its middle, or in the middle where there is no such place."""
    middle = len(text) // 2
    after = BETWEEN_WORDS.search(text, middle)
    if after:
        middle = after.start()
    else:
        for match in BETWEEN_WORDS.finditer(text, 0, middle):
            middle = match.start()
    return text[:middle], text[middle:]
