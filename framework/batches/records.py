"""What the DataModules of fine-tuning share: records read, rendered, split and kept in memory; batches of them in an order.

A dataset of rows, a tokenizer and a chat template flow in, items of ids flow out to the concrete DataModules, which make batches of
them. Must not know networks, losses or recipes.
"""

from __future__ import annotations

import hashlib
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from framework.batches import order
from framework.batches.base import Batches
from framework.batches.checks import check_targets
from framework.batches.loader import ENDLESS, Loader, share
from framework.batches.split import drawn
from framework.chat.examples import Examples
from framework.chat.rendered import Rendered
from framework.chat.template import ChatTemplate
from framework.datasets.base import Row, Rows
from framework.datasets.records import Turns, read
from framework.errors import DataError
from framework.tokenizers.base import Tokenizer

Item = TypeVar("Item")
TooLong = Literal["truncate", "drop"]
BUCKET_BATCHES = 64  # batches whose examples are sorted by length together


class Example(NamedTuple):
    """Tokens of a prompt with its reply, and which of them belong to the reply; both [tokens]."""

    ids: NDArray[np.int32]
    is_reply: NDArray[np.bool_]

    @classmethod
    def beginning(cls, rendered: Rendered, most: int) -> Example:
        """The first `most` tokens of what was rendered."""
        return cls(np.array(rendered.ids[:most], dtype=np.int32), np.array(rendered.is_reply[:most], dtype=np.bool_))


class Encoded(NamedTuple, Generic[Item]):
    """A record made ready.

    Attributes:
        key: what decides on which side of the split it is: the same for all records of one prompt.
        item: what batches are made of; None for a record that is left out, being too long.
        was_cut: whether the item is only the beginning of it.
    """

    key: str
    item: Item | None
    was_cut: bool = False


