"""Contenders that read training batches, all in one process: PackedText and nanoGPT's random windows, from the same tokens."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch


def random_windows(file: Path, batch_size: int, context_length: int) -> Iterator[Any]:
    """nanoGPT's way, from its description: a fresh memory map, random starts (a tensor), an int64 copy of each slice, stacked."""
    while True:
        tokens = np.memmap(file, dtype=np.uint16, mode="r")
        starts = torch.randint(len(tokens) - context_length, (batch_size,))
        yield _stacked(tokens, starts, context_length), _stacked(tokens, starts + 1, context_length)


def polished_windows(file: Path, batch_size: int, context_length: int) -> Iterator[Any]:
    """The same with what costs it most taken out: the map stays open, and starts are Python numbers. No target, but good to know."""
    tokens = np.memmap(file, dtype=np.uint16, mode="r")
    while True:
        starts = torch.randint(len(tokens) - context_length, (batch_size,)).tolist()
        yield _stacked(tokens, starts, context_length), _stacked(tokens, [start + 1 for start in starts], context_length)


def _stacked(tokens: Any, starts: Any, context_length: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(tokens[start : start + context_length].astype(np.int64)) for start in starts])


def loaders(rounds: Any, directory: str, batch_size: int, context_length: int, seconds: float) -> None:
    """Every loader for `seconds` in turn; answers carry tokens a second by loader."""
    os.environ["FRAMEWORK_CACHE"] = directory
    from framework.batches.packed_text import PackedText
    from framework.datasets.text_files import StandardLibrary
    from framework.tokenizers.byte import Byte

    iterators: dict[str, Iterator[Any]] = {}
    for name, mask in (("PackedText", False), ("PackedText, mask_documents", True)):
        data = PackedText(StandardLibrary(), Byte(), context_length, batch_size, validation_fraction=0, mask_documents=mask)
        data.prepare_data()
        data.setup()
        iterators[name] = iter(data.train_dataloader())
    raw = Path(directory) / "train.bin"
    np.concatenate([shard.tokens for shard in data.corpus.train]).astype(np.uint16).tofile(raw)
    iterators["nanoGPT's random windows"] = random_windows(raw, batch_size, context_length)
    iterators["the same, polished"] = polished_windows(raw, batch_size, context_length)
    while True:
        rounds()
        rates = {}
        for name, iterator in iterators.items():
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                next(iterator)
                count += 1
            rates[name] = batch_size * context_length * count / spent
        rounds.note(rates=rates)
