"""Documents to shards: deterministic, in bounded memory, resumable shard by shard. Plain numpy.

Split documents and a tokenizer flow in, a finished directory (corpus.py) flows out. Must not know batches.

A process that is killed leaves whole shards behind. The next one reads the same documents in the same order, passes over as many on
each side as those shards hold, and goes on; the result is the same to the byte, because where a shard ends depends on the documents only.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from framework.batches.cache import only_one_process
from framework.batches.corpus import INDEX, Corpus, Entry, Index, MadeFrom, Side, shard_path, write_json
from framework.batches.shards import FORMAT_VERSION, Shard, ShardWriter
from framework.batches.split import Piece, SplitDocuments
from framework.errors import DataError
from framework.tokenizers.base import Tokenizer

SHARD_TOKENS = 2**26  # 128 MiB of uint16: half a minute of encoding on two cores is what a kill can cost
BATCH_CHARACTERS = 2**22  # encoded at once: enough to keep every core busy, small beside the shards
PLAN = "plan.json"


def made_from(split: SplitDocuments, tokenizer: Tokenizer, shard_tokens: int = SHARD_TOKENS) -> MadeFrom:
    """Everything that decides a directory's content, by name."""
    return {**split.made_from, "tokenizer": tokenizer.fingerprint, "shard_tokens": shard_tokens, "format_version": FORMAT_VERSION}


def cache_key(made: MadeFrom) -> str:
    """A name for the directory: the same content, the same name."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]


def tokenize(directory: Path, split: SplitDocuments, tokenizer: Tokenizer, shard_tokens: int = SHARD_TOKENS) -> Corpus:
    """The finished directory: made now, finished where an earlier process stopped, or as it is when it is complete.

    Progress goes to stderr. A second process that wants the same directory waits for the first.

    Args:
        directory: where the shards are put.
        split: the documents.
        tokenizer: ready for use (prepared).
        shard_tokens: a shard ends with the document that brings it to this number of tokens.

    Raises:
        DataError: an empty dataset, a directory that holds shards made from something else, or one that cannot be written.
    """
    made = made_from(split, tokenizer, shard_tokens)
    try:
        if not (directory / INDEX).exists():  # what is finished may lie where nothing can be written
            with only_one_process(directory):
                if not (directory / INDEX).exists():
                    _build(directory, split, tokenizer, shard_tokens, made)
    except OSError as cause:
        raise DataError(f"cannot make token shards in {directory}: {cause.strerror or cause}.") from cause
    corpus = Corpus(directory)
    _check_same(directory, corpus.index.made_from, made)
    return corpus


def _check_same(directory: Path, found: MadeFrom, wanted: MadeFrom) -> None:
    other = [key.replace("_", " ") for key in wanted if found.get(key) != wanted[key]]
    if other:
        raise DataError(f"{directory} holds token shards made with another {', '.join(other)}; delete it or choose another directory.")


def _build(directory: Path, split: SplitDocuments, tokenizer: Tokenizer, shard_tokens: int, made: MadeFrom) -> None:
    plan = directory / PLAN
    if plan.exists():
        _check_same(directory, json.loads(plan.read_bytes()), made)
    elif any(directory.glob("*.tokens")):
        raise DataError(f"{directory} holds token shards of unknown origin; delete it or choose another directory.")
    write_json(plan, made)
    sides: dict[Side, _SideWriter] = {
        "train": _SideWriter(directory, "train", tokenizer, shard_tokens),
        "validation": _SideWriter(directory, "validation", tokenizer, shard_tokens),
    }
    try:
        for side, encoded in _encoded(_todo(split, sides), tokenizer):
            sides[side].append(encoded)
        entries = {side: writer.finish() for side, writer in sides.items()}
    except BaseException:
        for writer in sides.values():
            writer.discard()
        raise
    Index(made, tuple(entries["train"]), tuple(entries["validation"])).write(directory)
    plan.unlink()


class _Batch(NamedTuple):
    side: Side
    texts: list[str]


class _Encoded(NamedTuple):
    """Documents' tokens one after the other, and the length of each."""

    tokens: NDArray[np.uint32]
    lengths: NDArray[np.int64]


