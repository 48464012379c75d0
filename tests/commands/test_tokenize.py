"""`framework tokenize`: what it writes, what it prints, and that PackedText trains on it."""

from __future__ import annotations

from pathlib import Path

import jsonargparse
import pytest

from framework.batches.corpus import Corpus
from framework.commands.tokenize import tokenize
from framework.errors import DataError
from framework.testing.datasets import Texts
from framework.tokenizers.bpe import BPE
from framework.tokenizers.byte import Byte


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAMEWORK_CACHE", str(tmp_path / "cache"))


CORPUS = Texts([f"document {number} " + "word " * (number % 17) for number in range(300)])


def test_shards_summary_and_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenize(tmp_path / "shards", dataset=CORPUS, tokenizer=BPE(300), shard_tokens=4000)
    corpus = Corpus(tmp_path / "shards")
    train, validation = (sum(shard.header.tokens for shard in shards) for shards in (corpus.train, corpus.validation))
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert lines[0] == ["documents", "tokens", "shards", "MB"]
    assert lines[1][0] == "train"
    assert lines[1][2] == f"{train:,}"
    assert lines[1][3] == str(len(corpus.train))
    assert lines[2][0] == "validation"
    assert lines[2][2] == f"{validation:,}"
    kept = BPE(path=tmp_path / "shards" / "tokenizer")
    corpus.check_tokenizer(kept.fingerprint, kept.vocab_size)


def test_finished_it_does_nothing_and_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenize(tmp_path / "shards", dataset=CORPUS, tokenizer=Byte())
    first = capsys.readouterr().out
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "shards").iterdir() if file.is_file()}
    tokenize(tmp_path / "shards", dataset=CORPUS, tokenizer=Byte())
    assert capsys.readouterr().out == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "shards").iterdir() if file.is_file()} == times


def test_a_directory_of_another_corpus_is_refused(tmp_path: Path) -> None:
    tokenize(tmp_path / "shards", dataset=CORPUS, tokenizer=Byte())
    with pytest.raises(DataError, match="made with another dataset"):
        tokenize(tmp_path / "shards", dataset=Texts(["another"] * 3), tokenizer=Byte())


def test_the_signature_is_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text to split")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(tokenize, as_positional=True)
    arguments = [str(tmp_path / "shards"), "--dataset", "framework.datasets.TextFiles", "--dataset.paths", str(tmp_path / "text.txt")]
    parsed = parser.parse_args([*arguments, "--tokenizer", "framework.tokenizers.Byte", "--split", "tail", "--validation_fraction", "0.5"])
    tokenize(**parser.instantiate(parsed).as_dict())
    corpus = Corpus(tmp_path / "shards")
    assert [shard.header.tokens for shard in (*corpus.train, *corpus.validation)] == [10, 10]
