"""Rows against the slow, obvious way: a Python list of tokens, read one by one."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from framework.batches import types
from framework.batches.packing import IGNORE, Stream
from framework.batches.shards import Shard, ShardWriter


def write(folder: Path, shards: list[list[list[int]]]) -> list[Shard]:
    """Shards of documents of ids."""
    paths = [folder / f"{number}.tokens" for number in range(len(shards))]
    for path, documents in zip(paths, shards, strict=True):
        writer = ShardWriter(path, 100_000, "")
        for ids in documents:
            writer.append(np.array(ids, dtype=np.uint32), np.array([len(ids)]))
        writer.close()
    return [Shard(path) for path in paths]


def corpus(seed: int, num_shards: int, longest: int) -> list[list[list[int]]]:
    """Documents of 1 to `longest` ids; every id of the corpus is another one."""
    draw = np.random.default_rng(seed)
    ids = iter(range(100_000))
    return [[[next(ids) for _ in range(draw.integers(1, longest + 1))] for _ in range(draw.integers(1, 12))] for _ in range(num_shards)]


class Slow:
    """The stream as a list of (id, document, is the last of its document), read one by one."""

    def __init__(self, shards: list[list[list[int]]]) -> None:
        documents = [ids for documents in shards for ids in documents]
        self.tokens = [(token, number, place == len(ids) - 1) for number, ids in enumerate(documents) for place, token in enumerate(ids)]

    def row(self, start: int, length: int) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
        read = [self.tokens[(start + place) % len(self.tokens)] for place in range(length + 1)]
        ids, targets = [token for token, _, _ in read[:-1]], [token for token, _, _ in read[1:]]
        masked = [IGNORE if last else target for (_, _, last), target in zip(read, targets, strict=False)]
        positions, documents, position, document = [], [], 0, 0
        for _, _, last in read[:-1]:
            positions.append(position)
            documents.append(document)
            position, document = (0, document + 1) if last else (position + 1, document)
        return ids, targets, masked, positions, documents


CASES = [(1, 30), (1, 3), (4, 30), (6, 3), (3, 80)]  # shards, longest document


@pytest.mark.parametrize(("num_shards", "longest"), CASES)
@pytest.mark.parametrize("length", [1, 5, 16])
def test_rows_from_every_start_equal_the_slow_way(tmp_path: Path, num_shards: int, longest: int, length: int) -> None:
    shards = corpus(num_shards + longest, num_shards, longest)
    slow, opened = Slow(shards), write(tmp_path, shards)
    starts = np.random.default_rng(0).permutation(len(slow.tokens))
    expected = [slow.row(int(start), length) for start in starts]

    plain = Stream(opened, length).rows(starts)
    assert plain.ids_BT.tolist() == [row[0] for row in expected]
    assert plain.targets_BT.tolist() == [row[1] for row in expected]
    assert plain.positions_BT is None
    assert plain.documents_BT is None

    masked = Stream(opened, length, mask_documents=True).rows(starts)
    assert masked.positions_BT is not None
    assert masked.documents_BT is not None
    assert masked.ids_BT.tolist() == [row[0] for row in expected]
    assert masked.targets_BT.tolist() == [row[2] for row in expected]
    assert masked.positions_BT.tolist() == [row[3] for row in expected]
    assert masked.documents_BT.tolist() == [row[4] for row in expected]


def test_a_ring_shorter_than_a_row_goes_round_more_than_once(tmp_path: Path) -> None:
    shards = [[[1, 2]], [[3], [4, 5, 6]]]
    rows = Stream(write(tmp_path, shards), 20, mask_documents=True).rows(np.arange(6))
    for start in range(6):
        expected = Slow(shards).row(start, 20)
        assert [field[start].tolist() for field in rows if field is not None] == [expected[0], *expected[2:]]


def test_one_row_at_a_time_is_the_same(tmp_path: Path) -> None:
    stream = Stream(write(tmp_path, corpus(0, 3, 10)), 8, mask_documents=True)
    starts = np.arange(stream.num_tokens)
    together = stream.rows(starts)
    for start in starts:
        alone = stream.rows(np.array([start]))
        assert all(np.array_equal(one[0], all_[start]) for one, all_ in zip(alone, together, strict=True))


@pytest.mark.parametrize("length", [1, 4, 7, 1000])
def test_reading_once_trains_every_token_but_the_first_once(tmp_path: Path, length: int) -> None:
    shards = corpus(1, 3, 10)
    stream, ids = Stream(write(tmp_path, shards), length), [token for token, _, _ in Slow(shards).tokens]
    rows = stream.rows_once(np.arange(0, len(ids) + 3 * length, length))
    assert rows.targets_BT[rows.targets_BT != IGNORE].tolist() == ids[1:]
    assert rows.ids_BT[rows.targets_BT != IGNORE].tolist() == ids[:-1]


def test_reading_once_with_masked_documents_in_a_stream_shorter_than_a_row(tmp_path: Path) -> None:
    stream = Stream(write(tmp_path, [[[1, 2]], [[3], [4, 5, 6]]]), 50, mask_documents=True)
    rows = stream.rows_once(np.array([0]))
    assert rows.targets_BT[0, :6].tolist() == [2, IGNORE, IGNORE, 5, 6, IGNORE]
    assert (rows.targets_BT[0, 6:] == IGNORE).all()


def test_arrays_are_int64_and_contiguous(tmp_path: Path) -> None:
    stream = Stream(write(tmp_path, corpus(0, 1, 10)), 4, mask_documents=True)
    for field in stream.rows(np.array([0, 1])):
        assert field is not None
        assert field.dtype == np.int64
        assert field.flags.c_contiguous
        assert field.flags.writeable


def test_a_stream_crosses_to_another_process(tmp_path: Path) -> None:
    stream = Stream(write(tmp_path, corpus(0, 2, 10)), 4, mask_documents=True)
    starts = np.arange(stream.num_tokens)
    before = stream.rows(starts)
    after = pickle.loads(pickle.dumps(stream)).rows(starts)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_ignore_is_the_one_of_the_batch() -> None:
    assert IGNORE == types.IGNORE
