"""The DataModule: what it prepares, what it serves, what it refuses."""

from __future__ import annotations

import itertools
import random
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from framework.batches.packed_text import PackedText
from framework.batches.split import SplitDocuments
from framework.batches.tokenize import tokenize
from framework.batches.types import IGNORE, TokenBatch
from framework.errors import DataError, TokenizerError
from framework.testing.datasets import Texts
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte
from framework.tokenizers.character import Character


def prepared(data: PackedText) -> PackedText:
    data.prepare_data()
    data.setup("fit")
    return data


def rows(batches: list[TokenBatch]) -> list[list[int]]:
    return [row for batch in batches for row in batch.ids_BT.tolist()]


def test_batches_have_the_promised_shape(corpus: Texts) -> None:
    data = prepared(PackedText(corpus, Byte(), context_length=32, batch_size=4))
    batch = next(iter(data.train_dataloader()))
    assert batch.ids_BT.shape == batch.targets_BT.shape == (4, 32)
    assert batch.ids_BT.dtype == batch.targets_BT.dtype == torch.int64
    assert torch.equal(batch.ids_BT[:, 1:], batch.targets_BT[:, :-1])  # exactly one shift: TRAP-18
    assert batch.positions_BT is None
    assert batch.documents_BT is None
    masked = next(iter(prepared(PackedText(corpus, Byte(), 32, 4, mask_documents=True)).train_dataloader()))
    assert masked.positions_BT is not None
    assert masked.documents_BT is not None


def test_an_epoch_visits_every_window_once_and_cuts_elsewhere_the_next_time() -> None:
    draw = random.Random(0)  # no 32 bytes occur twice
    texts = ["".join(draw.choices("abcdefghijklmnop", k=100)) for _ in range(60)]
    data = prepared(PackedText(Texts(texts), Byte(), context_length=32, batch_size=1))
    stream = np.concatenate([shard.tokens for shard in data.corpus.train])
    numbered = {tuple(np.take(stream, range(start, start + 32), mode="wrap").tolist()): start for start in range(len(stream))}
    batches = itertools.islice(data.train_dataloader(), 2 * data.num_windows)
    starts = [numbered[tuple(batch.ids_BT[0].tolist())] for batch in batches]
    first, second = starts[: data.num_windows], starts[data.num_windows :]
    for epoch in (first, second):
        trained = Counter((start + place) % len(stream) for start in epoch for place in range(32))
        assert set(trained.values()) == {1}
        assert len(trained) == data.num_windows * 32 > len(stream) - 32
    assert set(first) != set(second)


def test_the_first_batch_moves_the_start(corpus: Texts) -> None:
    data = prepared(PackedText(corpus, Byte(), 16, 3))
    whole = rows(list(itertools.islice(data.train_dataloader(), 40)))
    data.first_batch = 25
    assert rows(list(itertools.islice(data.train_dataloader(), 15))) == whole[75:]


def test_the_loaders_length_is_beyond_any_run_and_validation_is_finite(corpus: Texts) -> None:
    data = prepared(PackedText(corpus, Byte(), 16, 3))
    assert len(data.train_dataloader()) > 10**12
    validation = data.val_dataloader()
    assert not isinstance(validation, list)
    assert len(validation) == len(list(validation))


def test_reading_draws_no_random_numbers(corpus: Texts) -> None:
    data = prepared(PackedText(corpus, Byte(), 16, 3, num_workers=1))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(itertools.islice(data.train_dataloader(), 3))
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tokenizer_learns_from_the_training_documents_only(corpus: Texts) -> None:
    data = prepared(PackedText(Texts(["aab", "baa"]), Character(), 2, 1, validation_dataset=Texts(["bab"])))
    assert isinstance(data.tokenizer, Character)
    assert data.tokenizer.characters == "ab"
    with pytest.raises(TokenizerError, match="'c'"):
        PackedText(Texts(["aab", "baa"]), Character(), 2, 1, validation_dataset=Texts(["abc"])).prepare_data()


def test_every_rank_finds_what_one_process_prepared(corpus: Texts, cache: Path) -> None:
    def module() -> PackedText:
        return PackedText(corpus, BPE(300), 16, 3)

    module().prepare_data()
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file() and path.name != ".lock"}
    other = module()
    other.setup("fit")
    assert other.tokenizer.vocab_size == 300
    prepared(module())
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file() and path.name != ".lock"} == kept


def test_the_cache_is_by_content(corpus: Texts, cache: Path) -> None:
    for data in (
        PackedText(corpus, Byte(), 16, 3),
        PackedText(Texts(list(corpus.texts)), Byte(), 32, 5, seed=3),  # the same shards
        PackedText(corpus, Byte(("<|endoftext|>",)), 16, 3),
        PackedText(corpus, Byte(), 16, 3, validation_fraction=0.2),
        PackedText(corpus, Byte(), 16, 3, split="tail"),
        PackedText(Texts([*corpus.texts, "more"]), Byte(), 16, 3),
    ):
        prepared(data)
    assert len(list((cache / "shards").glob("*/index.json"))) == 5


