"""Contenders that tokenize: one vocabulary and one split pattern, over all cores; and how memory grows with the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOCAB_SIZE = 8192


def corpus(megabytes: float) -> list[str]:
    """The standard library's sources, again and again until there is enough."""
    from framework.datasets.text_files import StandardLibrary

    sources = [document.text for document in StandardLibrary()]
    texts, size, number = [], 0.0, 0
    while size < megabytes * 1e6:
        texts.append(sources[number % len(sources)])
        size += len(texts[-1].encode())
        number += 1
    return texts


def tokenizer(directory: str) -> Any:
    """A BPE trained on the standard library, once for all contenders."""
    from framework.tokenizers.bpe import BPE

    folder = Path(directory) / "bpe"
    if not folder.exists():
        BPE.train(corpus(10), VOCAB_SIZE).save(folder)
    return BPE(path=folder)


def ours(rounds: Any, directory: str, megabytes: float) -> None:
    """`Tokenizer.encode_batch`; a step is the whole corpus."""
    encoder, texts = tokenizer(directory), corpus(megabytes)
    while True:
        rounds()
        encoder.encode_batch(texts)


def tiktoken_batch(rounds: Any, directory: str, megabytes: float) -> None:
    """tiktoken's own `encode_ordinary_batch` with as many threads as there are cores, on the same ranks and pattern."""
    import os

    import tiktoken

    vocabulary, texts = tokenizer(directory).vocabulary, corpus(megabytes)
    encoding = tiktoken.Encoding("same", pat_str=vocabulary.pattern, mergeable_ranks=dict(vocabulary.ranks), special_tokens={})
    cores = len(os.sched_getaffinity(0))
    while True:
        rounds()
        encoding.encode_ordinary_batch(texts, num_threads=cores)


def shards(rounds: Any, directory: str, megabytes: float) -> None:
    """`framework tokenize`'s work, text to shards, on a corpus that is never in memory; the one step is all of it."""
    from framework.batches.split import SplitDocuments
    from framework.batches.tokenize import tokenize
    from framework.datasets.base import Document, Documents
    from framework.datasets.text_files import StandardLibrary

    class Repeated(Documents):
        """The standard library, read again and again."""

        def __iter__(self) -> Iterator[Document]:
            size = 0
            while True:
                for document in StandardLibrary():
                    yield document
                    size += len(document.text)
                    if size >= megabytes * 1e6:
                        return

        def fingerprint(self) -> str:
            return f"{megabytes} MB"

    encoder = tokenizer(directory)
    while True:
        rounds()
        tokenize(Path(directory) / f"shards-{megabytes}", SplitDocuments(Repeated(), validation_fraction=0), encoder)
