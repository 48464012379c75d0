"""safetensors files a tensor at a time: what the library writes and reads, shards, and what is wrong with files and indexes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from framework.errors import CheckpointError
from framework.formats import tensor_files
from framework.formats.tensor_files import INDEX, TensorFiles, write
from framework.formats.weights import InMemory

TENSORS = {
    "b": torch.arange(12.0).reshape(3, 4),
    "a": torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "double": torch.tensor(2.5, dtype=torch.float64),
    "half": torch.ones(2, 3).half(),
    "flags": torch.tensor([True, False]),
    "none": torch.empty(0, 4),
}


def same(found: TensorFiles | dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    tensors = found if isinstance(found, dict) else {name: found.tensor(name) for name in found.names}
    return tensors.keys() == expected.keys() and all(
        torch.equal(tensor, expected[name]) and tensor.dtype == expected[name].dtype and tensor.shape == expected[name].shape
        for name, tensor in tensors.items()
    )


def test_the_library_reads_what_is_written_and_writes_what_is_read(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write(tmp_path, InMemory(TENSORS), lambda done, total: told.append((done, total)))
    assert same(load_file(tmp_path / "model.safetensors"), TENSORS) and same(TensorFiles(tmp_path), TENSORS)
    assert told[-1][0] == told[-1][1] == sum(tensor.nbytes for tensor in TENSORS.values()) and told == sorted(told)
    (tmp_path / "theirs").mkdir()
    save_file(TENSORS, tmp_path / "theirs" / "model.safetensors")
    assert same(TensorFiles(tmp_path / "theirs"), TENSORS)


def test_writing_to_a_tensor_leaves_the_file(tmp_path: Path) -> None:
    write(tmp_path, InMemory(TENSORS))
    TensorFiles(tmp_path).tensor("b").zero_()
    assert same(TensorFiles(tmp_path), TENSORS)


@pytest.mark.parametrize("most", [0, 400])
def test_large_tensors_are_mapped_and_many_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A mapping may hold a file handle; either way the values are the same, and dropping a tensor gives the handle back."""
    monkeypatch.setattr(tensor_files, "MAPPED_BYTES", 64)
    monkeypatch.setattr(tensor_files, "MOST_MAPPED", most)
    tensors = {str(number): torch.randn(30 + number) for number in range(5)}
    write(tmp_path, InMemory(tensors))
    before = len(list(Path("/proc/self/fd").iterdir()))
    files = TensorFiles(tmp_path)
    kept = {name: files.tensor(name) for name in files.names}
    held = len(list(Path("/proc/self/fd").iterdir())) - before
    assert same(files, tensors) and held == (5 if most and sys.version_info < (3, 13) else 0)
    kept.clear()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_view_is_written_as_it_looks(tmp_path: Path) -> None:
    write(tmp_path, InMemory({"turned": TENSORS["b"].T}))
    assert torch.equal(load_file(tmp_path / "model.safetensors")["turned"], TENSORS["b"].T)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write(tmp_path, InMemory(TENSORS), shard_bytes=50)
    return tmp_path


def test_shards_and_their_index(shards: Path) -> None:
    files = sorted(file.name for file in shards.glob("*.safetensors"))
    assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert all(sum(tensor.nbytes for tensor in load_file(shards / file).values()) <= 50 for file in files)
    index = json.loads((shards / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    assert index["weight_map"].keys() == TENSORS.keys() and set(index["weight_map"].values()) == set(files)
    assert same(TensorFiles(shards), TENSORS)


def change(directory: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((directory / INDEX).read_text())
    alter(index)
    (directory / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda index: index["metadata"].update(total_size=7), r"states 7 bytes in all, and its files hold"),
        (lambda index: index["weight_map"].update(a="../model.safetensors"), r"leads out of its directory, to \.\./model\.safetensors"),
        (lambda index: index["weight_map"].update(a="/etc/passwd"), "leads out of its directory"),
        (lambda index: index["weight_map"].update(extra=index["weight_map"]["a"]), "lacks the tensor extra, which"),
        (lambda index: index["weight_map"].pop("a"), "holds the tensor a, and"),
        (lambda index: index["weight_map"].update(a="model-9.safetensors"), r"model-9\.safetensors is missing"),
        (lambda index: index.pop("weight_map"), "has no weight_map"),
        (lambda index: index.update(weight_map={"a": 7}), "has no weight_map of names to files"),
    ],
)
def test_an_index_that_does_not_fit(shards: Path, alter: Callable[[dict[str, Any]], object], message: str) -> None:
    change(shards, alter)
    with pytest.raises(CheckpointError, match=message):
        TensorFiles(shards)


def test_an_index_without_a_total_is_taken(shards: Path) -> None:
    change(shards, lambda index: index.pop("metadata"))
    assert same(TensorFiles(shards), TENSORS)


def header(directory: Path, alter: Callable[[dict[str, Any]], object], extra: bytes = b"") -> None:
    file = directory / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    alter(entries)
    text = json.dumps(entries).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :] + extra)


@pytest.mark.parametrize(
    "alter",
    [
        lambda entries: entries["b"].update(shape=[3, 5]),
        lambda entries: entries["b"].update(data_offsets=[0, 48]),
        lambda entries: entries["b"].update(data_offsets=[10**12, 10**12 + 48]),
        lambda entries: entries["b"].update(dtype="F99"),
        lambda entries: entries.pop("b"),
        lambda entries: entries.update(more={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
    ],
)
def test_a_header_that_does_not_fit_its_file(tmp_path: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    write(tmp_path, InMemory(TENSORS))
    header(tmp_path, alter)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        TensorFiles(tmp_path)


def test_lengths_that_lie(tmp_path: Path) -> None:
    write(tmp_path, InMemory(TENSORS))
    whole = (tmp_path / "model.safetensors").read_bytes()
    for content in (whole[:-1], whole + b"\0", (2**62).to_bytes(8, "little") + whole[8:], b"", b"\0" * 8, whole[:4]):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
            TensorFiles(tmp_path)


def test_a_type_that_is_not_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds tensors of the type F8_E4M3; those that are read: F64"):
        TensorFiles(tmp_path)