def test_the_fingerprint_is_of_what_decides_the_batches(corpus: Texts) -> None:
    def fingerprint(dataset: Texts = corpus, tokenizer: Any = None, length: int = 16, rows: int = 3, **settings: Any) -> str:
        return prepared(PackedText(dataset, tokenizer or Byte(), length, rows, **settings)).fingerprint()

    same = fingerprint()
    assert fingerprint(Texts(list(corpus.texts))) == fingerprint(num_workers=1) == same
    others = [
        fingerprint(Texts(corpus.texts[100:])),
        fingerprint(tokenizer=Byte(("<|endoftext|>",))),
        fingerprint(length=17),
        fingerprint(rows=4),
        fingerprint(seed=1),
        fingerprint(mask_documents=True),
        fingerprint(validation_fraction=0.3),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_shards_of_the_users_own(corpus: Texts, tmp_path: Path) -> None:
    tokenize(tmp_path / "mine", SplitDocuments(corpus), Byte(), shard_tokens=3000)
    own, cached = prepared(PackedText(None, Byte(), 16, 3, shards=tmp_path / "mine")), prepared(PackedText(corpus, Byte(), 16, 3))
    take = [rows(list(itertools.islice(data.train_dataloader(), 50))) for data in (own, cached)]
    assert take[0] == take[1]  # how the corpus is cut into shards does not matter
    assert rows(list(own.val_dataloader())) == rows(list(cached.val_dataloader()))
    with pytest.raises(TokenizerError, match="another tokenizer"):
        prepared(PackedText(None, Byte(("<|endoftext|>",)), 16, 3, shards=tmp_path / "mine"))
    with pytest.raises(TokenizerError, match="not trained yet"):
        prepared(PackedText(None, BPE(300), 16, 3, shards=tmp_path / "mine"))


def test_an_altered_shard_is_seen_at_the_start_of_a_run(corpus: Texts) -> None:
    data = prepared(PackedText(corpus, Byte(), 16, 3))
    path = data.corpus.train[0].path
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=rf"shard {path} is altered"):
        PackedText(corpus, Byte(), 16, 3).prepare_data()
    path.write_bytes(damaged[:-100])
    with pytest.raises(DataError, match=rf"shard {path} is truncated"):
        PackedText(corpus, Byte(), 16, 3).prepare_data()


def test_too_little_text_for_a_row_is_named_with_the_numbers() -> None:
    data = PackedText(Texts(["four", "more"]), Byte(), context_length=10, batch_size=1, validation_fraction=0)
    with pytest.raises(DataError, match=r"have 10 tokens, fewer than one row of context_length . 1 = 11; .* at most 9"):
        prepared(data)
    assert next(
        iter(prepared(PackedText(Texts(["four", "more"]), Byte(), 9, 2, validation_fraction=0)).train_dataloader())
    ).ids_BT.shape == (2, 9)


def test_without_validation_there_is_no_validation_loader(corpus: Texts) -> None:
    assert prepared(PackedText(corpus, Byte(), 16, 3, validation_fraction=0)).val_dataloader() == []


def test_settings_that_cannot_be(corpus: Texts, tmp_path: Path) -> None:
    for settings, message in (
        ({"dataset": None}, "needs a dataset or shards"),
        ({"shards": tmp_path}, "and not both"),
        ({"context_length": 0}, "context_length must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"dataset": None, "shards": tmp_path, "validation_dataset": corpus}, "set validation_dataset to null"),
    ):
        with pytest.raises(ValueError, match=message):
            PackedText(**{"dataset": corpus, "tokenizer": Byte(), "context_length": 16, "batch_size": 3, **settings})


def test_the_summary_counts(corpus: Texts) -> None:
    data = prepared(PackedText(corpus, Byte(), 16, 3))
    summary = data.describe()
    assert summary["train_documents"] + summary["validation_documents"] == 200
    assert summary["train_tokens"] + summary["validation_tokens"] == sum(len(text.encode()) + 1 for text in corpus.texts)
    assert summary["rows_per_epoch"] == data.train_tokens // 16


class Listener(LightningModule):
    """Trains nothing and notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.validated = 0

    def training_step(self, batch: TokenBatch, index: int) -> torch.Tensor:
        self.seen += batch.ids_BT.tolist()
        return self.weight * 0

    def validation_step(self, batch: TokenBatch, index: int) -> None:
        self.validated += int((batch.targets_BT != IGNORE).sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_under_lightning_nothing_is_added_read_ahead_or_warned_of(corpus: Texts, tmp_path: Path, num_workers: int) -> None:
    data, listener = PackedText(corpus, Byte(), 16, 3, num_workers=num_workers), Listener()
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = Trainer(
            max_steps=6,
            max_epochs=-1,
            val_check_interval=3,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            accelerator="cpu",
            default_root_dir=tmp_path,
            **quiet,
        )
        trainer.fit(listener, data)
    assert not [str(warning.message) for warning in caught if "data" in str(warning.message).lower()]
    assert listener.seen == rows(list(itertools.islice(prepared(PackedText(corpus, Byte(), 16, 3)).train_dataloader(), 6)))
    assert listener.validated == 2 * (data.validation_tokens - 1)


def test_ranks_come_from_the_trainer(corpus: Texts) -> None:
    data = prepared(PackedText(corpus, Byte(), 16, 3))
    alone = rows(list(itertools.islice(data.train_dataloader(), 10)))
    data.trainer = SimpleNamespace(global_rank=1, world_size=2)  # type: ignore[assignment]
    assert rows(list(itertools.islice(data.train_dataloader(), 5))) == [
        row for number in (1, 3, 5, 7, 9) for row in alone[3 * number : 3 * number + 3]
    ]
