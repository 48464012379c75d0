"""SentencePiece's vocabularies (Kudo & Richardson 2018) as tokenizer.json: pieces with scores and kinds, BPE or Unigram.

Pieces flow in, from a .model or a GGUF file; the content of a tokenizer.json that gives the same ids flows out. Must not know files.

What Hugging Face's library does otherwise than SentencePiece, and how it is met:
    its BPE merges by pair, SentencePiece's by the score of what is made: every pair that makes a piece, in the order of scores
    user-defined pieces are found before anything is merged: a split isolates them, and a piece of its own is that token
    its Unigram finds the spelling of <s> or <0x0A> in text: a split between two of its characters, where the model splits it anyway
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from framework.errors import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "▁"
HIDDEN = "\ufdd0"  # a noncharacter: no text has it


@dataclass(frozen=True)
class Pieces:
    """A vocabulary.

    Args:
        spellings: each piece, by id; ▁ for a space.
        scores: of each, the higher the earlier (BPE), or its log probability (Unigram).
        kinds: of each, NORMAL to BYTE.
        model: how text becomes pieces.
        add_prefix_space: a text begins with a space of its own.
        merge_spaces: spaces at its ends are dropped, several are one.
        charsmap: SentencePiece's table of character replacements; empty: none.
    """

    spellings: Sequence[str]
    scores: Sequence[float]
    kinds: Sequence[int]
    model: Literal["bpe", "unigram"]
    add_prefix_space: bool
    merge_spaces: bool = False
    charsmap: bytes = b""

    def __post_init__(self) -> None:
        if not len(self.spellings) == len(self.scores) == len(self.kinds):
            raise TokenizerError(f"there are {len(self.spellings)} pieces, {len(self.scores)} scores and {len(self.kinds)} kinds of them.")
        if repeated := len(self.spellings) - len(set(self.spellings)):
            raise TokenizerError(f"{repeated} of its {len(self.spellings)} pieces are there twice.")

    def of_kind(self, *kinds: int) -> list[int]:
        """The ids of pieces of these kinds."""
        return [token_id for token_id, kind in enumerate(self.kinds) if kind in kinds]

    @property
    def special(self) -> list[str]:
        """Spellings that no text becomes."""
        return [self.spellings[token_id] for token_id in self.of_kind(CONTROL, UNKNOWN)]

    def to_json(self) -> dict[str, Any]:
        """The content of a tokenizer.json that gives the same ids; nothing is added to a text."""
        defined = sorted((self.spellings[token_id] for token_id in self.of_kind(USER_DEFINED)), key=len, reverse=True)
        patterns = [re.escape(spelling) for spelling in defined]
        if self.model == "unigram" or defined:
            patterns += self._boundaries(patterns)
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        return {
            **self._json(self.spellings, patterns),
            "added_tokens": [{"id": i, "content": self.spellings[i], **flags} for i in self.of_kind(CONTROL, UNKNOWN)],
        }

    def _json(self, spellings: Sequence[str], patterns: Iterable[str]) -> dict[str, Any]:
        pattern = "|".join(patterns)
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": self._normalizers()},
            "pre_tokenizer": split if pattern else None,
            "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": self._decoders()},
            "model": self._unigram(spellings) if self.model == "unigram" else self._bpe(spellings, bool(self.of_kind(USER_DEFINED))),
        }

    def _normalizers(self) -> list[dict[str, Any]]:
        replaced = {" {2,}": " ", r"\A +| +\z": ""} if self.merge_spaces else {}
        return [
            *([{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(self.charsmap).decode()}] if self.charsmap else []),
            *({"type": "Replace", "pattern": {"Regex": pattern}, "content": content} for pattern, content in replaced.items()),
            *([{"type": "Prepend", "prepend": SPACE}] if self.add_prefix_space else []),
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        ]

    def _decoders(self) -> list[dict[str, Any]]:
        kinds: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
        kinds += [{"type": "ByteFallback"}, {"type": "Fuse"}]
        return kinds + ([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if self.add_prefix_space else [])

    @property
    def _unknown_id(self) -> int | None:
        return next(iter(self.of_kind(UNKNOWN)), None)

    def _bpe(self, spellings: Sequence[str], whole_pieces: bool) -> dict[str, Any]:
        unknown = self._unknown_id
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else spellings[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": bool(self.of_kind(BYTE)),
            "ignore_merges": whole_pieces,
            "vocab": {spelling: token_id for token_id, spelling in enumerate(spellings) if self.kinds[token_id] != UNUSED},
            "merges": self.merges(),
        }

    def _unigram(self, spellings: Sequence[str]) -> dict[str, Any]:
        vocab = [[spelling, score] for spelling, score in zip(spellings, self.scores, strict=True)]
        return {"type": "Unigram", "unk_id": self._unknown_id, "byte_fallback": bool(self.of_kind(BYTE)), "vocab": vocab}

    def merges(self) -> list[tuple[str, str]]:
        """Every pair of ordinary pieces that makes one, the best score first; of pairs that make the same, the longest left part."""
        ordinary = {self.spellings[token_id]: token_id for token_id in self.of_kind(NORMAL)}
        found = []
        for spelling, token_id in ordinary.items():
            for cut in range(len(spelling) - 1, 0, -1):
                if spelling[:cut] in ordinary and spelling[cut:] in ordinary:
                    found.append((-self.scores[token_id], token_id, -cut, (spelling[:cut], spelling[cut:])))
        return [pair for *_, pair in sorted(found)]

    def _boundaries(self, patterns: Sequence[str]) -> list[str]:
        """Expressions that match between two characters of each spelling that text must not become, where the model splits it anyway."""
        import tokenizers

        hidden = [
            spelling if self.kinds[token_id] in (NORMAL, USER_DEFINED) else f"{HIDDEN}{token_id}"
            for token_id, spelling in enumerate(self.spellings)
        ]
        without = self._json(hidden, patterns)
        without["model"]["byte_fallback"] = False
        plain = tokenizers.Tokenizer.from_str(json.dumps(without))
        spelled = [self.spellings[token_id] for token_id in self.of_kind(CONTROL, UNKNOWN, BYTE)]
        cuts = {spelling: _inner_cut(plain, spelling) for spelling in spelled if len(spelling) > 1}
        return [rf"(?<={re.escape(spelling[:cut])})(?={re.escape(spelling[cut:])})" for spelling, cut in cuts.items()]


def begins_with(token: str, token_id: int) -> dict[str, Any]:
    """The `post_processor` of a tokenizer.json that puts a token in front."""
    first = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    named = {token: {"id": token, "ids": [token_id], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": first, "pair": first + second, "special_tokens": named}


def _inner_cut(tokenizer: Any, spelling: str) -> int:
    """Where a token of this text ends inside of it; after its first character where none does."""
    ends = [end for _, end in tokenizer.encode(f"a{spelling}").offsets]
    return next((end - 1 for end in ends if 1 < end <= len(spelling)), 1)
