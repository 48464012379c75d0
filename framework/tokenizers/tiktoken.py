"""tiktoken's published encodings by name (GPT-2's, GPT-4's and GPT-4o's vocabularies), and files of ranks in its form.

A name flows in and the vocabulary comes from tiktoken, which downloads it once; or a file flows in. Must not know training.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import tiktoken
from numpy.typing import NDArray

from framework.errors import TokenizerError
from framework.tokenizers.base import Tokenizer
from framework.tokenizers.byte_level import ByteLevelTokenizer
from framework.tokenizers.encoder import Encoder
from framework.tokenizers.hugging_face import HuggingFace
from framework.tokenizers.patterns import SPLIT_PATTERNS, split_pattern
from framework.tokenizers.vocabulary import Vocabulary

Name = Literal["gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base", "cl100k", "o200k"]

NICKNAMES = {"cl100k": "cl100k_base", "o200k": "o200k_base"}
PATTERNS = {"gpt2": "gpt2", "r50k_base": "gpt2", "p50k_base": "gpt2", "cl100k_base": "gpt4", "o200k_base": "gpt4o"}
HOST = "https://openaipublic.blob.core.windows.net/"


class Tiktoken(ByteLevelTokenizer):
    """One of tiktoken's encodings; the ids are tiktoken's own, `<|endoftext|>` ends documents and nothing begins them.

    Args:
        name: gpt2, r50k_base, p50k_base, cl100k_base (GPT-4) or o200k_base (GPT-4o).
    """

    def __init__(self, name: Name = "gpt2") -> None:
        self._vocabulary = _load(NICKNAMES.get(name, name))

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.encode(text).tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return self._encoder.encode_batch(texts)


def tiktoken_ranks(
    path: Path,
    special_tokens: tuple[str, ...],
    pattern: str = "gpt4",
    eos_token: str | None = None,
    bos_token: str | None = None,
) -> Tokenizer:
    """The tokenizer of a file of ranks (`.tiktoken`, Llama 3's `tokenizer.model`): on each line a token in base64 and its id.

    Args:
        path: the file.
        special_tokens: spellings, in order; their ids follow the ranks, which is what the file leaves to say.
        pattern: how text splits before merging: gpt2, gpt4 (Llama 3's too), gpt4o, or a regular expression.
        eos_token: the special token that ends a document; null: the first.
        bos_token: the special token that begins every prompt; null: nothing does.

    Raises:
        TokenizerError: the file is missing, damaged, or no such file.
    """
    path = Path(path)
    ranks = _ranks(path)
    names = {"eos_token": eos_token or next(iter(special_tokens), ""), **({"bos_token": bos_token} if bos_token else {})}
    if unknown := sorted(set(names.values()) - set(special_tokens)):
        raise TokenizerError(f"{unknown[0]!r} is none of the special tokens {', '.join(special_tokens) or '(none)'} for {path}.")
    first = max(ranks.values()) + 1
    content = Vocabulary(ranks, {token: first + index for index, token in enumerate(special_tokens)}, split_pattern(pattern)).to_json()
    return HuggingFace.of(content, {**names, "add_bos_token": bos_token is not None}, str(path))


def _ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
            if len(ranks) < number or int(rank) < 0:
                raise ValueError("a token twice, or an id below 0")
    except OSError as problem:
        raise TokenizerError(f"{path} cannot be read: {problem.strerror}.") from problem
    except ValueError as problem:
        raise TokenizerError(
            f"{path} is no file of tiktoken's ranks: line {number} is no token in base64 and an id ({problem})."
        ) from problem
    if not ranks:
        raise TokenizerError(f"{path} is no file of tiktoken's ranks: it is empty.")
    return ranks


def downloaded(name: Name) -> bool:
    """Whether tiktoken has the vocabulary on this machine already, so that it loads without a network."""
    return not _missing(NICKNAMES.get(name, name))


def _load(name: str) -> Vocabulary:
    if name not in PATTERNS:
        raise TokenizerError(f"tiktoken has no encoding {name!r} that works here; there are {', '.join(PATTERNS)}.")
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as problem:  # a network's errors, a full disk's, a wrong hash: all come from below tiktoken's door
        raise TokenizerError(
            f"tiktoken cannot load the vocabulary of {name} ({type(problem).__name__}): it downloads {' and '.join(_files(name))} once. "
            f"Without a network, set TIKTOKEN_CACHE_DIR to a directory that holds it as {' and '.join(map(_key, _files(name)))}."
        ) from problem
    special_ids = sorted((encoding.encode_single_token(token), token) for token in encoding.special_tokens_set)
    ordinary = (token_id for token_id in range(encoding.n_vocab) if not encoding.is_special_token(token_id))
    ranks = {}
    for token_id in ordinary:
        try:
            ranks[encoding.decode_single_token_bytes(token_id)] = token_id
        except KeyError:
            continue  # an id that no token has
    return Vocabulary(ranks, {token: token_id for token_id, token in special_ids}, SPLIT_PATTERNS[PATTERNS[name]])


def _files(name: str) -> list[str]:
    if name == "gpt2":
        return [f"{HOST}gpt-2/encodings/main/{file}" for file in ("vocab.bpe", "encoder.json")]
    return [f"{HOST}encodings/{name}.tiktoken"]


def _key(url: str) -> str:
    """The name under which tiktoken caches what it downloads."""
    return hashlib.sha1(url.encode()).hexdigest()


def _missing(name: str) -> list[str]:
    default = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR") or default
    return [url for url in _files(name) if not (Path(folder) / _key(url)).is_file()]
