"""The DataModule of reward models and DPO: pairs of replies, one of which was preferred.

Rows flow in, PairBatches flow out. Must not know networks, losses or recipes.

Shape legend: B pairs, R = 2B rows, T tokens a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from framework.batches.records import Encoded, Example, Records, TooLong
from framework.batches.types import IGNORE, PairBatch
from framework.datasets.base import Row, Rows
from framework.datasets.records import preference
from framework.tokenizers.base import Tokenizer


class Pair(NamedTuple):
    """A preference, ready for a batch."""

    chosen: Example
    rejected: Example
    margin: float


class Preferences(Records[Pair]):
    """Preference pairs in TRL's formats: `prompt`, `chosen`, `rejected` as strings or messages, the prompt possibly implicit in both.

    Args:
        dataset: the pairs; what `framework rank` writes is one.
        tokenizer: makes ids of them; a trained one, with --init_from the model's own.
        context_length: most tokens of prompt and reply together.
        batch_size: pairs in a micro-batch.
        validation_dataset: pairs held out; null: a part of `dataset`.
        validation_fraction: how much of `dataset` is held out, chosen by the prompt's content (all pairs of a prompt stay together); 0:
            nothing, and there is no validation.
        chat_template: how turns become tokens: chatml, simple, a .jinja file or a model directory; null with --init_from: the model's own.
        bucketing: whether pairs of like length share a batch: less padding, order a little less random.
        too_long: drop: leave out a pair of which a side is over context_length; truncate: keep the beginning (left out where a reply has
            no token left). Both are counted and said.
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
        bucketing: bool = True,
        too_long: TooLong = "drop",
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
            bucketing,
        )
        self.too_long = too_long
        self.items_per_batch = batch_size

    def further_settings(self) -> tuple[Any, ...]:
        """What happens to long ones."""
        return (self.too_long,)

    def encode(self, row: Row) -> Encoded[Pair]:
        """A pair's tokens."""
        record = preference(row)
        both = self.examples.preference(record)
        was_cut = any(len(side.ids) > self.context_length for side in both)
        chosen, rejected = (Example.beginning(rendered, self.context_length) for rendered in both)
        key = self.key(record.prompt)
        if (was_cut and self.too_long == "drop") or not (chosen.is_reply.any() and rejected.is_reply.any()):
            return Encoded(key, None)
        return Encoded(key, Pair(chosen, rejected, record.margin or 0.0), was_cut)

    @property
    def full_targets(self) -> int:
        """All but the last: every token of a pair is an input."""
        return self.context_length - 1

    def length(self, item: Pair) -> int:
        """Tokens of the longer side."""
        return max(len(item.chosen.ids), len(item.rejected.ids))

    def collate(self, numbers: Sequence[int], items: Sequence[Pair], counted: int) -> PairBatch:
        """The pairs, chosen replies first."""
        sides = [item.chosen for item in items] + [item.rejected for item in items]
        lengths = [len(side.ids) for side in sides]
        ids_RT = np.full((len(sides), max(lengths)), self.tokenizer.pad_id, dtype=np.int64)
        targets_RT = np.full(ids_RT.shape, IGNORE, dtype=np.int64)
        for row, side in enumerate(sides):
            ids_RT[row, : len(side.ids)] = side.ids
            targets_RT[row, : len(side.ids) - 1] = np.where(side.is_reply[1:], side.ids[1:], IGNORE)
        return PairBatch(
            torch.from_numpy(ids_RT),
            torch.from_numpy(targets_RT),
            torch.tensor(lengths),
            torch.tensor([item.margin for item in items]),
            torch.tensor(list(numbers)),
            torch.tensor([1.0] * counted + [0.0] * (len(items) - counted)),
        )

    def describe(self) -> dict[str, int | float | str]:
        """What a start-up line shows."""
        return {"train_pairs": len(self.train), "validation_pairs": len(self.validation), "vocab_size": self.tokenizer.vocab_size}
