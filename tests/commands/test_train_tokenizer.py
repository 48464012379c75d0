"""The command: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.commands import train_tokenizer as command
from framework.commands.train_tokenizer import train_tokenizer
from framework.datasets.base import Dataset, Document
from framework.errors import TokenizerError
from framework.tokenizers.pretrained import pretrained


class Sentences(Dataset[Document]):
    """Documents of a few words each."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Document]:
        for number in range(self.count):
            yield Document(f"the {number}th document says: the quick brown fox jumps over the lazy dog\n", f"memory:{number}")

    def fingerprint(self) -> str:
        return f"sentences-{self.count}"


def test_trains_saves_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_tokenizer(tmp_path, dataset=Sentences(100), vocab_size=320) is None
    tokenizer = pretrained(tmp_path)
    assert tokenizer.vocab_size == 320
    out, err = capsys.readouterr()
    total = sum(len(document.text) for document in Sentences(100))
    assert f"trained on 100 documents, {total:,} bytes" in out
    rows = {line[:16].strip(): line[16:].split() for line in out.splitlines()[3:]}
    tokens = sum(len(tokenizer.encode(document.text)) for document in Sentences(100))
    assert rows["this tokenizer"] == ["320", f"{tokens:,}", f"{total / tokens:.2f}"]
    assert rows["bytes"] == ["260", f"{total:,}", "1.00"]
    assert "reading" in err
    assert "reading" not in out


def test_the_table_is_measured_on_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SAMPLE", 10)
    train_tokenizer(tmp_path, dataset=Sentences(100), vocab_size=300)
    assert re.search(r"^on 10 of the documents, \d+ bytes:$", capsys.readouterr().out, re.MULTILINE)


def test_the_sample_is_drawn_from_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SAMPLE", 50)
    sample = command._Sample(Sentences(1000))
    assert sum(1 for _ in sample) == sample.documents == 1000
    numbers = [int(re.findall(r"\d+", text)[0]) for text in sample.texts]
    assert len(set(numbers)) == 50
    assert 350 < sum(numbers) / 50 < 650  # 499.5 give or take 41


def test_options_reach_the_tokenizer(tmp_path: Path) -> None:
    train_tokenizer(
        tmp_path, dataset=Sentences(50), vocab_size=270, pattern="gpt2", special_tokens=("<|endoftext|>", "<|x|>"), trainer="tokenizers"
    )
    assert pretrained(tmp_path).special_tokens == {"<|endoftext|>": 268, "<|x|>": 269}


@pytest.mark.parametrize(("count", "vocab_size", "message"), [(0, 300, "the corpus is empty"), (5, 100, "too small")])
def test_refuses(count: int, vocab_size: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=message):
        train_tokenizer(tmp_path / "output", dataset=Sentences(count), vocab_size=vocab_size)
    assert not (tmp_path / "output").exists()
