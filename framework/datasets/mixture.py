"""Several datasets woven into one by weight.

Datasets flow in, their documents flow out in a fixed order. Must not know tokenizers, files or shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from framework.datasets.base import Document, Documents


class Mixture(Documents):
    """Documents of several datasets, each component's share of the characters kept at its weight from the first document to the last.

    The next document always comes from the component that is furthest below its share, so the order is the same at every iteration.

    Args:
        datasets: the components.
        weights: share of the characters for each, in any unit (`[3, 1]` is three quarters and one quarter).
        repeat: false: the mixture ends when the component whose turn it is has run out (the rest of the others stays unread);
            true: components that run out start over until each has been read once, so the shorter ones are seen more than once.
    """

    def __init__(self, datasets: list[Documents], weights: list[float], repeat: bool = False) -> None:
        if not datasets or len(datasets) != len(weights):
            raise ValueError(f"Mixture needs one weight for each dataset; got {len(datasets)} datasets and {len(weights)} weights.")
        if not all(0 < weight < float("inf") for weight in weights):
            raise ValueError(f"Mixture weights must be positive numbers; got {weights}.")
        self.datasets = datasets
        self.weights = weights
        self.repeat = repeat

    def __iter__(self) -> Iterator[Document]:
        streams = [iter(dataset) for dataset in self.datasets]
        characters = [0] * len(streams)
        unfinished = set(range(len(streams)))
        while True:
            turn = min(range(len(streams)), key=lambda k: characters[k] / self.weights[k])
            document = next(streams[turn], None)
            if document is None:
                unfinished.discard(turn)
                if not self.repeat or not unfinished:
                    return
                streams[turn] = iter(self.datasets[turn])
                document = next(streams[turn])
            characters[turn] += len(document.text)
            yield document

    def fingerprint(self) -> str:
        """Of the components, the weights and `repeat`."""
        parts = ("mixture", [dataset.fingerprint() for dataset in self.datasets], self.weights, self.repeat)
        return hashlib.sha256(repr(parts).encode()).hexdigest()
