"""What the tokenizers over bytes share: everything but how text becomes ids and where the vocabulary comes from.

A `Vocabulary` flows in; bytes, lengths, fingerprint and saved files flow out. Must not know tiktoken or training.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from framework.errors import TokenizerError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.files import write_tokenizer
from framework.tokenizers.special import EOS, PAD, tokenizer_config
from framework.tokenizers.vocabulary import Vocabulary


class ByteLevelTokenizer(Tokenizer):
    """A tokenizer whose ordinary ids stand for bytes, all 256 single ones among them: it encodes every text without loss."""

    opens_with = "BPE"  # the class in framework.tokenizers that opens what `save` writes

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """Ranks, special tokens and split pattern."""

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        return self.vocabulary.token_bytes()

    @property
    def vocab_size(self) -> int:
        return len(self._token_bytes)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return self.vocabulary.special_tokens

    @property
    def eos_id(self) -> int:
        return self.special_tokens[EOS]

    @property
    def pad_id(self) -> int:
        return self.special_tokens.get(PAD, self.eos_id)

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"id {token_id} is outside this tokenizer's vocabulary of {self.vocab_size} ids.")
        return self._token_bytes[token_id]

    @cached_property
    def _fingerprint(self) -> str:
        return self.vocabulary.fingerprint()

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def save(self, directory: Path) -> None:
        write_tokenizer(directory, self.vocabulary.to_json(), tokenizer_config(self.special_tokens, self.opens_with))
