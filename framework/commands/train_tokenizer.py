"""`framework train-tokenizer`: a BPE tokenizer from a corpus, and how well it does.

A dataset flows in; a directory with the tokenizer flows out, and a table on stdout.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from framework.datasets.base import Document, Documents
    from framework.tokenizers.base import Tokenizer

SAMPLE = 512  # documents that the table is measured on
STRETCH = 1 << 16  # characters of each


def train_tokenizer(
    output: Path,
    *,
    dataset: Documents,
    vocab_size: int = 4096,
    pattern: str = "gpt4",
    special_tokens: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"),
    trainer: Literal["rustbpe", "tokenizers"] = "rustbpe",
) -> None:
    """Train a BPE tokenizer on a corpus and save it where `framework`, transformers and vLLM can open it.

    Args:
        output: directory to write tokenizer.json and tokenizer_config.json into.
        dataset: the documents to learn from.
        vocab_size: number of ids, the 256 bytes and the special tokens included.
        pattern: how text splits before merging: gpt2, gpt4 or gpt4o, or a regular expression.
        special_tokens: spellings of the last ids, in order; `<|endoftext|>` must be among them.
        trainer: what trains: rustbpe (about four times as fast) or tokenizers.
    """
    from framework.tokenizers.bpe import BPE

    started, sample = time.perf_counter(), _Sample(dataset)
    tokenizer = BPE.train(_with_progress(sample), vocab_size, pattern, tuple(special_tokens), trainer)
    seconds = time.perf_counter() - started
    tokenizer.save(output)
    print(f"trained on {sample.documents:,} documents, {sample.bytes:,} bytes in {seconds:.1f} s; saved in {output}\n")
    _print_table({"this tokenizer": tokenizer, **_others()}, sample.texts)


class _Sample:
    """The documents' texts, of which as many as SAMPLE, drawn evenly, are kept (reservoir sampling, Vitter 1985), and their totals."""

    def __init__(self, dataset: Iterable[Document]) -> None:
        self._dataset = dataset
        self.texts: list[str] = []
        self.documents = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        import random

        from framework.tokenizers.text import utf8

        generator = random.Random(0)
        for text, _ in self._dataset:
            self.documents += 1
            self.bytes += len(utf8(text))
            if len(self.texts) < SAMPLE:
                self.texts.append(text[:STRETCH])
            elif (place := generator.randrange(self.documents)) < SAMPLE:
                self.texts[place] = text[:STRETCH]
            yield text


def _with_progress(texts: Iterable[str]) -> Iterator[str]:
    from tqdm import tqdm

    with tqdm(desc="reading", unit=" characters", unit_scale=True, file=sys.stderr) as bar:
        for text in texts:
            yield text
            bar.update(len(text))


def _others() -> dict[str, Tokenizer]:
    """What to compare with: bytes, and GPT-2's tokenizer where its vocabulary is on this machine."""
    from framework.tokenizers.byte import Byte
    from framework.tokenizers.tiktoken import Tiktoken, downloaded

    return {"bytes": Byte()} | ({"gpt2": Tiktoken("gpt2")} if downloaded("gpt2") else {})


def _print_table(tokenizers: dict[str, Tokenizer], texts: list[str]) -> None:
    from framework.tokenizers.text import utf8

    num_bytes = sum(len(utf8(text)) for text in texts)
    print(f"on {len(texts):,} of the documents, {num_bytes:,} bytes:")
    print(f"{'':16}{'vocabulary':>12}{'tokens':>12}{'bytes/token':>13}")
    for name, tokenizer in tokenizers.items():
        num_tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
        print(f"{name:16}{tokenizer.vocab_size:12,}{num_tokens:12,}{num_bytes / num_tokens:13.2f}")
