"""One id per character of the training documents: the smallest vocabulary that reads well, for small corpora (nanoGPT's shakespeare-char).

Training documents (or a saved tokenizer) and text flow in, ids flow out. Must not know datasets or batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework.errors import TokenizerError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.files import cache_file, read_json, tokenizer_file, write_json, write_tokenizer
from framework.tokenizers.special import EOS, PAD, added_tokens, number, number_new, tokenizer_config
from framework.tokenizers.text import utf8, well_formed


class Character(Tokenizer):
    """The characters of the training documents in Unicode order as ids from 0, then the special tokens.

    `prepare` learns the characters; there is no id for an unknown one: `encode` raises TokenizerError naming it.

    Args:
        path: a model directory, or the tokenizer.json that was saved; without it `prepare` learns.
        special_tokens: spellings of the last ids, in order; `<|endoftext|>` must be among them.
    """

    def __init__(self, path: Path | None = None, special_tokens: tuple[str, ...] = (EOS,)) -> None:
        self._characters: str | None = None
        self._special_spellings = tuple(special_tokens)
        if path is not None:
            if self._special_spellings != (EOS,):
                raise TokenizerError(f"the tokenizer at {path} has its own special tokens; give Character its path alone.")
            self._characters, self._special_spellings = _read(tokenizer_file(Path(path)))
        number(self._special_spellings, first_id=0)

    @property
    def characters(self) -> str:
        """The characters in the order of their ids."""
        if self._characters is None:
            raise TokenizerError("this Character tokenizer knows no characters yet: use what its prepare(...) returns, or give its path.")
        return self._characters

    @property
    def vocab_size(self) -> int:
        return len(self.characters) + len(self._special_spellings)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return number(self._special_spellings, len(self.characters))

    @property
    def eos_id(self) -> int:
        return self.special_tokens[EOS]

    @property
    def pad_id(self) -> int:
        return self.special_tokens.get(PAD, self.eos_id)

    @cached_property
    def _id_of(self) -> NDArray[np.int64]:
        """Id by code point, -1 for a character that is none of ours."""
        table = np.full(0x110000, -1, dtype=np.int64)
        table[[ord(character) for character in self.characters]] = np.arange(len(self.characters))
        return table

    def _encode(self, text: str) -> NDArray[np.uint32]:
        ids = self._id_of[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)]
        if ids.size and ids.min() < 0:
            position = int(np.argmin(ids))
            raise TokenizerError(
                f"the character {text[position]!r} (U+{ord(text[position]):04X}) at position {position} is none of the "
                f"{len(self.characters)} in the training documents; train on text that has it, or use Byte or BPE."
            )
        return ids.astype(np.uint32)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text).tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return [self._encode(text) for text in texts]

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"id {token_id} is outside this tokenizer's vocabulary of {self.vocab_size} ids.")
        return utf8([*self.characters, *self._special_spellings][token_id])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(["characters", self.characters, self._special_spellings]).encode()).hexdigest()

    def extended(self, new_tokens: Sequence[str]) -> Character:
        known = {**{character: index for index, character in enumerate(self.characters)}, **self.special_tokens}
        extended = Character(special_tokens=(*self._special_spellings, *number_new(new_tokens, known, self.vocab_size)))
        extended._characters = self.characters
        return extended

    def save(self, directory: Path) -> None:
        write_tokenizer(directory, self._to_json(), tokenizer_config(self.special_tokens, "Character"))

    def prepare(self, documents: Callable[[], Iterable[str]], fingerprint: str, cache: Path) -> Tokenizer:
        if self._characters is not None:
            return self
        file = cache_file(cache, "characters", (fingerprint, self._special_spellings))
        if not file.is_file():
            write_json(file, Character._of(documents(), self._special_spellings)._to_json())
        return Character(path=file)

    @staticmethod
    def _of(texts: Iterable[str], special_tokens: tuple[str, ...]) -> Character:
        seen: set[str] = set()
        for text in texts:
            seen.update(well_formed(text))
        if not seen:
            raise TokenizerError("the corpus is empty: there is no text to learn characters from.")
        learned = Character(special_tokens=special_tokens)
        learned._characters = "".join(sorted(seen))
        return learned

    def _to_json(self) -> dict[str, Any]:
        """BPE without merges over characters: what Hugging Face's library has that is one id per character."""
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added_tokens(self.special_tokens),
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "unk_token": None, "vocab": {token: i for i, token in enumerate(self.characters)}, "merges": []},
        }


def _read(file: Path) -> tuple[str, tuple[str, ...]]:
    """Characters and special tokens of a tokenizer.json of the form that `save` writes."""
    content = read_json(file)
    try:
        vocabulary, specials = content["model"]["vocab"], tuple(token["content"] for token in content["added_tokens"])
        characters = "".join(sorted(vocabulary, key=vocabulary.__getitem__))
        whole = content["model"]["merges"] == [] and list(vocabulary) == list(characters) and content["pre_tokenizer"] is None
    except (KeyError, TypeError) as problem:
        raise TokenizerError(f"{file} is no Character tokenizer ({type(problem).__name__}: {problem}); train it anew.") from problem
    if not whole:
        raise TokenizerError(f"{file} is no Character tokenizer; framework.tokenizers.HuggingFace opens every tokenizer.json.")
    return characters, specials
