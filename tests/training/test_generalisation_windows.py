"""Windows: what is prefix and what continuation in every kind of row, and that the sample of rows is an even one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from framework.batches.demonstrations import Demonstrations
from framework.batches.packed_text import PackedText
from framework.batches.types import IGNORE, TokenBatch
from framework.datasets.json_lines import JsonLines
from framework.datasets.text_files import TextFiles
from framework.tokenizers.byte import Byte
from framework.training.generalisation_windows import Reservoir, Window, windows_of


def test_running_text() -> None:
    text = list(range(10))
    assert list(windows_of(text[:-1], text[1:], None, 4, 3)) == [Window([0, 1, 2, 3, 4, 5, 6], 3)]
    assert list(windows_of(text[:-1], text[1:], None, 7, 3)) == [Window(text, 3)]  # the last target is a token too
    assert list(windows_of(text[:-1], text[1:], None, 7, 4)) == []
    window = Window([0, 1, 2, 3, 4, 5, 6], 3)
    assert (window.prefix, window.continuation) == ([0, 1, 2, 3], [4, 5, 6])


def test_prompts_with_replies_in_one_row() -> None:
    ids = [1, 2, 3, 4, 5, 11, 12, 13, 0, 0]
    targets = [IGNORE, IGNORE, 4, 5, 6, IGNORE, 13, 14, IGNORE, IGNORE]
    documents = [0, 0, 0, 0, 0, 1, 1, 1, -1, -1]
    found = list(windows_of(ids, targets, documents, 99, 2))
    assert found == [Window([1, 2, 3, 4, 5], 2), Window([11, 12, 13, 14], 2)]
    assert list(windows_of(ids, targets, documents, 99, 8)) == [Window([1, 2, 3, 4, 5, 6], 3), Window([11, 12, 13, 14], 2)]


def test_windows_of_real_batches_are_text_of_the_data(corpus: Path, tmp_path: Path) -> None:
    for mask in (False, True):
        data = PackedText(TextFiles(str(corpus)), Byte(), context_length=64, batch_size=4, mask_documents=mask)
        data.prepare_data()
        data.setup()
        reservoir = Reservoir(5, 20, 10, 0)
        reservoir.offer(next(iter(data.train_dataloader())))
        whole = [file.read_bytes() for file in corpus.iterdir()]
        assert reservoir.windows
        for window in reservoir.windows:
            pieces = bytes(0 if each == data.tokenizer.eos_id else each for each in window.ids).split(b"\0")
            assert all(any(piece in text for text in whole) for piece in pieces) and len(window.ids) == 30
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "say {number}:", "completion": "number {number}"}}\n' for number in range(10, 60)))
    sums = Demonstrations(JsonLines(str(rows)), Byte(), context_length=64, batch_size=4)
    sums.setup()
    reservoir = Reservoir(30, 20, 100, 0)
    for number in range(4):
        reservoir.offer(sums.training_batch(number))
    assert len(reservoir.windows) > 10
    for window in reservoir.windows:
        text = Byte().decode(window.prefix), Byte().decode(window.continuation[:-1])
        assert (
            text[0].removeprefix("say ").removesuffix(":") == text[1].removeprefix("number ") and window.continuation[-1] == Byte().eos_id
        )


def rows_of(numbers: range) -> TokenBatch:
    ids = torch.tensor([[number, 0, 0] for number in numbers])
    return TokenBatch(ids, torch.zeros_like(ids))


def test_every_row_is_as_likely_to_stay() -> None:
    """100 rows, 5 kept, 2000 seeds: each should be kept 100 times, with a standard deviation under 10."""
    kept: Counter[int] = Counter()
    for seed in range(2000):
        reservoir = Reservoir(5, 2, 1, seed)
        for start in range(0, 100, 7):
            reservoir.offer(rows_of(range(start, min(start + 7, 100))))
        assert len(reservoir.windows) == 5
        kept.update(window.ids[0] for window in reservoir.windows)
    counts = [kept[number] for number in range(100)]
    assert sum(counts) == 10_000 and min(counts) > 60 and max(counts) < 140
    assert sum((count - 100) ** 2 / 95 for count in counts) < 150  # chi-squared of 99 degrees of freedom: 1 in 1,000 is over 149


def test_the_sample_does_not_depend_on_batches_or_interruptions() -> None:
    whole, parts = Reservoir(4, 2, 1, 0), Reservoir(4, 2, 1, 0)
    whole.offer(rows_of(range(50)))
    for start in range(0, 50, 10):
        state: dict[str, Any] = parts.state_dict()
        parts = Reservoir(4, 2, 1, 0)
        parts.load_state_dict(state)
        parts.offer(rows_of(range(start, start + 10)))
    assert whole.windows == parts.windows and whole.state_dict() == parts.state_dict()


def test_equal_windows_count_once() -> None:
    reservoir = Reservoir(4, 2, 1, 0)
    for _ in range(20):
        reservoir.offer(rows_of(range(1)))
    assert reservoir.windows == [Window([0, 0, 0], 1)]
