"""One id per byte: no training, no vocabulary to lose, and sequences four times as long as BPE's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from framework.tokenizers.byte_level import ByteLevelTokenizer
from framework.tokenizers.special import CHAT, number
from framework.tokenizers.text import utf8
from framework.tokenizers.vocabulary import Vocabulary


class Byte(ByteLevelTokenizer):
    """The 256 bytes of UTF-8 as ids 0 to 255, then the special tokens.

    Args:
        special_tokens: spellings, in order of their ids from 256 on; `<|endoftext|>` must be among them.
    """

    opens_with = "Byte"

    def __init__(self, special_tokens: tuple[str, ...] = CHAT) -> None:
        self._vocabulary = Vocabulary({bytes([byte]): byte for byte in range(256)}, number(special_tokens, 256), pattern="")

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return [np.frombuffer(utf8(text), dtype=np.uint8).astype(np.uint32) for text in texts]

    def extended(self, new_tokens: Sequence[str]) -> Byte:
        return Byte(tuple(self.vocabulary.extended(new_tokens).special_tokens))
