"""How well a network predicts texts: nats a token, perplexity, bits a byte.

Documents flow in, figures flow out; every token is scored once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from framework.datasets.base import Document, Documents
from framework.errors import DataError, RequestError
from framework.tasks.base import Options, Progress, Result, Task
from framework.tasks.estimates import Estimate, ratio
from framework.tasks.likelihood import Stretch, first_id, likelihoods, windows
from framework.tokenizers.text import utf8

if TYPE_CHECKING:
    from framework.generation import Generator
    from framework.tokenizers.base import Tokenizer

SHOWN = 200  # characters of an example


class Perplexity(Task):
    """Perplexity on texts: `nats_per_token`, `perplexity` (its exponential) and `bits_per_byte`, which compares across tokenizers.

    A document is read as in training: after BOS, or without one after EOS. A long one is read in windows that overlap by
    `context_length - stride` tokens. Intervals are over documents; of a single one over its windows, which makes them a little narrow.

    Args:
        dataset: the texts.
        context_length: tokens of a window; null: the network's context.
        stride: tokens that each window after the first scores: fewer give each more context, and take longer. null: all of a window,
            without overlap.
        score_end: true: the EOS at a document's end is predicted too, as in validation during training.
        name: what the results are called.
    """

    def __init__(
        self,
        dataset: Documents,
        context_length: int | None = None,
        stride: int | None = None,
        score_end: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        for label, value in {"context_length": context_length, "stride": stride}.items():
            if value is not None and value < 1:
                raise ValueError(f"{label} is {value} and must be at least 1")
        self.dataset, self.context_length, self.stride, self.score_end = dataset, context_length, stride, score_end

    def measure(self, generator: Generator, options: Options, progress: Progress) -> Result:
        """See the class."""
        context_length, stride = self._lengths(generator.context_length)
        reading = _Reading(generator.tokenizer, context_length, stride, self.score_end)
        documents = itertools.islice(self.dataset, options.limit)
        nats: list[float] = []
        for number, score in likelihoods(generator.engine.network, reading.windows(documents), options.batch_tokens):
            nats.extend([0.0] * (number + 1 - len(nats)))
            nats[number] = score.nats
            progress(len(reading.texts), options.limit)
        if not nats:
            raise DataError(f"the dataset of {self.name} has no text to score")
        return Result(
            task=self.name,
            n=len(reading.texts),
            metrics=_metrics(reading, nats),
            settings={
                "dataset": {"class": type(self.dataset).__name__, "fingerprint": self.dataset.fingerprint()},
                "context_length": context_length,
                "stride": stride,
                "score_end": self.score_end,
            },
            counts={"tokens": sum(reading.tokens), "bytes": sum(text.num_bytes for text in reading.texts)},
            samples=[
                {"source": text.source, "text": text.begin, "tokens": round(tokens), "nats_per_token": total / tokens}
                for text, tokens, total in zip(reading.texts[: options.samples], reading.of_texts(reading.tokens), reading.of_texts(nats))
            ],
        )

    def _lengths(self, longest: int) -> tuple[int, int]:
        context_length = longest if self.context_length is None else self.context_length
        if context_length > longest:
            raise RequestError(f"context_length of {self.name} is {context_length}, and the network's context is {longest}")
        stride = context_length if self.stride is None else self.stride
        if stride > context_length:
            raise RequestError(f"stride of {self.name} is {stride}, and a window has only {context_length} tokens")
        return context_length, stride


@dataclass
class _Text:
    source: str
    begin: str
    num_bytes: int
    num_windows: int = 0


@dataclass
class _Reading:
    """Documents cut into windows, and what is to be known of both when the scores are there.

    Attributes:
        texts: the documents so far that have tokens.
        tokens: scored tokens of each window.
    """

    tokenizer: Tokenizer
    context_length: int
    stride: int
    score_end: bool
    texts: list[_Text] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def windows(self, documents: Iterator[Document]) -> Iterator[Stretch]:
        first, last = first_id(self.tokenizer), [self.tokenizer.eos_id] if self.score_end else []
        for document in documents:
            ids = [first, *self.tokenizer.encode(document.text), *last]
            if len(ids) == 1:
                continue
            text = _Text(document.source, document.text[:SHOWN], len(utf8(document.text)))
            self.texts.append(text)
            for window in windows(ids, self.context_length, self.stride):
                text.num_windows += 1
                self.tokens.append(window.num_scored)
                yield window

    def of_texts(self, of_windows: Sequence[float]) -> list[float]:
        """Sums of each document."""
        values = iter(of_windows)
        return [math.fsum(itertools.islice(values, text.num_windows)) for text in self.texts]


def _metrics(reading: _Reading, nats: Sequence[float]) -> dict[str, Estimate]:
    num_bytes = [float(text.num_bytes) for text in reading.texts]
    if len(reading.texts) > 1:
        unit, tokens, nats = "documents", reading.of_texts(reading.tokens), reading.of_texts(nats)
    else:
        unit, tokens = "windows", [float(count) for count in reading.tokens]
        num_bytes = [num_bytes[0] * count / sum(tokens) for count in tokens]
    per_token, per_byte = ratio(nats, tokens, unit), ratio(nats, num_bytes, unit)
    return {
        "nats_per_token": per_token,
        "perplexity": per_token.through(_exp),
        "bits_per_byte": per_byte.through(lambda value: value / math.log(2)),
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf
