"""The data of a byte-level BPE tokenizer, and its one form on disk: Hugging Face's tokenizer.json.

Ranks, split pattern and special tokens flow in; JSON, merges and a fingerprint flow out (and back). Encodes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from framework.errors import TokenizerError
from framework.tokenizers.files import read_json
from framework.tokenizers.special import EOS, added_tokens, number_new

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_MODEL = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": True,  # a piece that is a token is that token, as in tiktoken
}


@dataclass(frozen=True)
class Vocabulary:
    """Which bytes merge, and into which id.

    Args:
        ranks: token bytes -> id; the lower id merges first (tiktoken's form). Holds all 256 single bytes.
        special_tokens: spelling -> id, in no text.
        pattern: regular expression that splits text before merging; empty: the text is one piece.
    """

    ranks: Mapping[bytes, int]
    special_tokens: Mapping[str, int]
    pattern: str

    def __post_init__(self) -> None:
        if len(set(self.ranks.values()) | set(self.special_tokens.values())) < len(self.ranks) + len(self.special_tokens):
            raise TokenizerError("two tokens of this vocabulary share an id.")
        if any(bytes([byte]) not in self.ranks for byte in range(256)):
            raise TokenizerError("this vocabulary lacks some of the 256 single bytes, so that not every text can be encoded.")
        for token in self.special_tokens:
            if token.encode() in self.ranks:
                raise TokenizerError(f"the special token {token!r} is an ordinary token too; give it another spelling.")

    @property
    def size(self) -> int:
        """One more than the largest id (cl100k_base and o200k_base leave some ids unused)."""
        return max(*self.ranks.values(), *self.special_tokens.values()) + 1

    def extended(self, new_tokens: Sequence[str]) -> Vocabulary:
        """With further special tokens after the last id. Raises TokenizerError for one that is there already."""
        return replace(self, special_tokens={**self.special_tokens, **number_new(new_tokens, self.special_tokens, self.size)})

    def token_bytes(self) -> list[bytes]:
        """Bytes by id; an unused id has none."""
        table = [b""] * self.size
        for token, token_id in self.ranks.items():
            table[token_id] = token
        for spelling, token_id in self.special_tokens.items():
            table[token_id] = spelling.encode()
        return table

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides the ids."""
        specials = sorted(self.special_tokens.items(), key=lambda item: item[1])
        digest = hashlib.sha256(json.dumps(["byte-level BPE", self.pattern, specials]).encode())
        for token, token_id in sorted(self.ranks.items(), key=lambda item: item[1]):
            digest.update(b"%d:%d:%b" % (token_id, len(token), token))
        return digest.hexdigest()

    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pair whose merge makes each token, in order of rank.

        A token's pair is what the lower ranks leave of its bytes. Inside a longer piece the same merges happen in the same order as
        long as none crosses the token's ends, and a token whose ends are crossed does not form: so this pair is the only one.
        Where more than two parts are left, the token forms by no merge; it is found as a whole piece only (`ignore_merges`).
        """
        pairs = []
        for token, rank in sorted(self.ranks.items(), key=lambda item: item[1]):
            if len(token) > 1:
                parts = _parts(token, self.ranks, rank)
                if len(parts) == 2:
                    pairs.append((parts[0], parts[1]))
        return pairs

    def to_json(self) -> dict[str, Any]:
        """The content of a tokenizer.json that gives the same ids."""
        vocab = {_spelling(token): token_id for token, token_id in sorted(self.ranks.items(), key=lambda item: item[1])}
        contiguous = sorted(self.special_tokens.values()) == list(range(len(vocab), self.size))
        if not contiguous:  # the reader numbers added tokens on from the vocabulary's end, unless the vocabulary holds them
            vocab |= self.special_tokens
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added_tokens(self.special_tokens),
            "normalizer": None,
            "pre_tokenizer": _pre_tokenizer(self.pattern),
            "post_processor": None,
            "decoder": _BYTE_LEVEL,
            "model": {**_MODEL, "vocab": vocab, "merges": [f"{_spelling(left)} {_spelling(right)}" for left, right in self.merges()]},
        }

    @staticmethod
    def read(file: Path) -> Vocabulary:
        """The vocabulary in a tokenizer.json of the form that `to_json` gives. Raises TokenizerError for any other."""
        content = read_json(file)
        try:
            return _from_json(content)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as problem:
            raise TokenizerError(
                f"{file} is no byte-level BPE tokenizer as saved here ({type(problem).__name__}: {problem}); "
                "framework.tokenizers.HuggingFace opens every tokenizer.json."
            ) from problem


def _parts(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """What merging with ranks below `limit` leaves of a token's bytes: the lowest rank first, the leftmost among equals."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 1:
        candidates = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        lowest = min(candidates)
        if lowest >= limit:
            break
        index = candidates.index(lowest)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    if not pattern:
        return _BYTE_LEVEL
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]}


def _from_json(content: dict[str, Any]) -> Vocabulary:
    """The inverse of `to_json`; raises KeyError, TypeError or ValueError for what this class cannot express."""
    model, before, added = content["model"], content["pre_tokenizer"], content["added_tokens"]
    special_tokens = {token["content"]: token["id"] for token in added}
    pattern = before["pretokenizers"][0]["pattern"]["Regex"] if before["type"] == "Sequence" else ""
    ranks = {bytes_of(spelling): token_id for spelling, token_id in model["vocab"].items() if spelling not in special_tokens}
    merged = [ranks[bytes_of("".join(pair.split(" ") if isinstance(pair, str) else pair))] for pair in model["merges"]]
    differences = {
        "normalizer": content["normalizer"] is not None,
        "pre_tokenizer": before != _pre_tokenizer(pattern),
        "added_tokens": added != added_tokens(special_tokens) or EOS not in special_tokens,
        "model": {key: model.get(key) for key in _MODEL} != _MODEL,
        "merges": merged != sorted(merged),  # ids must also be the order of merging
    }
    if any(differences.values()):
        raise ValueError(f"another kind of {' and '.join(key for key, differs in differences.items() if differs)}")
    return Vocabulary(ranks, special_tokens, pattern)


@cache
def _alphabet() -> tuple[str, ...]:
    """The character that GPT-2 and Hugging Face write for each byte: its own where that prints, else the next after U+00FF."""
    printing = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in printing else next(others)) for byte in range(256))


@cache
def _byte_of() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(_alphabet())}


def _spelling(token: bytes) -> str:
    return "".join(_alphabet()[byte] for byte in token)


def bytes_of(spelling: str) -> bytes:
    """The bytes that a token's spelling in GPT-2's alphabet stands for. Raises KeyError for a character outside it."""
    return bytes(_byte_of()[character] for character in spelling)
