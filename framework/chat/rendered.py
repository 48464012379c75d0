"""Ids, and which of them a model should have written: told from one tokenisation of the whole, by where its tokens end.

A text in two parts flows in, ids and a mask flow out. Must not know chats, templates or files.
"""

from __future__ import annotations

from typing import NamedTuple

from framework.tokenizers.base import Tokenizer


class Rendered(NamedTuple):
    """A text or a chat as a model reads it.

    Attributes:
        ids: all of it.
        is_reply: for each id whether it is the model's own, to be trained.
    """

    ids: list[int]
    is_reply: list[bool]

    @classmethod
    def of(cls, asked: str, reply: str, tokenizer: Tokenizer) -> Rendered:
        """Both parts as one well-formed text; a token that holds any byte of the reply is the reply's, whatever else it holds.

        Raises TokenizerError for a tokenizer that cannot tell where its tokens end.
        """
        ids = tokenizer.encode(asked + reply)
        if not asked or not reply:
            return cls(ids, [not asked] * len(ids))
        return cls(ids, (tokenizer.token_ends(asked + reply, ids) > len(asked.encode())).tolist())
