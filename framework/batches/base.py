"""What every DataModule of this project is: it prepares the tokenizer, serves batches from any position, and knows what it is.

Datasets and a tokenizer flow in, batches flow out. Must not know networks, losses or recipes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from framework.chat.template import ChatTemplate
from framework.tokenizers.base import Tokenizer


class Batches(LightningDataModule, ABC):
    """Training and validation batches for a recipe.

    Micro-batch number `i` of the whole run (over all ranks) has the same rows whatever the number of ranks or workers:
    rank r of w yields numbers first_batch + r, first_batch + r + w, ... without end (`__len__` of the loader is huge).

    Attributes:
        tokenizer: ready for use once `setup` ran.
        items_per_batch: trained items of a full micro-batch (rows x context_length for tokens); a constant that cancels in the gradient.
        context_length: tokens in a row at most.
        chat_template: how its turns became tokens; None where there are none.
        first_batch: global number of the first micro-batch the training loader yields; a resumed run sets it before loaders exist.
    """

    tokenizer: Tokenizer
    items_per_batch: int
    context_length: int
    first_batch: int = 0
    chat_template: ChatTemplate | None = None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Lightning's, without its walk through nested containers: a batch is a NamedTuple of tensors."""
        return type(batch)(*(None if field is None else field.to(device, non_blocking=True) for field in batch))

    @abstractmethod
    def describe(self) -> dict[str, int | float | str]:
        """What a start-up line shows: counts of tokens, documents, rows; there once `setup` ran."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) over what decides the training batches: data, tokenizer, lengths, batch size, seed. A resumed run must match."""
