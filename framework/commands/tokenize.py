"""`framework tokenize`: a dataset to token shards in a directory of the user's choice. Must not know training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from framework.batches.shards import Shard
    from framework.datasets.base import Documents
    from framework.tokenizers.base import Tokenizer


def tokenize(
    output: Path,
    *,
    dataset: Documents,
    tokenizer: Tokenizer,
    validation_dataset: Documents | None = None,
    validation_fraction: float = 0.05,
    split: Literal["hash", "tail"] = "hash",
    shard_tokens: int = 2**26,
) -> None:
    """Turn a dataset into token shards to train on with `--data.dataset null --data.shards OUTPUT`.

    Killed, the same command goes on where it stopped; finished, it does nothing.

    Args:
        output: directory for the shards and, in `tokenizer/`, the tokenizer.
        dataset: the documents.
        tokenizer: makes ids of them; one that is yet to be trained learns from the training documents.
        validation_dataset: documents held out; none: a part of the dataset.
        validation_fraction: how much of the dataset is held out; 0: nothing.
        split: hash: whole documents, chosen by their content; tail: the last part of the text.
        shard_tokens: tokens in a shard, about; a killed process loses no more than that.
    """
    from framework.batches.split import SplitDocuments
    from framework.batches.tokenize import tokenize
    from framework.files import cache_dir

    documents = SplitDocuments(dataset, validation_dataset, split, validation_fraction)
    prepared = tokenizer.prepare(documents.training_texts, documents.training_fingerprint(), cache_dir() / "tokenizers")
    corpus = tokenize(output, documents, prepared, shard_tokens)
    corpus.verify()
    prepared.save(output / "tokenizer")
    print(f"{'':10} {'documents':>12} {'tokens':>16} {'shards':>7} {'MB':>10}")
    for side, shards in (("train", corpus.train), ("validation", corpus.validation)):
        print(_row(side, shards))


def _row(side: str, shards: list[Shard]) -> str:
    headers = [shard.header for shard in shards]
    documents, tokens = sum(header.documents for header in headers), sum(header.tokens for header in headers)
    size = sum(header.file_bytes for header in headers)
    return f"{side:10} {documents:12,} {tokens:16,} {len(headers):7} {size / 1e6:10,.1f}"
