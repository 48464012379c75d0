"""Documents to shards: the same to the byte however often it is interrupted, and by however many processes it is wanted."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from framework.batches import tokenize as module
from framework.batches.corpus import Corpus
from framework.batches.shards import ShardWriter
from framework.batches.split import SplitDocuments
from framework.batches.tokenize import encode_documents, tokenize
from framework.datasets.base import Document, Documents
from framework.errors import DataError
from framework.testing.datasets import Texts
from framework.tokenizers.byte import Byte


class WithBos(Byte):
    """A tokenizer that begins every document with an id."""

    @property
    def bos_id(self) -> int | None:
        return self.special_tokens["<|endoftext|>"]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 300)


def content(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.name != ".lock"}


def documents(corpus: Corpus, side: str) -> list[list[int]]:
    shards = corpus.train if side == "train" else corpus.validation
    return [ids.tolist() for shard in shards for ids in np.split(shard.tokens, shard.ends[:-1].astype(np.int64))]


@pytest.mark.parametrize("tokenizer", [Byte(), WithBos()], ids=["eos", "bos and eos"])
def test_every_document_is_there_in_order(tmp_path: Path, corpus: Texts, tokenizer: Byte) -> None:
    split = SplitDocuments(corpus, validation_fraction=0.1)
    made = tokenize(tmp_path / "shards", split, tokenizer, shard_tokens=5000)
    assert len(made.train) > 3
    for side in ("train", "validation"):
        assert documents(made, side) == [tokenizer.encode_document(piece.text) for piece in split if piece.side == side]
    assert all(5000 <= shard.header.tokens < 5000 + 300 for shard in made.train[:-1])
    assert sorted(content(tmp_path / "shards")) == sorted(["index.json", *(shard.path.name for shard in [*made.train, *made.validation])])


@pytest.mark.parametrize("tokenizer", [Byte(), WithBos()], ids=["eos", "bos and eos"])
def test_encoding_many_equals_encoding_each(tokenizer: Byte) -> None:
    texts = ["one", "", "naïve 日本", "<|endoftext|>"]
    tokens, lengths = encode_documents(tokenizer, texts)
    assert [ids.tolist() for ids in np.split(tokens, np.cumsum(lengths)[:-1])] == [tokenizer.encode_document(text) for text in texts]


class Interrupted(Texts):
    """Fails after some documents, as a process that is stopped does."""

    def __init__(self, texts: list[str], stop: int) -> None:
        super().__init__(texts)
        self.stop = stop

    def __iter__(self) -> Iterator[Document]:
        for number, document in enumerate(super().__iter__()):
            if number == self.stop:
                raise KeyboardInterrupt
            yield document


def test_interrupted_anywhere_the_result_is_the_same_to_the_byte(tmp_path: Path, corpus: Texts) -> None:
    tokenize(tmp_path / "whole", SplitDocuments(corpus, validation_fraction=0.1), Byte(), shard_tokens=2000)
    for stop in (1, 60, 61, 110, 150, 199):
        split = SplitDocuments(Interrupted(corpus.texts, stop), validation_fraction=0.1)
        split._survey = SplitDocuments(corpus, validation_fraction=0.1)._survey  # the failure comes in the second pass
        with pytest.raises(KeyboardInterrupt):
            tokenize(tmp_path / "resumed", split, Byte(), shard_tokens=2000)
        assert not list((tmp_path / "resumed").glob("*.partial"))
    kept = content(tmp_path / "resumed")
    assert "train-00002.tokens" in kept
    assert "index.json" not in kept
    tokenize(tmp_path / "resumed", SplitDocuments(corpus, validation_fraction=0.1), Byte(), shard_tokens=2000)
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
from framework.batches import tokenize as module
from framework.batches.split import SplitDocuments
from framework.testing.datasets import Texts
from framework.tokenizers.byte import Byte

module.BATCH_CHARACTERS = 300
directory, stop = Path(sys.argv[1]), int(sys.argv[2])
passes = 0

class Killed(Texts):
    def __iter__(self):
        global passes
        passes += 1
        for number, document in enumerate(super().__iter__()):
            if passes == 2 and number == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            yield document

corpus = Killed([f"{number} " + "word " * (number % 30) for number in range(300)])
module.tokenize(directory, SplitDocuments(corpus, validation_fraction=0.1), Byte(), shard_tokens=2000)
"""


