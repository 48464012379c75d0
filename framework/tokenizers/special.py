"""Special tokens by convention: their spellings, their ids and how Hugging Face's files state them. Knows no vocabulary.

`<|endoftext|>` ends every document and nothing begins one; `<|pad|>` fills where it exists, else the end token does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from framework.errors import TokenizerError

EOS = "<|endoftext|>"
PAD = "<|pad|>"
CHAT = (EOS, "<|im_start|>", "<|im_end|>", PAD)


def number(special_tokens: Sequence[str], first_id: int) -> dict[str, int]:
    """Ids from `first_id` on, in order. Raises TokenizerError for repeated or empty spellings, or where `<|endoftext|>` is missing."""
    if len(set(special_tokens)) < len(special_tokens) or "" in special_tokens:
        raise TokenizerError(f"special_tokens {list(special_tokens)} must be different and not empty.")
    if EOS not in special_tokens:
        raise TokenizerError(f"special_tokens {list(special_tokens)} must contain {EOS}: it ends every document.")
    return {token: first_id + index for index, token in enumerate(special_tokens)}


def number_new(new_tokens: Sequence[str], ids: Mapping[str, int | None], first_id: int) -> dict[str, int]:
    """Ids of new special tokens, from `first_id` on, in order.

    Args:
        new_tokens: their spellings.
        ids: spelling -> id of those that the tokenizer has already, or None.
        first_id: the first free one.

    Raises:
        TokenizerError: one is there already, is given twice, or is empty.
    """
    if len(set(new_tokens)) < len(new_tokens) or "" in new_tokens:
        raise TokenizerError(f"the new tokens {list(new_tokens)} must be different and not empty.")
    for token in new_tokens:
        if ids.get(token) is not None:
            raise TokenizerError(f"the tokenizer has {token!r} already, as id {ids[token]}: leave it out of the new tokens.")
    return {token: first_id + index for index, token in enumerate(new_tokens)}


def added_tokens(special_tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    """The `added_tokens` of a tokenizer.json, by id."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": token_id, "content": token, **flags} for token, token_id in sorted(special_tokens.items(), key=lambda item: item[1])]


def tokenizer_config(special_tokens: Mapping[str, int], opens_with: str) -> dict[str, Any]:
    """The tokenizer_config.json; `framework.tokenizer` names the class that `pretrained` opens the directory with."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": EOS,
        "pad_token": PAD if PAD in special_tokens else EOS,
        "clean_up_tokenization_spaces": False,
        "framework": {"tokenizer": opens_with},
    }
