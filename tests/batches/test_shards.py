"""The shard format: what is written comes back, and damage of any kind is seen."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from framework.batches.shards import HEADER_BYTES, Shard, ShardWriter, token_dtype
from framework.errors import DataError, TokenizerError

FINGERPRINT = "ab" * 32


def write(path: Path, documents: list[list[int]], vocab_size: int = 1000) -> Shard:
    writer = ShardWriter(path, vocab_size, FINGERPRINT)
    for document in documents:
        writer.append(np.array(document, dtype=np.uint32), np.array([len(document)]))
    writer.close()
    return Shard(path)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    shard = write(tmp_path / "a.tokens", [[1, 2, 3], [999], [4, 5]])
    assert shard.tokens.tolist() == [1, 2, 3, 999, 4, 5]
    assert shard.ends.tolist() == [3, 4, 6]
    header = shard.header
    assert (header.tokens, header.documents, header.vocab_size, header.max_id, header.tokenizer) == (6, 3, 1000, 999, FINGERPRINT)
    shard.verify()
    assert [file.name for file in tmp_path.iterdir()] == ["a.tokens"]


def test_the_header_can_be_read_by_eye(tmp_path: Path) -> None:
    head = write(tmp_path / "a.tokens", [[1]]).path.read_bytes()[:HEADER_BYTES]
    assert head[:8] == b"FWTOKENS"
    assert head.endswith(b" \n")
    assert json.loads(head[8:])["tokens"] == 1


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_535, "uint16"), (65_536, "uint16"), (65_537, "uint32"), (200_000, "uint32")])
def test_the_type_holds_the_largest_id(tmp_path: Path, vocab_size: int, dtype: str) -> None:  # TRAP-15
    shard = write(tmp_path / "a.tokens", [[0, vocab_size - 1]], vocab_size)
    assert shard.header.dtype == shard.tokens.dtype.name == token_dtype(vocab_size).name == dtype
    assert int(shard.tokens[1]) == vocab_size - 1


def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:  # TRAP-16
    writer = ShardWriter(tmp_path / "a.tokens", 256, FINGERPRINT)
    with pytest.raises(TokenizerError, match=r"id 256.*256 ids"):
        writer.append(np.array([256], dtype=np.uint32), np.array([1]))
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_nothing_is_there_before_the_shard_is_whole(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "a.tokens", 256, FINGERPRINT)
    writer.append(np.array([1, 2], dtype=np.uint32), np.array([2]))
    assert not (tmp_path / "a.tokens").exists()
    writer.close()
    assert (tmp_path / "a.tokens").exists()


@pytest.mark.parametrize("keep", [0, 5, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 7, -1])
def test_a_truncated_shard_is_named_with_the_fix(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.tokens", [[1, 2, 3]] * 10).path
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.tokens.*delete .* and tokenize again") as caught:
        Shard(path)
    assert "\n" not in str(caught.value)


def test_a_longer_shard_a_missing_one_and_another_file_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", [[1, 2, 3]]).path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"a\.tokens is truncated or altered"):
        Shard(path)
    with pytest.raises(DataError, match=r"cannot read shard .*b\.tokens: No such file"):
        Shard(tmp_path / "b.tokens")
    (tmp_path / "c.tokens").write_bytes(b"GGUF" * 1000)
    with pytest.raises(DataError, match=r"c\.tokens is no token shard"):
        Shard(tmp_path / "c.tokens")


def test_every_flipped_bit_of_the_payload_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", [[1, 2, 3], [4, 5]]).path
    whole = path.read_bytes()
    for place in range(HEADER_BYTES, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.Random(place).randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="altered"):
            Shard(path).verify()


def test_another_format_version_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", [[1]]).path
    path.write_bytes(path.read_bytes().replace(b'"format_version": 1', b'"format_version": 9'))
    with pytest.raises(DataError, match="format version 9, this framework reads 1"):
        Shard(path)


def test_a_shard_crosses_to_another_process_as_its_path(tmp_path: Path) -> None:
    shard = write(tmp_path / "a.tokens", [[7] * 100_000])
    assert len(shard.tokens) == 100_000  # mapped before it is sent
    sent = pickle.dumps(shard)
    assert len(sent) < 1000
    assert pickle.loads(sent).tokens.tolist() == shard.tokens.tolist()