def run(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", KILLED, *map(str, arguments)], stderr=subprocess.PIPE)


def test_killed_and_started_again_the_result_is_the_same_to_the_byte(tmp_path: Path) -> None:
    whole, killed = run(tmp_path / "whole", -1), run(tmp_path / "killed", 200)
    assert whole.wait() == 0
    assert killed.wait() == -9
    left = content(tmp_path / "killed")
    assert "train-00003.tokens" in left
    assert "index.json" not in left
    assert any(name.endswith(".partial") for name in left)
    assert run(tmp_path / "killed", -1).wait() == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_two_processes_at_once_make_one_directory(tmp_path: Path) -> None:
    first, second = run(tmp_path / "both", -1), run(tmp_path / "both", -1)
    assert first.wait() == 0
    assert second.wait() == 0
    Corpus(tmp_path / "both").verify()


def test_a_finished_directory_is_not_read_for_again(tmp_path: Path, corpus: Texts) -> None:
    split = SplitDocuments(corpus)
    tokenize(tmp_path / "shards", split, Byte())
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "shards").iterdir()}
    again = SplitDocuments(Interrupted(corpus.texts, stop=0))  # the fingerprint is that of Texts; iterating would fail
    tokenize(tmp_path / "shards", again, Byte())
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "shards").iterdir()} == times


def test_a_directory_of_something_else_is_refused(tmp_path: Path, corpus: Texts) -> None:
    shards = tmp_path / "shards"
    tokenize(shards, SplitDocuments(corpus), Byte())
    with pytest.raises(DataError, match="made with another dataset; delete it or choose another"):
        tokenize(shards, SplitDocuments(Texts(["other", "text"])), Byte())
    with pytest.raises(DataError, match="made with another validation fraction, tokenizer;"):
        tokenize(shards, SplitDocuments(corpus, validation_fraction=0.3), Byte(("<|endoftext|>",)))
    (shards / "index.json").unlink()
    with pytest.raises(DataError, match="of unknown origin"):
        tokenize(shards, SplitDocuments(corpus), Byte())


def test_unfinished_work_on_something_else_is_refused(tmp_path: Path, corpus: Texts) -> None:
    split = SplitDocuments(Interrupted(corpus.texts, 199))
    split._survey = SplitDocuments(corpus)._survey
    with pytest.raises(KeyboardInterrupt):
        tokenize(tmp_path / "shards", split, Byte(), shard_tokens=2000)
    with pytest.raises(DataError, match="another dataset"):
        tokenize(tmp_path / "shards", SplitDocuments(Texts(["other", "text"])), Byte(), shard_tokens=2000)


def test_a_full_disk_is_one_clear_line(tmp_path: Path, corpus: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "_write", full)
    with pytest.raises(DataError, match=r"cannot make token shards in .*No space left on device"):
        tokenize(tmp_path / "shards", SplitDocuments(corpus), Byte())
    assert not list((tmp_path / "shards").glob("*.tokens*"))


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text"):
        tokenize(tmp_path / "shards", SplitDocuments(Texts([])), Byte())


class Generated(Documents):
    """Documents that are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Document]:
        return (Document(f"{number:08} " * 1000, "") for number in range(self.count))

    def fingerprint(self) -> str:
        return f"{self.count:064}"


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = []
    for count in (40, 400):
        tracemalloc.start()
        tokenize(tmp_path / str(count), SplitDocuments(Generated(count)), Byte(), shard_tokens=50_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
