"""Any tokenizer.json, run by Hugging Face's `tokenizers` library (transformers is not needed).

A file flows in; text and ids flow both ways. Must not know chats or networks.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from framework.errors import TokenizerError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.files import CONFIG, read_json, tokenizer_file, write_tokenizer
from framework.tokenizers.special import added_tokens, number_new
from framework.tokenizers.text import well_formed
from framework.tokenizers.vocabulary import bytes_of

SPECIAL_TOKENS_MAP = "special_tokens_map.json"  # where transformers before 4.34 named the special tokens
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
PLAIN_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
FURTHER = ("additional_special_tokens", "extra_special_tokens")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")  # of added tokens
GROUP = 256  # texts given to the library at a time: bounds the memory its results take


class HuggingFace(Tokenizer):
    """A published tokenizer as transformers would run it on plain text: same ids, no special ones, nothing added.

    Tokens marked special, and those the configuration names as bos, eos, pad, ... or special, are special; other added tokens are
    vocabulary, found in text with the spaces around them that their flags say.
    A tokenizer with an unknown token gives that for what it cannot express; byte-level ones have no need to.

    Args:
        path: a model directory, or its tokenizer.json; tokenizer_config.json beside it names the special tokens.
        eos_token: spelling of the token that ends a document, where the configuration names none or another is wanted.
    """

    def __init__(self, path: Path, eos_token: str | None = None) -> None:
        file = tokenizer_file(Path(path))
        self._set(read_json(file), _config(file), str(file), eos_token)

    @classmethod
    def of(cls, content: dict[str, Any], config: dict[str, Any], source: str) -> HuggingFace:
        """The tokenizer that these two files' contents would be, made from `source`. Raises TokenizerError as opening them does."""
        made = cls.__new__(cls)
        made._set(content, {**PLAIN_CONFIG, **config}, source, None)
        return made

    def _set(self, content: dict[str, Any], config: dict[str, Any], source: str, eos_token: str | None) -> None:
        self._content, self._config, self._source = _with_stated_tokens(content, config, source), config, source
        self._roles = _roles(config)
        if eos_token is not None:
            self._roles["eos_token"] = eos_token
        self._tokenizer = _open(self._content, self._named(), self._source)
        self._special_tokens = {
            token.content: token_id for token_id, token in sorted(self._tokenizer.get_added_tokens_decoder().items()) if token.special
        }
        self._refuse_leaks()
        if "eos_token" not in self._roles:
            raise TokenizerError(f"{source} names no end-of-document token; give eos_token, one of {', '.join(self._special_tokens)}.")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_tokenizer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)  # the library's own pickle forgets that special tokens are not to be parsed out of text
        self._tokenizer = _open(self._content, self._named(), self._source)

    def _named(self) -> set[str]:
        """Spellings that the configuration calls special."""
        further = [token for name in FURTHER for token in _listed(self._config.get(name))]
        return {*self._roles.values(), *further}

    def _refuse_leaks(self) -> None:
        """Some models (Unigram) find a special token's spelling in plain text by themselves: better not opened than unsafe.

        The unknown token is what text may well become.
        """
        model = self._content["model"]
        unknown = model.get("unk_token") or (model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else None)
        for spelling, token_id in self._special_tokens.items():
            if spelling != unknown and token_id in self.encode(spelling):
                raise TokenizerError(f"{self._source}: plain text {spelling!r} would become the special id {token_id}; it cannot be used.")

    @cached_property
    def _vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return self._special_tokens

    @property
    def eos_id(self) -> int:
        return self._special_tokens[self._roles["eos_token"]]

    @cached_property
    def _bos_id(self) -> int | None:
        bos_id = self._special_tokens.get(self._roles.get("bos_token", ""))
        stated = self._config.get("add_bos_token")
        if isinstance(stated, bool):
            return bos_id if stated else None
        first = self._tokenizer.encode("a").ids[:1]  # with what the file's post-processor adds
        return bos_id if first == [bos_id] else None

    @property
    def bos_id(self) -> int | None:
        return self._bos_id

    @property
    def pad_id(self) -> int:
        return self._special_tokens[self._roles.get("pad_token", self._roles["eos_token"])]

    def takes_spaces(self, token: str) -> tuple[bool, bool]:
        found = self._tokenizer.get_added_tokens_decoder()[self._special_tokens[token]]
        return found.lstrip, found.rstrip

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(_valid(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        arrays: list[NDArray[np.uint32]] = []
        for first in range(0, len(texts), GROUP):
            group = [_valid(text) for text in texts[first : first + GROUP]]
            arrays += [
                np.array(encoding.ids, dtype=np.uint32) for encoding in self._tokenizer.encode_batch_fast(group, add_special_tokens=False)
            ]
        return arrays

    def token_ends(self, text: str, ids: Sequence[int]) -> NDArray[np.int64]:
        try:
            return super().token_ends(text, ids)
        except TokenizerError:  # one that normalizes, or puts a space in front: the library knows what each token came from
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            if encoding.ids != list(ids):
                raise
            bytes_before = np.cumsum([0, *(len(character.encode()) for character in text)])
            ends = bytes_before[[end for _, end in encoding.offsets]]
            return np.maximum.accumulate(ends)

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        """Bytes by id. Decoders that strip the first word's space are read as in the middle of a text, where they do not."""
        kinds = set(_kinds(self._content.get("decoder")))
        added = self._tokenizer.get_added_tokens_decoder()
        table = [b""] * self.vocab_size
        for token, token_id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            table[token_id] = token.encode() if token_id in added else _bytes_of_token(token, kinds)
        return table

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"id {token_id} is outside the vocabulary of {self.vocab_size} ids in {self._source}.")
        return self._token_bytes[token_id]

    @cached_property
    def _fingerprint(self) -> str:
        deciding = {key: value for key, value in self._content.items() if key not in ("truncation", "padding", "version")}
        return hashlib.sha256(json.dumps([deciding, self._roles, self.bos_id], sort_keys=True).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def extended(self, new_tokens: Sequence[str]) -> HuggingFace:
        known = {token: self._tokenizer.token_to_id(token) for token in new_tokens}
        numbered = number_new(new_tokens, known, self.vocab_size)
        content = {**self._content, "added_tokens": [*self._content.get("added_tokens", []), *added_tokens(numbered)]}
        listed = {name: [*self._config[name], *new_tokens] for name in FURTHER if isinstance(self._config.get(name), list)}
        extended = HuggingFace.of(content, {**self._config, **self._roles, **listed}, self._source)
        if any(extended.special_tokens.get(token) != token_id for token, token_id in numbered.items()):
            raise TokenizerError(
                f"{self._source} leaves some ids unused, and the tokenizers library would give the new tokens those: it takes none."
            )
        return extended

    def save(self, directory: Path) -> None:
        config = {key: value for key, value in self._config.items() if key != "auto_map"}  # names code that is not saved with it
        write_tokenizer(directory, self._content, {**config, **self._roles})


def _valid(text: str) -> str:
    return text if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text) else well_formed(text)


def _config(file: Path) -> dict[str, Any]:
    """The configuration beside a tokenizer.json, or the little that is needed."""
    found: dict[str, Any] = dict(PLAIN_CONFIG)
    for name in (SPECIAL_TOKENS_MAP, CONFIG):
        beside = file.with_name(name)
        if beside.is_file():
            found |= read_json(beside)
    return found


def _roles(config: Mapping[str, Any]) -> dict[str, str]:
    """Role -> spelling; configurations write a token as its spelling or as an object with `content`."""
    stated = {role: config.get(role) for role in ROLES}
    spelled = {role: token["content"] if isinstance(token, dict) else token for role, token in stated.items()}
    return {role: token for role, token in spelled.items() if token}


def _listed(stated: Any) -> list[str]:
    """Spellings of tokens in a list or an object of configurations: each a spelling, or an object with `content`."""
    tokens = stated.values() if isinstance(stated, dict) else stated or []
    return [token["content"] if isinstance(token, dict) else token for token in tokens]


def _with_stated_tokens(content: dict[str, Any], config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The tokenizer.json with the added tokens that the configuration states: its flags win, as transformers has it."""
    stated = config.get("added_tokens_decoder") or {}
    tokens = {token["content"]: token for token in copy.deepcopy(content.get("added_tokens", []))}
    try:
        for token_id, token in stated.items():
            flags = {flag: token.get(flag, False) for flag in FLAGS}
            tokens.setdefault(token["content"], {"id": int(token_id), "content": token["content"]}).update(flags)
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise TokenizerError(f"added_tokens_decoder in the configuration beside {source} is damaged: {problem!r}.") from problem
    return {**content, "added_tokens": sorted(tokens.values(), key=lambda token: token["id"])} if stated else content


def _open(content: dict[str, Any], special: set[str], source: str) -> tokenizers.Tokenizer:
    """The tokenizer with the named tokens special, none of them parsed out of text, nothing truncated or padded."""
    content = copy.deepcopy(content)
    content["truncation"] = content["padding"] = None
    for token in content.get("added_tokens", []):
        token["special"] = token["special"] or token["content"] in special
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as problem:  # the library raises nothing narrower
        raise TokenizerError(f"{source} is no tokenizer that the tokenizers library can open: {problem}") from problem
    unknown = sorted(token for token in special if tokenizer.token_to_id(token) is None)
    if unknown:
        raise TokenizerError(f"the configuration beside {source} names special tokens that its vocabulary lacks: {', '.join(unknown)}.")
    tokenizer.add_special_tokens(sorted(special))  # those that were in the vocabulary only
    tokenizer.encode_special_tokens = True
    return tokenizer


def _kinds(decoder: dict[str, Any] | None) -> Iterator[str]:
    """The types in a decoder, nested ones too."""
    if decoder is not None:
        yield decoder["type"]
        for part in decoder.get("decoders", []):
            yield from _kinds(part)


def _bytes_of_token(token: str, kinds: set[str]) -> bytes:
    """The bytes of an ordinary token as decoders of these types give them in the middle of a text."""
    if "ByteLevel" in kinds:
        try:
            return bytes_of(token)
        except KeyError:  # entries that fill a table up are often spelled outside the alphabet; no text yields them
            return token.encode()
    if "ByteFallback" in kinds and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    if kinds & {"Metaspace", "Replace"}:
        token = token.replace("▁", " ")
    if "WordPiece" in kinds:
        token = token[2:] if token.startswith("##") else f" {token}"
    return token.encode()
