"""A small model with a trained tokenizer, as a generator of ours and as transformers opens it; rows and documents in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.checkpoint import save
from framework.datasets.base import Document, Documents, Row, Rows
from framework.generation import Generator
from framework.networks.shape import NetworkShape
from framework.networks.transformer import Transformer
from framework.tokenizers.bpe import BPE

CONTEXT = 48


class Texts(Documents):
    """Documents that are given."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[Document]:
        return (Document(text, f"text:{number}") for number, text in enumerate(self.texts, start=1))

    def fingerprint(self) -> str:
        return "texts"


class Table(Rows):
    """Rows that are given."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.given = rows

    def rows(self) -> Iterator[Row]:
        return (Row(row, f"row:{number}") for number, row in enumerate(self.given, start=1))

    def fingerprint(self) -> str:
        return "table"


@pytest.fixture(scope="session")
def texts() -> type[Texts]:
    """Documents of given texts."""
    return Texts


@pytest.fixture(scope="session")
def table() -> type[Table]:
    """Rows of given fields."""
    return Table


@pytest.fixture(scope="session")
def sentences(corpus: Path) -> list[str]:
    """Thirty texts, of lengths from a few tokens to several windows."""
    return [file.read_text(encoding="utf-8")[: 20 + 30 * number] for number, file in enumerate(sorted(corpus.iterdir()))]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, sentences: Sequence[str]) -> Path:
    """The directory of a Llama-shaped model that prefers some tokens to others."""
    folder = tmp_path_factory.mktemp("judged")
    tokenizer = BPE(vocab_size=300).prepare(lambda: sentences, "sentences", folder)
    torch.manual_seed(0)
    shape = NetworkShape(2, 32, 4, 2, feedforward="swiglu", norm="rms", positions="rotary", tied_embeddings=False)
    network = Transformer(shape, tokenizer.vocab_size, CONTEXT).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    save(folder / "model", network, tokenizer, {})
    return folder / "model"


@pytest.fixture
def generator(model: Path) -> Generator:
    """The model, ready to write."""
    return Generator.load(model)


@pytest.fixture(scope="session")
def theirs(model: Path) -> tuple[Any, Any]:
    """(network, tokenizer) as transformers opens the model."""
    transformers = pytest.importorskip("transformers")
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    return network, transformers.AutoTokenizer.from_pretrained(model)


@pytest.fixture(scope="session")
def their_nats(theirs: tuple[Any, Any]) -> Callable[[Sequence[int]], torch.Tensor]:
    """-log p of each id but the first, given all before it: ids that fit into one forward."""

    def nats(ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            logits_TV = theirs[0](torch.tensor([list(ids)])).logits[0, :-1].double()
        return -logits_TV.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]

    return nats
