"""Ready examples of the built-in tokenizers that need a corpus or a path (entry points `framework.testing`)."""

from __future__ import annotations

import base64
import importlib.util
import io
import tempfile
from pathlib import Path

from framework.tokenizers.base import Tokenizer
from framework.tokenizers.bpe import BPE
from framework.tokenizers.character import Character
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.pretrained import pretrained as open_pretrained
from framework.tokenizers.sentencepiece import sentencepiece as open_sentencepiece
from framework.tokenizers.tiktoken import Tiktoken, downloaded
from framework.tokenizers.tiktoken import tiktoken_ranks as open_ranks

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


def tiktoken_ranks() -> Tokenizer:
    """A file of ranks: the bytes, and a few merges."""
    tokens = [*(bytes([byte]) for byte in range(256)), b"se", b"sea", b"sh", b" s"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ranks.tiktoken"
        file.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)))
        return open_ranks(file, ("<|end|>",))


def sentencepiece() -> Tokenizer | None:
    """A model trained on the text that keeps every space, where the library is installed."""
    if importlib.util.find_spec("sentencepiece") is None:
        return None
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.model"
        file.write_bytes(model.getvalue())
        return open_sentencepiece(file)
