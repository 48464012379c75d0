"""Ids to text as they come. Token ids flow in, pieces of text flow out; must not know where the ids come from."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from framework.tokenizers.base import Tokenizer


class StreamDecoder:
    """Decodes a growing sequence of ids; every piece of text is whole characters, and all pieces together are `decode` of all ids.

    A token may end inside a character: its bytes wait until the rest comes (or `flush`). Bytes that cannot become a character are
    U+FFFD as soon as that is certain.

    Args:
        tokenizer: whose ids they are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def unfinished(self) -> bool:
        """Whether bytes of a character that is not complete are waiting."""
        return bool(self._decoder.getstate()[0])

    def feed(self, ids: Iterable[int]) -> str:
        """The text that these further ids complete; often empty."""
        return self._decoder.decode(b"".join(self._tokenizer.token_bytes(token_id) for token_id in ids))

    def flush(self) -> str:
        """What is left of an unfinished character, as U+FFFD; the decoder is new afterwards."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
