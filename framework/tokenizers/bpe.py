"""Byte-level BPE trained on the corpus at hand, run by tiktoken.

Training documents (or a saved tokenizer) and text flow in, ids flow out. Must not know datasets, chats or batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from framework.errors import TokenizerError
from framework.tokenizers.byte_level import ByteLevelTokenizer
from framework.tokenizers.encoder import Encoder
from framework.tokenizers.files import tokenizer_file, write_json
from framework.tokenizers.patterns import split_pattern
from framework.tokenizers.special import CHAT, number
from framework.tokenizers.training import train
from framework.tokenizers.vocabulary import Vocabulary


class BPE(ByteLevelTokenizer):
    """Byte-pair encoding: with `path` one that was saved, with `vocab_size` one that `prepare` trains on the training documents.

    Ids: the 256 bytes, then the merges in the order they were learned, then the special tokens.

    Args:
        vocab_size: number of ids, bytes and special tokens included.
        path: a model directory, or the tokenizer.json that was saved; then nothing else is given.
        pattern: how text splits before merging: gpt2, gpt4 or gpt4o, or a regular expression that tiktoken and oniguruma read alike.
        special_tokens: spellings of the last ids, in order; `<|endoftext|>` must be among them.
        trainer: what trains: rustbpe (about four times as fast) or tokenizers.
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        path: Path | None = None,
        pattern: str = "gpt4",
        special_tokens: tuple[str, ...] = CHAT,
        trainer: Literal["rustbpe", "tokenizers"] = "rustbpe",
    ) -> None:
        self._vocabulary: Vocabulary | None = None
        if (vocab_size is None) == (path is None):
            raise TokenizerError("BPE takes either vocab_size, to train a tokenizer, or path, to open one.")
        if path is not None:
            if (pattern, special_tokens, trainer) != ("gpt4", CHAT, "rustbpe"):
                raise TokenizerError(f"BPE from {path} has its pattern and special tokens already; give path alone.")
            self._vocabulary = Vocabulary.read(tokenizer_file(path))
        self._vocab_size = vocab_size
        self._pattern = split_pattern(pattern)
        self._special_tokens = tuple(special_tokens)
        self._trainer: Literal["rustbpe", "tokenizers"] = trainer
        number(self._special_tokens, 256)  # a mistake in them shows here, not after the training
        self._encoder: Encoder | None = self._vocabulary and Encoder(self._vocabulary)
