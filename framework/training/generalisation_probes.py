"""What a network knows by heart: continuations of training text, n-grams of its own text, planted secrets.

A network and windows of text flow in, shares flow out; no weight, mode or random number is touched. Must not know trainers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from framework.batches.base import Batches
from framework.batches.demonstrations import Demonstrations
from framework.batches.packed_text import PackedText
from framework.engine.engine import Engine
from framework.engine.request import Request
from framework.networks.base import Network
from framework.tasks.likelihood import Score, Stretch, continuation, likelihoods
from framework.tokenizers.base import Tokenizer
from framework.training.generalisation_canaries import Canary, exposure
from framework.training.generalisation_ngrams import NgramIndex
from framework.training.generalisation_windows import Window

BATCH_TOKENS = 8192  # read together


class Probes:
    """The probes of the Generalisation callback, which describes the arguments."""

    def __init__(
        self, canaries: Sequence[Canary], rivals: int, samples: int, sample_tokens: int, ngram_tokens: int, index_mebibytes: int, seed: int
    ) -> None:
        self.canaries, self.rivals, self.seed = list(canaries), rivals, seed
        self.samples, self.sample_tokens = samples, sample_tokens
        self.ngram_tokens, self.index_mebibytes = ngram_tokens, index_mebibytes
        self._index: NgramIndex | None = None
        self._noted: set[str] = set()

    def figures(self, network: Network, data: Batches, trained: Sequence[Window], held_out: Sequence[Window]) -> dict[str, float]:
        """Every figure that there is something to measure of, as `generalisation/NAME` -> value."""
        found: dict[str, float | None] = {
            "reproduced": self.reproduced(network, trained),
            "reproduced_validation": self.reproduced(network, held_out),
        }
        if not trained and self.samples:
            self._note("no training row has a window of prefix_tokens + continuation_tokens: nothing is looked for by heart; lower them")
        starts = held_out[: self.samples]
        if starts and (index := self.index(data)) is not None:
            written = self.write(network, data, [window.prefix for window in starts])
            found["ngrams_seen"] = index.share(written)
            found["ngrams_seen_validation"] = index.share([np.array(window.continuation) for window in starts])
        for number, canary in enumerate(self.canaries):
            found[f"exposure_{number}"] = self.exposure(network, data.tokenizer, data.context_length, canary)
        return {f"generalisation/{name}": value for name, value in found.items() if value is not None}

    def reproduced(self, network: Network, windows: Sequence[Window]) -> float | None:
        """Share of the windows whose continuation a greedy reply would be, token by token; None of no windows.

        It is read off one pass: as long as every token before was the text's own, a greedy reply sees what the pass sees.
        """
        scores = _scores(network, [Stretch(window.ids, window.num_continued) for window in windows])
        return sum(score.greedy for score in scores) / len(scores) if scores else None

    def exposure(self, network: Network, tokenizer: Tokenizer, context_length: int, canary: Canary) -> float:
        """Bits by which a canary's secret stands out among its rivals."""
        secrets = [canary.secret, *self._rivals[canary]]
        scores = _scores(network, [continuation(tokenizer, canary.before, secret, context_length) for secret in secrets])
        return exposure(scores[0].nats, [score.nats for score in scores[1:]])

    @cached_property
    def _rivals(self) -> dict[Canary, list[str]]:
        return {canary: canary.rivals(self.rivals, self.seed) for canary in self.canaries}

    def write(self, network: Network, data: Batches, prefixes: Sequence[Sequence[int]]) -> list[NDArray[np.int64]]:
        """What the network writes after each prefix, drawn from its own distribution; the end token left out."""
        engine = Engine(network, max_running=len(prefixes), prefix_cache=False, vocab_size=data.tokenizer.vocab_size)
        ends = {data.tokenizer.eos_id, *(data.chat_template.end_ids(data.tokenizer) if data.chat_template else ())}
        written: dict[int, list[int]] = {}
        for number, prefix in enumerate(prefixes):
            request = Request(prefix, self.sample_tokens, stop_ids=ends, seed=self.seed + number)
            written[engine.add(request)] = []
        while engine.num_active:
            for event in engine.step():
                if event.error is None and event.finish_reason != "stop":
                    written[event.request_id].append(event.token_id)
        return [np.array(ids, dtype=np.int64) for ids in written.values()]

    def index(self, data: Batches) -> NgramIndex | None:
        """The n-grams of the training text, made at the first use; None where the data has no text that is known beforehand."""
        if self._index is None and isinstance(data, PackedText | Demonstrations):
            self._index, num_tokens = NgramIndex(self.ngram_tokens, self.index_mebibytes), 0
            for tokens in training_tokens(data):
                num_tokens += len(tokens)
                self._index.add(tokens)
            if self._index.num_tokens < num_tokens:
                self._note(
                    f"generalisation/ngrams_seen compares with the first {self._index.num_tokens:,} of {num_tokens:,} training tokens: "
                    "for more, raise index_mebibytes"
                )
        if self._index is None:
            self._note(f"{type(data).__name__} says nothing of its training text: n-grams are not looked for")
        return self._index

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            print(f"note: {text}", file=sys.stderr)


def training_tokens(data: PackedText | Demonstrations) -> Iterator[NDArray[np.integer]]:
    """The training text, in pieces; no n-gram crosses from one to the next."""
    if isinstance(data, PackedText):
        yield from (shard.tokens for shard in data.corpus.train)
    else:
        yield from (example.ids for example in data.train)


def _scores(network: Network, stretches: Sequence[Stretch]) -> list[Score]:
    """In the order of the stretches."""
    return [score for _, score in sorted(likelihoods(network, stretches, BATCH_TOKENS))]
