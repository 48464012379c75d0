"""The DataModule of reinforcement learning: prompts, to which the policy itself writes the replies it learns from.

Rows flow in, prompts by number flow out; training batches are the recipe's, whose policy writes them. Must not know networks or losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from framework.batches import order
from framework.batches.records import Encoded, Records
from framework.batches.types import PromptBatch
from framework.datasets.base import Row, Rows
from framework.datasets.records import Turns, prompt
from framework.errors import DataError
from framework.tokenizers.base import Tokenizer


class Question(NamedTuple):
    """A prompt, ready to be answered.

    Attributes:
        ids: what the policy is prompted with.
        text: the prompt as text, of a chat its last message; for rewards and people.
        fields: further fields of its row, for rewards.
    """

    ids: list[int]
    text: str
    fields: Mapping[str, Any]


@runtime_checkable
class WritesRollouts(Protocol):
    """A recipe whose policy writes the training batches."""

    def rollouts(self) -> Any:
        """A sized iterable of this rank's micro-batches, from `first_batch` on."""


class Prompts(Records[Question]):
    """Prompts: `prompt` as a string or messages, further fields (the right answer, say) for reward functions.

    Args:
        dataset: the prompts.
        tokenizer: makes ids of them; a trained one, with --init_from the model's own.
        context_length: most tokens of prompt and reply together.
        max_new_tokens: most tokens of a reply.
        batch_size: replies in a micro-batch.
        validation_dataset: prompts held out; null: a part of `dataset`.
        validation_fraction: how much of `dataset` is held out, chosen by the prompt's content; 0: nothing, and there is no validation.
        chat_template: how turns become tokens: chatml, simple, a .jinja file or a model directory; null with --init_from: the model's own.
        max_bad_rows: share of rows that may be unfit for use (each is named) before the run is refused.
        seed: chooses the order of the prompts, and the policy's draws.
    """

    def __init__(
        self,
        dataset: Rows,
        tokenizer: Tokenizer,
        context_length: int,
        max_new_tokens: int,
        batch_size: int,
        validation_dataset: Rows | None = None,
        validation_fraction: float = 0.05,
        chat_template: str | None = None,
        max_bad_rows: float = 0.0,
        seed: int = 0,
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
            0,
            False,
        )
        if not 1 <= max_new_tokens < context_length:
            raise ValueError(
                f"max_new_tokens ({max_new_tokens}) must be at least 1 and leave room for a prompt in context_length ({context_length})."
            )
        self.max_new_tokens = max_new_tokens
        self.items_per_batch = batch_size

    def further_settings(self) -> tuple[Any, ...]:
        """How long replies may be."""
        return (self.max_new_tokens,)

    def encode(self, row: Row) -> Encoded[Question]:
        """A prompt's ids; one that leaves no room for the reply is left out."""
        record = prompt(row)
        ids = self.examples.prompt(record.prompt)
        fits = len(ids) + self.max_new_tokens <= self.context_length
        return Encoded(self.key(record.prompt), Question(ids, _last(record.prompt), dict(record.fields)) if fits else None)

    def length(self, item: Question) -> int:
        """Tokens of the prompt."""
        return len(item.ids)

    def collate(self, numbers: Sequence[int], items: Sequence[Question], counted: int) -> PromptBatch:
        """The prompts' numbers: the recipe looks them up."""
        return PromptBatch(torch.tensor(list(numbers)), torch.tensor([1.0] * counted + [0.0] * (len(items) - counted)))

    def check(self, batch: PromptBatch, where: str) -> None:
        """Nothing: what is trained is not written yet."""

    def question(self, index: int) -> Question:
        """The prompt at a place of the endless order of training: each once an epoch, in an order of its own."""
        visited, _ = order.windows(self.seed, np.array([index], dtype=np.int64), len(self.train))
        return self.train[int(visited[0])]

    def train_dataloader(self) -> Any:
        """What the recipe's policy writes."""
        recipe = None if self.trainer is None else self.trainer.lightning_module
        if not isinstance(recipe, WritesRollouts):
            raise DataError("Prompts hold no replies to train on: use them with a recipe whose policy writes some (PPO, GRPO).")
        return recipe.rollouts()

    def describe(self) -> dict[str, int | float | str]:
        """What a start-up line shows."""
        return {"train_prompts": len(self.train), "validation_prompts": len(self.validation), "vocab_size": self.tokenizer.vocab_size}


def _last(turns: Turns) -> str:
    return turns if isinstance(turns, str) else turns[-1].content
