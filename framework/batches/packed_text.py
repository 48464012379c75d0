"""The DataModule of pretraining: a dataset's documents, tokenized once, cut into rows without padding.

A dataset (or token shards) and a tokenizer flow in, TokenBatches flow out. Must not know networks, losses or recipes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from framework.batches import order
from framework.batches.base import Batches
from framework.batches.corpus import Corpus
from framework.batches.loader import ENDLESS, Loader, share
from framework.batches.packing import Rows, Stream
from framework.batches.split import SplitDocuments
from framework.batches.tokenize import cache_key, made_from, tokenize
from framework.batches.types import TokenBatch
from framework.datasets.base import Documents
from framework.errors import DataError
from framework.files import cache_dir
from framework.tokenizers.base import Tokenizer

ORDERED_AT_ONCE = 8192  # rows: enough that working out their order costs nothing beside reading them


class PackedText(Batches):
    """Rows of `context_length` tokens cut from one endless stream of documents, each ended by EOS.

    Every epoch cuts the stream at other places and visits every row once, in an order that depends on the seed and the epoch only:
    neither on the number of workers nor on that of ranks. Validation reads every held-out token once, from the first to the last.

    Args:
        dataset: the documents; null when `shards` is given. Tokenized at the first use, and kept in `$FRAMEWORK_CACHE` by content.
        tokenizer: makes ids of them; one that is yet to be trained learns from the training documents.
        context_length: tokens in a row.
        batch_size: rows in a micro-batch.
        validation_dataset: documents held out; null: a part of `dataset`.
        validation_fraction: how much of `dataset` is held out; 0: nothing, and there is no validation.
        split: hash: whole documents, chosen by their content (copies stay on one side); tail: the last part of the text. A dataset
            too small for `hash` to leave documents on both sides is split by `tail`.
        shards: a directory made by `framework tokenize`, instead of `dataset`; the split was chosen there.
        mask_documents: true: tokens see and predict their own document only; false: rows are one text, faster and usually as good.
        seed: chooses the order of the rows.
        num_workers: processes that read ahead; 0 is enough here, since a batch takes microseconds.
    """

    def __init__(
        self,
        dataset: Documents | None,
        tokenizer: Tokenizer,
        context_length: int,
        batch_size: int,
        validation_dataset: Documents | None = None,
        validation_fraction: float = 0.05,
        split: Literal["hash", "tail"] = "hash",
        shards: Path | None = None,
        mask_documents: bool = False,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if (dataset is None) == (shards is None):
            raise ValueError("PackedText needs a dataset or shards, and not both; set the other one to null.")
        if shards is not None and validation_dataset is not None:
            raise ValueError("shards hold their own validation documents; set validation_dataset to null.")
        for name, value in (("context_length", context_length), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.batch_size = batch_size
        self.items_per_batch = batch_size * context_length
        self.shards = shards
        self.mask_documents = mask_documents
        self.seed = seed
        self.num_workers = num_workers
        self._documents = None if dataset is None else SplitDocuments(dataset, validation_dataset, split, validation_fraction)
        self._given_tokenizer = tokenizer

    def prepare_data(self) -> None:
        """Train the tokenizer and write the shards, unless the cache has them; check every shard's SHA-256. One process a node."""
        if self._documents is not None:
            tokenize(self._directory, self._documents, self._prepared_tokenizer)
        Corpus(self._directory).verify()

    def setup(self, stage: str | None = None) -> None:
        """Open the shards and check that tokenizer and lengths fit them."""
        self.tokenizer = self._prepared_tokenizer
        self.corpus.check_tokenizer(self.tokenizer.fingerprint, self.tokenizer.vocab_size)
        if self.train_tokens <= self.context_length:
            raise DataError(
                f"the training documents have {self.train_tokens:,} tokens, fewer than one row of context_length + 1 = "
                f"{self.context_length + 1:,}; give more text or a context_length of at most {max(1, self.train_tokens - 1)}."
            )

    @cached_property
    def _prepared_tokenizer(self) -> Tokenizer:
        documents = self._documents
        if documents is None:
            return self._given_tokenizer
        return self._given_tokenizer.prepare(documents.training_texts, documents.training_fingerprint(), cache_dir() / "tokenizers")

    @cached_property
    def _directory(self) -> Path:
        if self._documents is None:
            assert self.shards is not None
            return self.shards
        return cache_dir() / "shards" / cache_key(made_from(self._documents, self._prepared_tokenizer))

    @cached_property
    def corpus(self) -> Corpus:
        """The open shards; there once `prepare_data` ran."""
        return Corpus(self._directory)

    @cached_property
    def _train(self) -> Stream:
        return Stream(self.corpus.train, self.context_length, self.mask_documents)

    @cached_property
    def _validation(self) -> Stream:
        return Stream(self.corpus.validation, self.context_length, self.mask_documents)

    @property
    def train_tokens(self) -> int:
        """Tokens of the training documents, EOS included."""
        return self._train.num_tokens

    @property
    def validation_tokens(self) -> int:
        """Tokens of the held-out documents, EOS included."""
        return self._validation.num_tokens

    @property
    def num_windows(self) -> int:
        """Rows in an epoch."""
        return self.train_tokens // self.context_length

    def fingerprint(self) -> str:
        """Of what decides the training batches; there once `setup` ran. Validation, ranks and workers do not enter."""
        decides = (
            [shard.header.sha256 for shard in self.corpus.train],
            self.tokenizer.fingerprint,
            self.context_length,
            self.batch_size,
            self.mask_documents,
            self.seed,
            order.ORDER_VERSION,
        )
        return hashlib.sha256(repr(decides).encode()).hexdigest()

    def describe(self) -> dict[str, int | float | str]:
        """What a start-up summary shows; there once `setup` ran."""
        return {
            "train_tokens": self.train_tokens,
            "train_documents": sum(shard.header.documents for shard in self.corpus.train),
            "validation_tokens": self.validation_tokens,
            "validation_documents": sum(shard.header.documents for shard in self.corpus.validation),
            "rows_per_epoch": self.num_windows,
            "vocab_size": self.tokenizer.vocab_size,
            "shards": str(self._directory),
        }

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> Loader:
        """Micro-batches first_batch + rank, first_batch + rank + world, ... without end."""
        rank, world = self._rank()
        numbers = range(self.first_batch + rank, ENDLESS, world)
        return Loader(_TrainingBatches(self._train, self.seed, self.batch_size, self.num_windows, numbers), len(numbers), self.num_workers)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Every held-out token once over all ranks, each of which gets as many batches; those beyond the end are all IGNORE."""
        if self.validation_tokens < 2:
            return []
        rank, world = self._rank()
        batches = -(-(self.validation_tokens - 1) // (self.context_length * self.batch_size))
        numbers = range(rank, -(-batches // world) * world, world)
        return Loader(
            _ValidationBatches(self._validation, self.batch_size, numbers), len(numbers), num_workers=0
        )  # workers cost more to start


def _to_torch(rows: Rows) -> TokenBatch:
    ids_BT, targets_BT = torch.from_numpy(rows.ids_BT), torch.from_numpy(rows.targets_BT)
    positions_BT, documents_BT = (None if field is None else torch.from_numpy(field) for field in rows[2:])
    return TokenBatch(ids_BT, targets_BT, positions_BT, documents_BT)


class _TrainingBatches(IterableDataset[TokenBatch]):
    """Micro-batch `i` holds the windows that the order gives for i * batch_size, i * batch_size + 1, ..."""

    def __init__(self, stream: Stream, seed: int, batch_size: int, num_windows: int, numbers: range) -> None:
        self.stream, self.seed, self.batch_size, self.num_windows, self.numbers = stream, seed, batch_size, num_windows, numbers

    def __iter__(self) -> Iterator[TokenBatch]:
        numbers = iter(share(self.numbers))
        while some := list(itertools.islice(numbers, max(1, ORDERED_AT_ONCE // self.batch_size))):
            for starts_B in self._starts(np.array(some, dtype=np.int64)):
                yield _to_torch(self.stream.rows(starts_B))

    def _starts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows of micro-batches begin, shape [len(numbers), batch_size]; each epoch cuts the ring from a place of its own."""
        indices = numbers[:, None] * self.batch_size + np.arange(self.batch_size)
        windows, offsets = order.windows(self.seed, indices, self.num_windows)
        return (offsets % self.stream.num_tokens + windows * self.stream.context_length) % self.stream.num_tokens


class _ValidationBatches(IterableDataset[TokenBatch]):
    """Batch `i` holds the windows i * batch_size, i * batch_size + 1, ... of the stream, in its order."""

    def __init__(self, stream: Stream, batch_size: int, numbers: range) -> None:
        self.stream, self.batch_size, self.numbers = stream, batch_size, numbers

    def __iter__(self) -> Iterator[TokenBatch]:
        for number in share(self.numbers):
            windows = number * self.batch_size + np.arange(self.batch_size)
            yield _to_torch(self.stream.rows_once(windows * self.stream.context_length))
