"""Byte-level BPE trained on the corpus at hand, run by tiktoken.

Training documents (or a saved tokenizer) and text flow in, ids flow out. Must not know datasets, chats or batches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from framework.errors import TokenizerError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.byte_level import ByteLevelTokenizer
from framework.tokenizers.encoder import Encoder
from framework.tokenizers.files import cache_file, tokenizer_file, write_json
from framework.tokenizers.patterns import SPLIT_PATTERNS, split_pattern
from framework.tokenizers.special import CHAT, EOS, number
from framework.tokenizers.training import train
from framework.tokenizers.vocabulary import Vocabulary


class BPE(ByteLevelTokenizer):
    """Byte-pair encoding: with `path` one that was saved, with `vocab_size` one that `prepare` trains on the training documents.

    Ids: the 256 bytes, then the merges in the order they were learned, then the special tokens.

    Args:
        vocab_size: number of ids to train, the bytes and the special tokens included.
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
        if (vocab_size is None) == (path is None):
            raise TokenizerError("BPE takes either vocab_size, to train a tokenizer, or path, to open one.")
        if path is not None and (pattern, tuple(special_tokens), trainer) != ("gpt4", CHAT, "rustbpe"):
            raise TokenizerError(f"the tokenizer at {path} has its own pattern, special tokens and trainer; give BPE its path alone.")
        number(special_tokens, first_id=256)  # a mistake in them shows here, not after the training
        self._vocab_size = vocab_size
        self._pattern = split_pattern(pattern)
        self._special_tokens = tuple(special_tokens)
        self._trainer: Literal["rustbpe", "tokenizers"] = trainer
        self._vocabulary = None if path is None else Vocabulary.read(tokenizer_file(Path(path)))

    @staticmethod
    def train(
        texts: Iterable[str],
        vocab_size: int,
        pattern: str = "gpt4",
        special_tokens: tuple[str, ...] = CHAT,
        trainer: Literal["rustbpe", "tokenizers"] = "rustbpe",
    ) -> BPE:
        """A tokenizer trained on texts, read once; the arguments and errors are those of the class and of `training.train`."""
        tokenizer = BPE(vocab_size, None, pattern, special_tokens, trainer)
        if tokenizer._pattern not in SPLIT_PATTERNS.values():
            _check_engines_agree(pattern)
        tokenizer._vocabulary = train(texts, vocab_size, tokenizer._pattern, special_tokens, trainer)
        return tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        if self._vocabulary is None:
            raise TokenizerError(
                f"this BPE of {self._vocab_size} ids is not trained yet: use what its prepare(...) returns, or train one with "
                "`framework train-tokenizer` and give its path."
            )
        return self._vocabulary

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.encode(text).tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return self._encoder.encode_batch(texts)

    def extended(self, new_tokens: Sequence[str]) -> BPE:
        extended = BPE(vocab_size=self.vocab_size + len(new_tokens), special_tokens=(EOS,))
        extended._vocabulary = self.vocabulary.extended(new_tokens)
        return extended

    def prepare(self, documents: Callable[[], Iterable[str]], fingerprint: str, cache: Path) -> Tokenizer:
        if self._vocab_size is None or self._vocabulary is not None:
            return self
        key = (fingerprint, self._vocab_size, self._pattern, self._special_tokens, self._trainer)
        file = cache_file(cache, "bpe", key)
        if not file.is_file():
            trained = BPE.train(documents(), self._vocab_size, self._pattern, self._special_tokens, self._trainer)
            write_json(file, trained.vocabulary.to_json())
        return BPE(path=file)


PROBE = "It's 12345 o'clock,\n  HTTPServer said:\r\n\r\n\tnaïve 日本語 #1!  \n end\n\n"


def _check_engines_agree(pattern: str) -> None:
    """Raises TokenizerError for a pattern by which tiktoken and Hugging Face's library split PROBE differently, or that misses a part."""
    import tokenizers

    stretches = {PROBE[start:end].encode() for start in range(len(PROBE)) for end in range(start + 2, start + 16)}
    tokens = [*(bytes([byte]) for byte in range(256)), *sorted(token for token in stretches if len(token) > 1)]
    every_piece = Vocabulary({token: rank for rank, token in enumerate(tokens)}, {EOS: len(tokens)}, pattern)
    try:
        ours = Encoder(every_piece).encode(PROBE).tolist()
        theirs = tokenizers.Tokenizer.from_str(json.dumps(every_piece.to_json())).encode(PROBE).ids
    except Exception as problem:  # either library's own complaint
        raise TokenizerError(f"the pattern {pattern!r} is no regular expression for both tiktoken and oniguruma: {problem}") from problem
    if ours != theirs:
        raise TokenizerError(
            f"the pattern {pattern!r} splits text differently in tiktoken and in Hugging Face's library, so that a saved tokenizer would "
            "give other ids: every character must match, and `$` and counts such as {1,3}+ mean different things (write \\z and {1,3})."
        )
