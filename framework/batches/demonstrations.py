"""The DataModule of supervised fine-tuning: demonstrations, of which the replies are trained.

Rows flow in, TokenBatches flow out. Must not know networks, losses or recipes.

Shape legend: B rows, T tokens a row, N trained ones of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from framework.batches import bins
from framework.batches.records import Encoded, Example, Records, TooLong
from framework.batches.types import IGNORE, TokenBatch
from framework.datasets.base import Row, Rows
from framework.datasets.records import demonstration
from framework.tokenizers.base import Tokenizer


class Demonstrations(Records[Example]):
    """Demonstrations: chats (`messages`), `prompt` and `completion`, `text`, Alpaca's and ShareGPT's formats, read as they are.

    Of a chat every assistant turn and the token that ends it is trained, of a completion its text and the end token; nothing else.

    Args:
        dataset: the records.
        tokenizer: makes ids of them; a trained one, with --init_from the model's own.
        context_length: most tokens of a row.
        batch_size: rows in a micro-batch.
        validation_dataset: records held out; null: a part of `dataset`.
        validation_fraction: how much of `dataset` is held out, chosen by the prompt's content; 0: nothing, and there is no validation.
        chat_template: how turns become tokens: chatml, simple, a .jinja file or a model directory; null with --init_from: the model's own.
        packing: true: several demonstrations share a row, none seeing another, so that little is padding; false: one a row.
        bucketing: without packing, whether demonstrations of like length share a batch: less padding, order a little less random.
        too_long: truncate: keep the beginning of a demonstration over context_length (left out where no trained token remains); drop: leave
            it out. Both are counted and said.
        max_bad_rows: share of rows that may be unfit for use (each is named) before the run is refused.
        seed: chooses the order.
        num_workers: processes that put batches together; 0 is mostly enough.
    """

    def __init__(
        self,
        dataset: Rows,
        tokenizer: Tokenizer,
        context_length: int,
        batch_size: int,
        validation_dataset: Rows | None = None,
        validation_fraction: float = 0.05,
        chat_template: str | None = None,
        packing: bool = True,
        bucketing: bool = True,
        too_long: TooLong = "truncate",
        max_bad_rows: float = 0.0,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            dataset,
            tokenizer,
            context_length,
            batch_size,
            validation_dataset,
            validation_fraction,
            chat_template,
            max_bad_rows,
            seed,
            num_workers,
            bucketing and not packing,
        )
        self.packing, self.too_long = packing, too_long
        self.items_per_batch = batch_size * context_length

    def further_settings(self) -> tuple[Any, ...]:
        """Packing, and what happens to long ones."""
        return self.packing, self.too_long

    def encode(self, row: Row) -> Encoded[Example]:
        """A demonstration's tokens, cut where they are too many."""
        record = demonstration(row)
        rendered = self.examples.demonstration(record)
        most = self.context_length + 1  # the last token is a target only
        was_cut = len(rendered.ids) > most
        example = Example.beginning(rendered, most)
        key = self.key(record.prompt) if record.prompt else self.key(record.reply)
        if (was_cut and self.too_long == "drop") or not example.is_reply[1:].any():
            return Encoded(key, None)
        return Encoded(key, example, was_cut)

    def length(self, item: Example) -> int:
        """Inputs: all tokens but the last."""
        return len(item.ids) - 1

    def rows(self) -> Sequence[Sequence[int]]:
        """Packs, or one demonstration a row."""
        return bins.pack([self.length(item) for item in self.train], self.context_length) if self.packing else super().rows()

    def training_batch(self, number: int) -> TokenBatch:
        """Micro-batch `number` of the run."""
        rows = [[self.train[each] for each in self._rows[row]] for row in self.training_rows(number)]
        return _batch(rows, self.packing, self.tokenizer.pad_id)

    def collate(self, numbers: Sequence[int], items: Sequence[Example], counted: int) -> TokenBatch:
        """One demonstration a row; a filler has no target."""
        return _batch([[item] for item in items], False, self.tokenizer.pad_id, counted)

    def describe(self) -> dict[str, int | float | str]:
        """What a start-up line shows."""
        trained = sum(int(item.is_reply[1:].sum()) for item in self.train)
        return {**super().describe(), "trained_tokens": trained, "rows_per_epoch": self.num_rows}


def _batch(rows: Sequence[Sequence[Example]], packed: bool, pad_id: int, counted: int | None = None) -> TokenBatch:
    """Rows of demonstrations one after the other, padded on the right to the longest; positions and documents where they are packed.

    Of rows beyond the first `counted`, if it is given, nothing is trained.
    """
    width = max(sum(len(item.ids) - 1 for item in row) for row in rows)
    ids_BT = np.full((len(rows), width), pad_id, dtype=np.int64)
    targets_BT = np.full((len(rows), width), IGNORE, dtype=np.int64)
    positions_BT = np.zeros((len(rows), width), dtype=np.int64)
    documents_BT = np.full((len(rows), width), -1, dtype=np.int64)  # padding sees padding only
    for row, items in enumerate(rows):
        start = 0
        for number, item in enumerate(items):
            place = slice(start, start := start + len(item.ids) - 1)
            ids_BT[row, place] = item.ids[:-1]
            targets_BT[row, place] = np.where(item.is_reply[1:], item.ids[1:], IGNORE)
            positions_BT[row, place] = np.arange(len(item.ids) - 1)
            documents_BT[row, place] = number
        positions_BT[row, start:] = np.arange(width - start)
    if counted is not None:
        targets_BT[counted:] = IGNORE
    places_2N = np.stack(np.nonzero(targets_BT != IGNORE))
    ids, targets, positions, documents, places = map(torch.from_numpy, (ids_BT, targets_BT, positions_BT, documents_BT, places_2N))
    return TokenBatch(ids, targets, positions if packed else None, documents if packed else None, places)