class Records(Batches, Generic[Item]):
    """Records in memory: `train` and `validation` hold their items once `setup` ran.

    Args:
        dataset: the records.
        tokenizer: makes ids of them; a trained one.
        context_length: most tokens of a row.
        batch_size: items in a micro-batch.
        validation_dataset: records held out; None: a part of `dataset`.
        validation_fraction: how much of `dataset` is held out, chosen by the prompt's content; 0: nothing.
        chat_template: how turns become tokens: a built-in template's name, a .jinja file or a model directory; None: the data holds no chats.
        max_bad_rows: share of rows that may be unfit for use before the run is refused.
        seed: chooses the order.
        num_workers: processes that put batches together.
        bucketing: whether items of like length share a batch.
    """

    def __init__(
        self,
        dataset: Rows,
        tokenizer: Tokenizer,
        context_length: int,
        batch_size: int,
        validation_dataset: Rows | None,
        validation_fraction: float,
        chat_template: str | None,
        max_bad_rows: float,
        seed: int,
        num_workers: int,
        bucketing: bool,
    ) -> None:
        super().__init__()
        for name, value in (("context_length", context_length), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if not 0 <= validation_fraction < 1 or not 0 <= max_bad_rows < 1:
            raise ValueError("validation_fraction and max_bad_rows must be at least 0 and under 1.")
        self.dataset, self.validation_dataset = dataset, validation_dataset
        self.tokenizer, self.context_length, self.batch_size = tokenizer, context_length, batch_size
        self.validation_fraction, self.max_bad_rows = 0.0 if validation_dataset else validation_fraction, max_bad_rows
        self.chat_template = None if chat_template is None else ChatTemplate.named(chat_template, tokenizer)
        self.seed, self.num_workers, self.bucketing = seed, num_workers, bucketing
        self.train: list[Item] = []
        self.validation: list[Item] = []
        self.num_dropped = self.num_cut = 0

    # what a concrete DataModule says

    @abstractmethod
    def encode(self, row: Row) -> Encoded[Item]:
        """A row's item. Raises RowError with the reason for one that is unfit for use."""

    @abstractmethod
    def length(self, item: Item) -> int:
        """Tokens of an item, by which batches are put together."""

    @abstractmethod
    def collate(self, numbers: Sequence[int], items: Sequence[Item], counted: int) -> Any:
        """The batch of some items, all but the first `counted` of them fillers that must not count; `numbers` are theirs in their part."""

    # set-up

    @cached_property
    def examples(self) -> Examples:
        """What renders records."""
        return Examples(self.tokenizer, self.chat_template)

    def setup(self, stage: str | None = None) -> None:
        """Read, render and split the records, once."""
        if self.train:
            return
        encoded = read(self.dataset, self.encode, self.max_bad_rows)
        held_out = [] if self.validation_dataset is None else read(self.validation_dataset, self.encode, self.max_bad_rows)
        usable = [each for each in encoded if each.item is not None]
        if self.validation_dataset is None and self.validation_fraction:
            chosen = [drawn(each.key.encode()) < self.validation_fraction for each in usable]
            if len(usable) > 1 and (not any(chosen) or all(chosen)):  # too few for chance: the last ones
                chosen = [number >= max(1, int(len(usable) * (1 - self.validation_fraction))) for number in range(len(usable))]
            held_out = [each for each, out in zip(usable, chosen) if out]
            usable = [each for each, out in zip(usable, chosen) if not out]
        self.train = [each.item for each in usable if each.item is not None]
        self.validation = [each.item for each in held_out if each.item is not None]
        self.num_dropped = sum(each.item is None for each in (*encoded, *held_out))
        self.num_cut = sum(each.was_cut for each in (*usable, *held_out))
        if not self.train:
            raise DataError(f"no record is left to train on: {self.num_dropped} are too long for context_length {self.context_length}.")
        if self.num_dropped or self.num_cut:
            parts = [
                f"{count:,} {what}" for count, what in ((self.num_cut, "cut to"), (self.num_dropped, "left out, too long for")) if count
            ]
            total = len(encoded) + (len(held_out) if self.validation_dataset is not None else 0)
            print(f"note: of {total:,} records {' and '.join(parts)} context_length {self.context_length}", file=sys.stderr)
        self.check(self.training_batch(0), "the first batch")

    def check(self, batch: Any, where: str) -> None:
        """Raise DataError for a batch that would train nothing, or a reply without its end."""
        check_targets(batch[0], batch[1], self.examples.end_ids, self.full_targets, where)

    @property
    def full_targets(self) -> int:
        """Places of a row that was cut which have a target: all of them, where one more token is a target only."""
        return self.context_length

    def key(self, turns: Turns) -> str:
        """What stands for a prompt in the split."""
        return turns if isinstance(turns, str) else "\0".join(f"{turn.role}\1{turn.content}" for turn in turns)

    def fingerprint(self) -> str:
        """Of what decides the training batches; validation, ranks and workers do not enter."""
        decides = (
            type(self).__name__,
            self.dataset.fingerprint(),
            self.tokenizer.fingerprint,
            None if self.chat_template is None else self.chat_template.source,
            self.context_length,
            self.batch_size,
            self.validation_fraction,
            self.bucketing,
            self.seed,
            order.ORDER_VERSION,
            self.further_settings(),
        )
        return hashlib.sha256(repr(decides).encode()).hexdigest()

    def further_settings(self) -> tuple[Any, ...]:
        """What of a concrete DataModule's own settings decides its batches."""
        return ()

    def describe(self) -> dict[str, int | float | str]:
        """What a start-up line shows."""
        return {"train_examples": len(self.train), "validation_examples": len(self.validation), "vocab_size": self.tokenizer.vocab_size}

    # batches

    def rows(self) -> Sequence[Sequence[int]]:
        """The training items' numbers, one sequence a row of a batch; more than one in a row are packed."""
        return [(number,) for number in range(len(self.train))]

    @cached_property
    def _rows(self) -> Sequence[Sequence[int]]:
        return self.rows()

    @cached_property
    def _row_lengths(self) -> NDArray[np.int64]:
        return np.array([sum(self.length(self.train[number]) for number in row) for row in self._rows], dtype=np.int64)

    @property
    def num_rows(self) -> int:
        """Rows in an epoch."""
        return len(self._rows)

    def training_rows(self, number: int) -> list[int]:
        """The rows of micro-batch `number`: each row once an epoch, in an order that depends on seed and epoch only."""
        group = BUCKET_BATCHES if self.bucketing else 1
        first = number // group * group
        indices = np.arange(first * self.batch_size, (first + group) * self.batch_size, dtype=np.int64)
        visited, _ = order.windows(self.seed, indices, self.num_rows)
        if group == 1:
            return visited.tolist()
        visited = visited[np.argsort(-self._row_lengths[visited], kind="stable")]
        shuffled, _ = order.windows(self.seed + 1, np.arange(first, first + group), group)  # else every group would begin with its longest
        place = int(shuffled[number - first])
        return visited[place * self.batch_size : (place + 1) * self.batch_size].tolist()

    def training_batch(self, number: int) -> Any:
        """Micro-batch `number` of the run."""
        numbers = [each for row in self.training_rows(number) for each in self._rows[row]]
        return self.collate(numbers, [self.train[each] for each in numbers], len(numbers))

    def validation_batch(self, number: int) -> Any:
        """Validation batch `number`: every item once, the longest first; beyond the end only fillers."""
        start = number * self.batch_size
        numbers = self._by_length[start : start + self.batch_size]
        chosen = numbers or self._by_length[:1]
        return self.collate(chosen, [self.validation[each] for each in chosen], len(numbers))

    @cached_property
    def _by_length(self) -> list[int]:
        return sorted(range(len(self.validation)), key=lambda number: -self.length(self.validation[number]))

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> Any:
        """Micro-batches first_batch + rank, first_batch + rank + world, ... without end."""
        rank, world = self._rank()
        numbers = range(self.first_batch + rank, ENDLESS, world)
        return Loader(_Numbered(self, "training_batch", numbers), len(numbers), self.num_workers)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Every held-out item once over all ranks, each of which gets as many batches."""
        if not self.validation:
            return []
        rank, world = self._rank()
        batches = -(-len(self.validation) // self.batch_size)
        numbers = range(rank, -(-batches // world) * world, world)
        return Loader(_Numbered(self, "validation_batch", numbers), len(numbers), num_workers=0)


class _Numbered(IterableDataset[Any]):
    """The batches of some numbers."""

    def __init__(self, records: Records[Any], side: Literal["training_batch", "validation_batch"], numbers: range) -> None:
        self.records, self.side, self.numbers = records, side, numbers

    def __iter__(self) -> Iterator[Any]:
        make = getattr(self.records, self.side)
        for number in share(self.numbers):
            yield make(number)