class _SideWriter:
    """The shards of one side: those that are finished already, and the one being written."""

    def __init__(self, directory: Path, side: Side, tokenizer: Tokenizer, shard_tokens: int) -> None:
        self._directory, self._side, self._tokenizer, self._shard_tokens = directory, side, tokenizer, shard_tokens
        self._entries: list[Entry] = []
        self._writer: ShardWriter | None = None
        while (path := self._next_path()).exists():
            self._entries.append(Entry(path.name, Shard(path).header))
        self.finished_documents = sum(entry.header.documents for entry in self._entries)

    def _next_path(self) -> Path:
        return shard_path(self._directory, self._side, len(self._entries))

    def append(self, encoded: _Encoded) -> None:
        tokens, lengths = encoded
        while len(lengths):
            self._writer = self._writer or ShardWriter(self._next_path(), self._tokenizer.vocab_size, self._tokenizer.fingerprint)
            ends = np.cumsum(lengths)
            room = self._shard_tokens - self._writer.tokens
            documents = int(np.searchsorted(ends, room)) + 1  # the last is the one that fills the shard
            taken = int(ends[min(documents, len(ends)) - 1])
            self._writer.append(tokens[:taken], lengths[:documents])
            tokens, lengths = tokens[taken:], lengths[documents:]
            if self._writer.tokens >= self._shard_tokens:
                self._close()

    def finish(self) -> list[Entry]:
        self._close()
        return self._entries

    def _close(self) -> None:
        if self._writer is not None:
            self._entries.append(Entry(self._writer.path.name, self._writer.close()))
            self._writer = None

    def discard(self) -> None:
        if self._writer is not None:
            self._writer.discard()


def _todo(split: SplitDocuments, sides: dict[Side, _SideWriter]) -> Iterator[Piece]:
    """The pieces no finished shard holds, with progress over all of them."""
    skip = {side: writer.finished_documents for side, writer in sides.items()}
    with tqdm(total=split.num_bytes, desc="tokenizing", unit="B", unit_scale=True, disable=None) as progress:
        for piece in split:
            progress.update(len(piece.text) if piece.text.isascii() else len(piece.text.encode()))
            if skip[piece.side]:
                skip[piece.side] -= 1
            else:
                yield piece


def _batches(pieces: Iterable[Piece]) -> Iterator[_Batch]:
    """Texts of one side gathered into batches; the order within a side is kept."""
    waiting: dict[Side, list[str]] = {"train": [], "validation": []}
    characters: dict[Side, int] = {"train": 0, "validation": 0}
    for side, text in pieces:
        waiting[side].append(text)
        characters[side] += len(text)
        if characters[side] >= BATCH_CHARACTERS:
            yield _Batch(side, waiting[side])
            waiting[side], characters[side] = [], 0
    for side, texts in waiting.items():
        if texts:
            yield _Batch(side, texts)


def _encoded(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Iterator[tuple[Side, _Encoded]]:
    """Batches encoded in order, while this thread reads, sums and writes (encoders give up the interpreter's lock).

    Two batches are encoded at once: the second keeps the cores busy that have nothing left of the first.
    """
    pending: deque[tuple[Side, Future[_Encoded]]] = deque()
    with ThreadPoolExecutor(max_workers=2) as encoder:
        for side, texts in _batches(pieces):
            pending.append((side, encoder.submit(encode_documents, tokenizer, texts)))
            if len(pending) > 3:  # bounded: memory does not grow with the corpus
                side, future = pending.popleft()
                yield side, future.result()
        for side, future in pending:
            yield side, future.result()


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> _Encoded:
    """`tokenizer.encode_document` of each text, by its fast path for many."""
    front = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], dtype=np.uint32)
    end = np.array([tokenizer.eos_id], dtype=np.uint32)
    encoded = tokenizer.encode_batch(texts)
    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64) + len(front) + 1
    return _Encoded(np.concatenate([part for ids in encoded for part in (front, ids, end)]), lengths)
