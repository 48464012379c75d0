"""Ready examples of the built-in tokenizers that need a corpus or a path (entry points `framework.testing`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.character import Character
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.pretrained import pretrained as open_pretrained
from framework.tokenizers.tiktoken import Tiktoken, downloaded

TEXT = "She sells sea shells by the sea shore; the shells she sells are sea shells, I'm sure.\n" * 5


def bpe() -> BPE:
    """As many merges as the text has in plenty."""
    return BPE.train([TEXT], vocab_size=280)


def character() -> Tokenizer:
    """The characters of the text."""
    with tempfile.TemporaryDirectory() as cache:
        return Character().prepare(lambda: [TEXT], "example", Path(cache))


def hugging_face() -> HuggingFace:
    """Somebody's tokenizer.json."""
    with tempfile.TemporaryDirectory() as folder:
        bpe().save(Path(folder))
        return HuggingFace(Path(folder))


def pretrained() -> Tokenizer:
    """A model directory's tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        bpe().save(Path(folder))
        return open_pretrained(Path(folder))


def tiktoken() -> Tiktoken | None:
    """GPT-2's, where its vocabulary is on this machine; a check must not download."""
    return Tiktoken("gpt2") if downloaded("gpt2") else None
