"""What every tokenizer is: text to ids and back, and a way to save itself in Hugging Face's form.

Text flows in, ids flow out. Must not know chats, networks or batches (chat.py renders roles; special ids enter only there).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framework.errors import TokenizerError


class Tokenizer(ABC):
    """Text to ids and back. User text never yields a special id."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, special ones included: every id is in [0, vocab_size)."""

    @property
    @abstractmethod
    def special_tokens(self) -> Mapping[str, int]:
        """Special token text -> id."""

    @property
    @abstractmethod
    def eos_id(self) -> int:
        """The id that ends a document."""

    @property
    def bos_id(self) -> int | None:
        """The id that begins every sequence, or None for tokenizers that put nothing in front."""
        return None

    @property
    def pad_id(self) -> int:
        """The id that fills unused positions; masks come from lengths, never from this id."""
        return self.eos_id

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no special ids, nothing added. Special tokens' spellings are encoded as ordinary text."""

    def takes_spaces(self, token: str) -> tuple[bool, bool]:
        """Whether a special token takes the whitespace before it, and behind it, out of a text (Phi 3: behind `<|end|>`)."""
        return False, False

    def encode_prompt(self, text: str) -> list[int]:
        """Ids a network is prompted with: `encode`, after exactly one BOS where the tokenizer has one."""
        ids = self.encode(text)
        return ids if self.bos_id is None else [self.bos_id, *ids]

    def encode_document(self, text: str) -> list[int]:
        """Ids of a training document: `encode_prompt`, then EOS."""
        return [*self.encode_prompt(text), self.eos_id]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """`encode` of each text, as arrays; implementations make this the fast path for whole corpora (threads, no lists)."""
        return [np.asarray(self.encode(text), dtype=np.uint32) for text in texts]

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """The bytes an id stands for; a special token stands for its spelling's bytes."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are no valid UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(token_id) for token_id in ids).decode("utf-8", errors="replace")

    def token_ends(self, text: str, ids: Sequence[int]) -> NDArray[np.int64]:
        """Where in the text's UTF-8 each token ends, in bytes, shape [len(ids)].

        Args:
            text: well-formed Unicode.
            ids: what `encode` makes of it.

        Raises:
            TokenizerError: the tokens' bytes are not the text's, so that nothing tells where they end.
        """
        pieces = [self.token_bytes(token_id) for token_id in ids]
        if b"".join(pieces) != text.encode():
            raise TokenizerError(
                f"the tokens of {text[:40]!r} do not spell it; this tokenizer cannot tell a reply's tokens from its prompt's."
            )
        return np.cumsum([len(piece) for piece in pieces], dtype=np.int64)

    def byte_lengths(self) -> NDArray[np.int64]:
        """Bytes of text each id stands for, shape [vocab_size]; special tokens count 0 (they are no text): for bits per byte."""
        lengths = np.array([len(self.token_bytes(token_id)) for token_id in range(self.vocab_size)], dtype=np.int64)
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything that decides the ids: vocabulary, merges, split pattern, special tokens."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` so that transformers' AutoTokenizer gives the same ids."""

    def extended(self, new_tokens: Sequence[str]) -> Tokenizer:
        """This tokenizer with further special tokens, whose ids follow the last one; what it encodes stays.

        Args:
            new_tokens: their spellings, in the order of their ids.

        Raises:
            TokenizerError: it has one of them already, or cannot take any.
        """
        raise TokenizerError(f"{type(self).__name__} takes no new tokens ({', '.join(new_tokens)}): leave them out.")

    def prepare(self, documents: Callable[[], Iterable[str]], fingerprint: str, cache: Path) -> Tokenizer:
        """The tokenizer ready for use; one that is yet to be trained learns from the documents and returns the trained one.

        Args:
            documents: gives the training documents' texts, afresh at each call.
            fingerprint: identifies those documents; part of the cache key.
            cache: directory where a trained tokenizer is kept and looked up.
        """
        return self
