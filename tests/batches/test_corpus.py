"""A directory of shards: index, agreement with the tokenizer, verification."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from framework.batches import corpus as module
from framework.batches.corpus import Corpus
from framework.batches.split import SplitDocuments
from framework.batches.tokenize import tokenize
from framework.errors import DataError, TokenizerError
from framework.testing.datasets import Texts
from framework.tokenizers.byte import Byte


@pytest.fixture
def directory(tmp_path: Path, corpus: Texts) -> Path:
    tokenize(tmp_path / "shards", SplitDocuments(corpus, validation_fraction=0.1), Byte(), shard_tokens=5000)
    return tmp_path / "shards"


def test_a_directory_without_an_index_is_unfinished(directory: Path) -> None:
    (directory / "index.json").unlink()
    with pytest.raises(DataError, match="no finished token shards"):
        Corpus(directory)


def test_a_damaged_index_is_named(directory: Path) -> None:
    for content in ("{", "[]", '{"made_from": {}, "train": [{"file": "x"}], "validation": []}'):
        (directory / "index.json").write_text(content)
        with pytest.raises(DataError, match=r"index\.json is damaged; delete"):
            Corpus(directory)


def test_a_missing_and_an_exchanged_shard_are_named(directory: Path) -> None:
    first, second = directory / "train-00000.tokens", directory / "train-00001.tokens"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match=r"train-00000\.tokens is altered: it is not the one in index\.json"):
        Corpus(directory)
    first.write_bytes(content)
    second.unlink()
    with pytest.raises(DataError, match=r"cannot read shard .*train-00001\.tokens"):
        Corpus(directory)


def test_any_flipped_bit_of_any_shard_is_seen(directory: Path) -> None:
    """Header and payload: opening or verifying raises, and never anything but DataError."""
    draw = random.Random(1)
    for path in sorted(directory.glob("*.tokens")):
        whole = path.read_bytes()
        for place in [*range(draw.randrange(17), 512, 17), *(draw.randrange(len(whole)) for _ in range(8))]:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=path.name):
                Corpus(directory).verify()
        path.write_bytes(whole)
    Corpus(directory).verify()


def test_another_tokenizer_does_not_fit(directory: Path) -> None:  # TRAP-16
    byte, other = Byte(), Byte(special_tokens=("<|endoftext|>", "<|new|>"))
    opened = Corpus(directory)
    opened.check_tokenizer(byte.fingerprint, byte.vocab_size)
    with pytest.raises(
        TokenizerError, match=rf"were made with another tokenizer .*vocabulary {byte.vocab_size}; yours .*, {other.vocab_size}"
    ):
        opened.check_tokenizer(other.fingerprint, other.vocab_size)
    with pytest.raises(TokenizerError, match="vocabulary ends at 99"):
        opened.check_tokenizer(byte.fingerprint, 100)


def test_large_corpora_are_verified_once_and_again_after_a_change(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALWAYS_VERIFIED_BYTES", 0)
    path = directory / "train-00000.tokens"
    Corpus(directory).verify()
    noted = json.loads((directory / "verified.json").read_bytes())
    assert noted[path.name] == [path.stat().st_size, path.stat().st_mtime_ns]

    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    before = path.stat()
    path.write_bytes(damaged)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    Corpus(directory).verify()  # size and time say nothing happened: a large corpus is not read again
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(DataError, match=r"train-00000\.tokens is altered"):
        Corpus(directory).verify()


def test_small_corpora_are_verified_every_time(directory: Path) -> None:
    Corpus(directory).verify()
    assert not (directory / "verified.json").exists()
